"""Scanners, fuzzers and worse: the service answers, and nobody can make it grow."""

from __future__ import annotations

import random
import socket
import string
from collections import Counter
from collections.abc import Callable
from threading import Thread

from .load import counted
from .processes import eventually
from .service import Gunicorn, Service

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "QUERY")
PATHS = (
    "/api/v1/orders",
    "/api/v1/orders/{n}",
    "/api/v1/orders/{s}",
    "/api/v1/orders?limit={s}",
    "/api/v1/orders/{n}{n}{n}",
    "/{s}",
    "/{s}/../../etc/passwd",
    "/%2e%2e/%00/{s}",
    "/health/{s}",
    "/health/live",
    "/metrics?name[]={s}",
    "/static/{s}",
    "/static/../{s}",
    "//{s}//",
    "/{s}?{s}={s}",
    "http://elsewhere.example/{s}",
    "*",
    "/%ff%fe{s}",
    "/\u00e9\u4e2d{s}",
    "/" + "a" * 3000,
)
BODIES = (
    b"",
    b"{",
    b"null",
    b"[" * 5000,
    b'{"customer": "c", "amount": "1e999", "currency": "EUR", "source": "web"}',
    b'{"customer": "c", "amount": "NaN", "currency": "EUR", "source": "web"}',
    b'{"customer": "\\ud800", "amount": "1.00", "currency": "EUR", "source": "web"}',
    b'{"customer": "c-%d", "amount": "1.00", "currency": "X%d", "source": "s%d"}',
    b'{"customer": ["c"], "amount": {}, "currency": 1, "source": null, "x": 1}',
    b"\xff\xfe\x00binary",
    b"a=1&b=2" * 100,
)
HEADERS = (
    "X-Request-ID: {s}",
    "X-Request-ID: {s} {s}\t{s}",
    "traceparent: 00-{h}-{h16}-01",
    "traceparent: ff-{s}",
    "User-Agent: {s}",
    "Content-Type: {s}/{s}",
    "Content-Type: application/json; charset={s}",
    "Content-Type: multipart/form-data; boundary={s}",
    "Host: {s}.example",
    "Host: ",
    "Cookie: {s}={s}; session={s}",
    "X-Forwarded-For: {s}",
    "X-HTTP-Method-Override: {s}",
    "Accept: {s}",
    "Accept-Encoding: {s}",
    "Range: bytes={n}-",
    "If-None-Match: {s}",
    "Expect: {s}",
    "Transfer-Encoding: {s}",
    "Transfer-Encoding: chunked",
    "{s}: {s}",
)


class Fuzzer:
    """Makes requests out of a seed, so that a failure can be had again."""

    def __init__(self, seed: int) -> None:
        """Two fuzzers of one seed make the same requests."""
        self._random = random.Random(seed)  # noqa: S311 - nothing secret about it

    def _fill(self, text: str) -> str:
        made: dict[str, Callable[[], str]] = {
            "{n}": lambda: str(self._random.randrange(10**6)),
            "{s}": lambda: "".join(self._random.choices(string.ascii_letters + string.digits, k=12)),
            "{h}": lambda: f"{self._random.getrandbits(128):032x}",
            "{h16}": lambda: f"{self._random.getrandbits(64):016x}",
        }
        for mark, value in made.items():
            while mark in text:
                text = text.replace(mark, value(), 1)
        return text

    def request(self) -> bytes:
        """One request, as bytes on the wire."""
        pick = self._random.choice
        method = pick(METHODS) if self._random.random() < 0.8 else self._fill("{s}").upper()
        path = self._fill(pick(PATHS))
        body = pick(BODIES) if self._random.random() < 0.5 else b""
        body = body.replace(b"%d", str(self._random.randrange(10**6)).encode())
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [self._fill(pick(HEADERS)) for _ in range(self._random.randrange(4))]
        if body or method in ("POST", "PUT", "PATCH"):
            lines += [f"Content-Length: {len(body)}"]
            if self._random.random() < 0.6:
                lines += ["Content-Type: application/json"]
        head = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
        raw = head + body
        if self._random.random() < 0.03:
            raw = self._random.randbytes(200) + b"\r\n\r\n"
        if self._random.random() < 0.03:
            raw = raw[: self._random.randrange(1, len(raw))]
        return raw


