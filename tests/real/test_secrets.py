"""What must never leave the process: sent in every way there is, and looked for where it lands."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import servers
from .processes import eventually
from .service import Gunicorn, Service, request

# Field names whose values are secret, in the spellings that code and callers use. At least what
# sentry-sdk's deny lists and OpenTelemetry's list of URL keys name.
SPELLINGS = """
password Password PASSWORD passwd pwd mysql_pwd user_password passwordHash new_password secret
clientSecret client_secret SECRET_KEY api_key apikey apiKey X-Api-Key x_api_key auth
authorization Authorization proxy-authorization Proxy-Authorization bearer_token token
accessToken access_token refresh_token id_token auth-token X-Auth-Token privatekey private_key
privateKey credentials credential session sessionid session_id PHPSESSID connect.sid
user_session csrf csrftoken csrf_token X-CSRFToken _xsrf XSRF-TOKEN cookie Cookie set_cookie
Set-Cookie aiohttp_session AWSAccessKeyId Signature sig X-Goog-Signature aws_secret_access_key
card_number cardNumber creditCard credit_card cvv cvc iban ssn SSN social_security_number
nationalId national_id passport passport_number tax_id passphrase otp pin
"""
NAMES = SPELLINGS.split()

HARMLESS = {
    "author": "Ursula",
    "max_tokens": "4096",
    "tokenizer": "byte-pair",
    "assignee": "somebody",
    "order_id": "order-4711",
    "keyboard": "qwerty",
    "description": "an order of 12 pieces for 99.50",
}


def _named() -> dict[str, str]:
    return {name: f"hush{number:03d}Zq{name.lower()[:2]}W" for number, name in enumerate(NAMES)}


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = f"{_encoded({'alg': 'HS256'})}.{_encoded({'sub': 'hidden-subject'})}.c2lnbmF0dXJlLWhpZGRlbg"

# (free text, what of it must not be seen)
SHAPED = (
    ("Authorization: Bearer mF_9.B5f-4.1JqM-hidden", "mF_9.B5f-4.1JqM-hidden"),
    ("called with bearer 9f8e7d6c5b4a39281706f5e4d3c2b1a0", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"),
    ("Authorization: Basic dXNlcjpoaWRkZW4tcGFzcw==", "dXNlcjpoaWRkZW4tcGFzcw"),
    (f"the token {JWT} expired", JWT.split(".")[2]),
    (f"payload={JWT}", JWT.split(".")[1]),
    ("charged 4111111111111111 twice", "4111111111111111"),
    ("card 5500 0000 0000 0004 declined", "5500 0000 0000 0004"),
    ("card 4012-8888-8888-1881 declined", "4012-8888-8888-1881"),
    ("amex 378282246310005.", "378282246310005"),
    ("maestro 6304000000000000000 here", "6304000000000000000"),
    ("postgresql://app:hiddenpw1@db.internal/orders failed", "hiddenpw1"),
    ("redis://:hiddenpw2@cache:6379/0 is away", "hiddenpw2"),
    ("GET https://user:hiddenpw3@partner.example/v1?x=1", "hiddenpw3"),
    ("amqp://guest:hidden%40pw4@queue//", "hidden%40pw4"),
    ("https://s3.example/o?X-Amz-Signature=hiddensig5&v=1", "hiddensig5"),
    ("https://x.example/cb?access_token=hiddentok6&state=1", "hiddentok6"),
    ("https://b.example/o?sig=hiddensig7", "hiddensig7"),
    ("https://g.example/o?X-Goog-Signature=hiddensig8", "hiddensig8"),
    ("https://a.example/o?AWSAccessKeyId=HIDDENKEY9&Signature=hiddensig9", "hiddensig9"),
    ("retry with password=hiddenpw10 please", "hiddenpw10"),
    ('body {"password": "hiddenpw11", "n": 1}', "hiddenpw11"),
    ("body {'api_key': 'hiddenkey12'}", "hiddenkey12"),
    ("Cookie: a=1; session=hiddensess13", "hiddensess13"),
    ("Set-Cookie: sid=hiddensess14; Path=/", "hiddensess14"),
    ("X-Api-Key: hiddenkey15", "hiddenkey15"),
    ("-----BEGIN PRIVATE KEY-----\nhiddenkey16\n-----END PRIVATE KEY-----", "hiddenkey16"),
    ("his ssn: 078-05-1120", "078-05-1120"),
)


def _secrets() -> list[str]:
    return [*_named().values(), *(hidden for _, hidden in SHAPED)]


@contextmanager
def _leaky(small: Service, inbox: servers.Project) -> Iterator[Gunicorn]:
    environment: dict[str, Any] = {"SENTRY_DSN": inbox.dsn, "LOG_LEVEL": "DEBUG"}
    with small.serving(**environment) as service:
        yield service


def _leak(service: Gunicorn, fields: dict[str, str], text: str, number: int) -> None:
    """Send fields as a body, as headers and in the URL, and text, to careless code."""
    query = urllib.parse.urlencode(fields)
    headers = {"Content-Type": "application/json", "X-Request-ID": f"leak-{number}"}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    one_line = text.replace("\n", " ")
    headers["X-Note"] = one_line
    body = json.dumps({"fields": fields, "text": text}).encode()
    path = f"/stage/secrets?{query}"
    answer = request(service.port, path, method="POST", headers=headers, body=body)
    assert answer.status == 500, answer.text[:300]


def test_no_secret_reaches_the_log_or_the_error_tracker(small: Service, bugsink: servers.Bugsink) -> None:
    """Fields at any depth, bodies, headers, URLs, exceptions and free text, both by name and shape."""
    inbox = bugsink.inbox()
    named = list(_named().items())
    assert len(_secrets()) >= 60
    batches = [dict(named[first : first + 10]) for first in range(0, len(named), 10)]
    texts = [text for text, _ in SHAPED]
    with _leaky(small, inbox) as service:
        for number, fields in enumerate(batches):
            _leak(service, fields, "nothing in here", number)
        for number, text in enumerate(texts):
            _leak(service, {"note": "harmless"}, text, 100 + number)
        for text in texts:
            hidden = urllib.parse.quote(text.replace("\n", " "), safe="")
            service.get(f"/nowhere?{hidden}")
            service.get(f"/stage/boom?message={hidden}")
        eventually(lambda: len(inbox.events()) >= len(batches) + 2 * len(texts), "the events arrive", 60)
    service.output.at_end()
    log, tracker = service.output.text(), inbox.raw()
    assert len(service.lines(message="request", status_code=500)) == len(batches) + 2 * len(texts)
    assert "nothing in here" in log
    assert "REDACTED" in log
    assert "REDACTED" in tracker
    leaked = {
        "log": [secret for secret in _secrets() if _seen(secret, log)],
        "tracker": [secret for secret in _secrets() if _seen(secret, tracker)],
        "stderr": [secret for secret in _secrets() if _seen(secret, service.errors.text())],
    }
    assert leaked == {"log": [], "tracker": [], "stderr": []}


def _seen(secret: str, text: str) -> bool:
    """Also as JSON or a URL would spell it."""
    spellings = {secret, json.dumps(secret)[1:-1], urllib.parse.quote(secret, safe="")}
    return any(spelling in text for spelling in spellings)


def test_what_is_harmless_stays_readable(small: Service, bugsink: servers.Bugsink) -> None:
    """A name is matched by its whole words: `author` is no `auth`, `max_tokens` no token."""
    with _leaky(small, bugsink.inbox()) as service:
        _leak(service, HARMLESS, "order 20240131123456 came from 10.0.0.1:8080 at 12:30", 1)
    service.output.at_end()
    (fields,) = service.lines(message="fields")
    assert {name: fields.get(name) for name in HARMLESS} == HARMLESS
    assert service.lines(message="order 20240131123456 came from 10.0.0.1:8080 at 12:30")


def test_a_secret_in_an_address_is_not_shown_when_the_server_is_away(small: Service, bugsink: servers.Bugsink) -> None:
    """A driver quotes its URL when it cannot connect, and the health page must not."""
    inbox = bugsink.inbox()
    secret: dict[str, Any] = {
        "DATABASE_URL": "postgresql://app:hiddenpw20@127.0.0.1:1/orders",
        "REDIS_URL": "redis://:hiddenpw21@127.0.0.1:1/0",
        "HEALTH_DEPENDENCIES": "partner=http://u:hiddenpw22@127.0.0.1:1/x?token=hiddentok23",
        "SENTRY_DSN": inbox.dsn,
        "LOG_LEVEL": "DEBUG",
    }
    with small.serving(wait=False, **secret) as service:
        eventually(lambda: service.get("/health/live").status == 200, "it lives", 60)
        assert service.get("/health/ready").status == 503
        picture = service.get("/health")
        assert service.order().status == 503
        service.get("/api/v1/orders/1")
        exposed = picture.text + str(service.scrape().series)
    service.output.at_end()
    seen = exposed + service.output.text() + service.errors.text() + inbox.raw()
    for hidden in ("hiddenpw20", "hiddenpw21", "hiddenpw22", "hiddentok23", "127.0.0.1:1/"):
        assert hidden not in seen, hidden
    key = inbox.dsn.partition("//")[2].partition("@")[0]
    assert key not in exposed + service.output.text()
