"""`flask doctor` sends one of each signal, and tells the truth about what arrived."""

from __future__ import annotations

import re
from typing import Any

from . import servers
from .processes import eventually, free_port
from .service import Service


def _findings(said: str) -> dict[str, str]:
    """The report, by signal; log lines between its lines are not of it."""
    found = {}
    for line in said.splitlines():
        if not line.startswith("{") and line.strip():
            signal = re.split(r"\s{2,}", line.strip())[0]
            found[signal] = line
    return found


def test_all_is_well_with_everything_up(small: Service, bugsink: servers.Bugsink) -> None:
    """A running service, a database, a cache, a Sentry: exit code 0, and the event is there."""
    inbox = bugsink.inbox()
    with (
        servers.postgres() as postgres,
        servers.redis() as redis,
        small.migrated(postgres.database("doctor")) as url,
    ):
        environment: dict[str, Any] = {
            "DATABASE_URL": url,
            "REDIS_URL": redis.url,
            "SENTRY_DSN": inbox.dsn,
            "ENVIRONMENT": "staging",
        }
        with small.serving(staged=False, **environment) as service:
            ports: dict[str, Any] = {"PORT": str(service.port), "METRICS_PORT": str(service.metrics_port)}
            code, out, err = small.flask("doctor", **environment, **ports)
        assert code == 0, out + err
        findings = _findings(out)
        assert findings.keys() >= {"logs", "metrics", "errors"}, out
        assert "health of database" in out
        assert "health of cache" in out
        (event,) = eventually(inbox.events, "the doctor's event")
        assert event["event_id"].replace("-", "") in out
        assert event["environment"] == "staging"


def test_what_is_down_is_named_with_what_to_set(small: Service) -> None:
    """Exit code 1, the variable to look at, no secret and no traceback."""
    code, out, err = small.flask(
        "doctor",
        SENTRY_DSN=f"http://hiddenkey@127.0.0.1:{free_port()}/1",
        REDIS_URL=f"redis://:hiddenpw@127.0.0.1:{free_port()}/0",
        DATABASE_URL=f"sqlite:///{small.database}",
        PORT=str(free_port()),
        METRICS_PORT=str(free_port()),
    )
    assert code == 1, out + err
    findings = _findings(out)
    assert "SENTRY_DSN" in findings["errors"]
    assert "health of cache" in out
    assert "hidden" not in out + err
    assert "Traceback" not in out + err


def test_what_is_off_is_no_fault(small: Service) -> None:
    """Without a DSN the doctor says what would switch errors on, and is content."""
    code, out, err = small.flask(
        "doctor",
        DATABASE_URL=f"sqlite:///{small.database}",
        PORT=str(free_port()),
        METRICS_PORT=str(free_port()),
    )
    assert code == 0, out + err
    assert "SENTRY_DSN" in _findings(out)["errors"]


def test_something_that_is_no_sentry_is_found_out(small: Service) -> None:
    """An address that answers, but is somebody else: here, the service itself."""
    with small.serving() as service:
        code, out, _ = small.flask(
            "doctor",
            SENTRY_DSN=f"http://hiddenkey@127.0.0.1:{service.port}/1",
            DATABASE_URL=f"sqlite:///{small.database}",
            PORT=str(service.port),
            METRICS_PORT=str(service.metrics_port),
        )
    assert code == 1
    assert "SENTRY_DSN" in _findings(out)["errors"]