def _status(port: int, data: bytes) -> int:
    """Send bytes, all at once, and return the status of the answer; 0 where there is none."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.settimeout(30)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer = answer or chunk[:64]
        except OSError:
            return 0
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 2 and words[0].startswith(b"HTTP/") else 0


class _Attacker(Thread):
    def __init__(self, port: int, seed: int, number: int) -> None:
        super().__init__(daemon=True)
        self._port, self._number, self._fuzzer = port, number, Fuzzer(seed)
        self.statuses: Counter[int] = Counter()
        self.failed: list[bytes] = []

    def run(self) -> None:
        for _ in range(self._number):
            data = self._fuzzer.request()
            status = _status(self._port, data)
            self.statuses[status] += 1
            if status >= 500:
                self.failed.append(data)


def _attack(service: Gunicorn, number: int, first_seed: int) -> Counter[int]:
    attackers = [_Attacker(service.port, first_seed + seed, number // 4) for seed in range(4)]
    for attacker in attackers:
        attacker.start()
    statuses: Counter[int] = Counter()
    for attacker in attackers:
        attacker.join(1800)
        assert not attacker.is_alive()
        # 501 is gunicorn's honest answer to a transfer encoding that it does not know.
        failed = [data for data in attacker.failed if b"Transfer-Encoding" not in data]
        assert not failed, failed[:3]
        statuses += attacker.statuses
    return statuses


def test_a_scanner_cannot_create_series(small: Service, requests_on_demand: int) -> None:
    """20,000 hostile requests: no failure of ours, no worker lost, no series beyond the first."""
    with small.serving(WEB_CONCURRENCY="2") as service:
        workers = service.workers()
        _attack(service, requests_on_demand // 10, 0)
        before = service.scrape()
        statuses = _attack(service, requests_on_demand - requests_on_demand // 10, 100)
        after = service.scrape()
        # A status on a route that none of the first tenth had is all that may be new.
        assert after.count() <= before.count() * 1.1, _new(before.count(), after.count())
        assert counted(after) > counted(before) > 0
        assert statuses[404] > 0
        assert statuses[400] > 0
        assert statuses[0] < sum(statuses.values()) / 4
        assert service.workers() == workers, "a worker died"
        assert service.get("/health/ready").status == 200
        assert service.order().status == 201
        series = after.series["http_request_duration_seconds_count"]
        methods = {dict(labels)["method"] for labels in series}
        assert methods <= {*METHODS, "CONNECT", "_OTHER"}
        assert "_OTHER" in methods
        known = {"/", "/api/v1/orders", "/api/v1/orders/<int:order_id>", "<unmatched>"}
        routes = {dict(labels)["route"] for labels in series}
        assert {route for route in routes if not route.startswith("/static")} <= known
        memory = after.total("process_resident_memory_bytes")
        assert memory < 1.5 * before.total("process_resident_memory_bytes")
        assert not service.lines(level="ERROR"), service.lines(level="ERROR")[:2]
        scans = after.total("security_events_total", event="malicious_excess_404")
        assert scans >= 1


def _new(before: int, after: int) -> str:
    return f"{before} series became {after}"


def test_what_gunicorn_refuses_itself_is_counted(small: Service) -> None:
    """As events that a panel and a rule show, not as requests, whose latency and errors they would hide."""
    refused = {
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n": 400,
        b"GET / HTTP/1.1\r\nbad header: x\r\n\r\n": 400,
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n": 414,
        b"GET / HTTP/1.1\r\nx: " + b"a" * 9000 + b"\r\n\r\n": 431,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n": 501,
    }
    with small.serving(LOG_CLIENT_IP="truncated") as service:
        for data, status in refused.items():
            assert _status(service.port, data) == status, data[:50]
        for status in set(refused.values()):
            line = service.logged(event_name="input_validation_fail", route="<refused>", status_code=status)
            assert line["client_ip"] == "127.0.0.0"
        scrape = service.scrape()
        assert scrape.total("security_events_total", event="input_validation_fail") == len(refused)
        assert counted(scrape) == 0
        assert "127.0.0.1" not in service.output.text(), "LOG_CLIENT_IP holds for gunicorn's own lines, too"
        assert not service.lines(level="ERROR")


def test_an_answer_that_gunicorn_refuses_is_a_failure_of_ours(small: Service) -> None:
    """Counted with the status that was sent, and logged."""
    with small.serving() as service:
        assert service.get("/stage/bad-header").status == 500
        assert service.logged(message="request failed")["exception"]["type"].endswith(".InvalidResponseHeader")
        assert counted(service.scrape(), route="/stage/bad-header", status="500") == 1
        assert not service.lines(event_name="input_validation_fail")


def test_the_metrics_port_cannot_be_broken_from_outside(small: Service) -> None:
    """`name[]`, other methods and nonsense are answered; the next scrape is whole."""
    with small.serving() as service:
        for seed in range(3):
            fuzzer = Fuzzer(1000 + seed)
            for _ in range(50):
                _status(service.metrics_port, fuzzer.request())
        bracket = b"GET /metrics?name[]=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert _status(service.metrics_port, bracket) in (200, 400)
        assert service.scrape().count() > 10
        assert service.workers()


def test_clients_that_say_nothing_hold_up_nobody_else(small: Service) -> None:
    """More silent connections than there are threads: the probes still answer."""
    with small.serving(WEB_CONCURRENCY="1", WEB_THREADS="4") as service:
        held = [socket.create_connection(("127.0.0.1", service.port), 10) for _ in range(8)]
        try:
            answer = eventually(lambda: service.get("/health/live"), "an answer", 30)
            assert answer.status == 200
        finally:
            for connection in held:
                connection.close()
