"""`flask doctor`: sends one of each signal and says which arrived."""

import json
import logging
import re
import sys
import uuid
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener, urlopen

import click
from flask import Flask
from prometheus_client import CollectorRegistry

from .observability import Health
from .observability.logging import Lines
from .settings import Settings

_SECONDS = 5.0
_direct = build_opener(ProxyHandler({}))
"""A proxy cannot reach this machine's own addresses."""


class Finding(NamedTuple):
    """One signal: whether it arrived or, in a word, why that is not known; and details."""

    signal: str
    arrived: bool | str
    details: str


def init_doctor(app: Flask, settings: Settings) -> None:
    """Add the command. It exits with 1 if a signal that is switched on did not arrive."""

    @app.cli.command("doctor", help="Send one of each signal and say which arrived.")
    def doctor() -> None:
        findings = [
            _logs(app.extensions["log_lines"], settings),
            _metrics(app, settings),
            _errors(settings),
            *_health(app.extensions["health"]),
        ]
        words = {True: "arrived", False: "MISSING"}
        for signal, arrived, details in findings:
            word = words[arrived] if isinstance(arrived, bool) else arrived
            click.echo(f"{signal:<20} {word:<8} {details}")
        if any(finding.arrived is False for finding in findings):
            sys.exit(1)


def _logs(lines: Lines, settings: Settings) -> Finding:
    probe = uuid.uuid4().hex
    level = logging.getLevelNamesMapping()[settings.log_level]
    logging.getLogger(__name__).log(level, "doctor", extra={"probe": probe})
    lines.flush()
    if settings.log_file is None:
        details = "a line on standard output; check that it is collected"
        return Finding("logs", not lines.lost, details)
    with settings.log_file.open("rb") as file:
        file.seek(max(0, settings.log_file.stat().st_size - 65_536))
        arrived = probe.encode() in file.read()
    return Finding("logs", arrived, f"a line in LOG_FILE, {settings.log_file}")


def _metrics(app: Flask, settings: Settings) -> Finding:
    home = settings.own_url(settings.port)
    for port in (settings.metrics_port, settings.port):
        scrape = f"{settings.own_url(port)}/metrics"
        try:
            before = _requests_counted(_get(scrape))
            _get(f"{home}/doctor")
            after = _requests_counted(_get(scrape))
        except (OSError, ValueError):
            continue
        return Finding("metrics", after > before, f"a request to {home}, counted at {scrape}")
    registry: CollectorRegistry = app.extensions["metric_registry"]
    labels = {"method": "GET", "route": "<unmatched>", "status": "404"}
    app.test_client().get("/doctor")
    counted = registry.get_sample_value("http_request_duration_seconds_count", labels)
    return Finding(
        "metrics",
        "unknown" if counted else False,
        f"no service runs on PORT {settings.port} with metrics on METRICS_PORT"
        f" {settings.metrics_port}; start it (make serve) and ask again",
    )


def _requests_counted(text: str) -> float:
    counts = re.findall(r"^http_request_duration_seconds_count\S* (\S+)", text, re.M)
    return sum(map(float, counts))


def _get(url: str) -> str:
    try:
        with _direct.open(url, timeout=_SECONDS) as answer:
            return str(answer.read().decode())
    except HTTPError:
        return ""


def _errors(settings: Settings) -> Finding:
    if settings.sentry_dsn is None:
        return Finding("errors", "off", "set SENTRY_DSN=https://KEY@HOST/PROJECT to send errors")
    from sentry_sdk.envelope import Envelope  # noqa: PLC0415 - an import that only this pays for
    from sentry_sdk.utils import Dsn  # noqa: PLC0415

    dsn = Dsn(settings.sentry_dsn.get_secret_value())
    event_id = uuid.uuid4().hex
    envelope = Envelope({"event_id": event_id})
    envelope.add_event(
        {
            "event_id": event_id,
            "level": "info",
            "message": "doctor: errors arrive",
            "environment": settings.environment,
            "release": f"{settings.otel_service_name}@{settings.app_version}",
            "platform": "python",
        }
    )
    auth = dsn.to_auth("doctor/1.0")
    headers = {"X-Sentry-Auth": auth.to_header(), "Content-Type": "application/x-sentry-envelope"}
    request = Request(auth.get_api_url(), envelope.serialize(), headers)  # noqa: S310 - checked
    where = f"{dsn.scheme}://{dsn.netloc}"
    details = f"{where} does not answer as Sentry does; check SENTRY_DSN"
    arrived = False
    try:
        with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            arrived = json.load(answer).get("id", "").replace("-", "") == event_id
    except URLError as error:
        details = f"{where}: {error.reason}; check SENTRY_DSN and that it can be reached"
    except (OSError, ValueError, AttributeError):
        pass
    return Finding("errors", arrived, f"an event, {event_id}, at {where}" if arrived else details)


def _health(health: Health) -> list[Finding]:
    return [
        Finding(
            f"health of {check.name}",
            check.healthy,
            "answers" if check.healthy else "does not answer; check its address and that it runs",
        )
        for check in health.look()
    ]
