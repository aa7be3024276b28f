"""Health: liveness, readiness, startup, and the state of each dependency.

Checks run side by side in threads of their own with a limit, and what they found is kept for a
moment: probes cost nothing, and a dependency that hangs cannot hang a probe.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import Lock, Thread
from urllib.request import urlopen

from flask import Flask
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry, Gauge

from ..settings import Settings
from ..workers.memory import is_draining

LIMIT_SECONDS = 0.8
"""How long a probe waits for the checks: less than who asks waits for the probe."""

KEEP_SECONDS = 1.0
"""How long an answer is used again."""

WATCH_SECONDS = 10.0
"""How often a worker looks by itself, so that dependency_up is fresh where nobody probes."""

_log = logging.getLogger(__name__)


class Check:
    """A dependency, and what was last seen of it."""

    def __init__(self, name: str, look: Callable[[], None], critical: bool) -> None:
        self.name = name
        self.critical = critical
        self.duration = 0.0
        self.reason: str | None = None
        """Why it is not healthy: an exception's type, whose text may hold a secret."""
        self._look = look
        self._thread = Thread()

    @property
    def healthy(self) -> bool:
        return self.reason is None

    def begin(self) -> None:
        """Look again, unless the last look still hangs."""
        if not self._thread.is_alive():
            self._answer: tuple[float, str | None] = (LIMIT_SECONDS, "no answer in time")
            self._began = time.monotonic()
            # A look that hangs must not keep the process from ending.
            self._thread = Thread(target=self._run, name=f"check-{self.name}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        reason = None
        try:
            self._look()
        except Exception as error:
            reason = type(error).__name__
        took = time.monotonic() - self._began
        if took < LIMIT_SECONDS:
            self._answer = (took, reason)

    def end(self) -> None:
        """Wait for the answer, but not for one that would come too late."""
        waited = time.monotonic() - self._began
        self._thread.join(max(0.0, LIMIT_SECONDS - waited))
        self.duration, self.reason = self._answer


class Health:
    """What the service depends on, and whether it is ready."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.started = False
        self._resource = settings.resource
        self._checks: list[Check] = []
        self._looking = Lock()
        self._looked = -KEEP_SECONDS
        self._up = Gauge(
            "dependency_up",
            "Whether a dependency answers: 1 or 0. Without a critical one nothing is ready.",
            ["dependency", "critical"],
            multiprocess_mode="livemostrecent",
            registry=registry,
        )

    def add_check(self, name: str, look: Callable[[], None], *, critical: bool) -> None:
        """Watch a dependency. `look` returns if it is well and raises if it is not."""
        self._checks.append(Check(name, look, critical))

    def startup_done(self) -> None:
        """The service's start-up work is over: `/health/startup` and readiness may answer 200."""
        self.started = True

    def watch(self) -> None:
        """Look at the dependencies in the background for as long as the process lives."""

        def run() -> None:
            while True:
                # Where no thread can be had, the next look may have one.
                with suppress(Exception):
                    self.look()
                time.sleep(WATCH_SECONDS)

        if self._checks:
            Thread(target=run, name="health-watch", daemon=True).start()

    def look(self) -> list[Check]:
        """The checks, at most KEEP_SECONDS old. Takes at most LIMIT_SECONDS."""
        with self._looking:
            if time.monotonic() - self._looked >= KEEP_SECONDS:
                for check in self._checks:
                    check.begin()
                for check in self._checks:
                    was_healthy = check.healthy
                    check.end()
                    self._up.labels(check.name, str(check.critical).lower()).set(check.healthy)
                    if check.healthy is not was_healthy:
                        _log_change(check)
                self._looked = time.monotonic()
        return self._checks

    def is_ready(self) -> bool:
        return (
            self.started
            and not is_draining()
            and all(check.healthy for check in self.look() if check.critical)
        )

    def picture(self) -> tuple[dict[str, object], int]:
        """`/health`: names and states, no addresses and no exception's text."""
        checks = self.look()
        well = "healthy" if all(check.healthy for check in checks) else "degraded"
        status = well if self.is_ready() else "unhealthy"
        return {
            "status": status,
            **self._resource,
            "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}Z",
            "checks": {
                check.name: {
                    "status": "healthy" if check.healthy else "unhealthy",
                    "critical": check.critical,
                    "duration_ms": round(check.duration * 1000, 1),
                }
                for check in checks
            },
        }, 503 if status == "unhealthy" else 200


def init_health(app: Flask, settings: Settings, registry: CollectorRegistry) -> None:
    """The four endpoints, and the external checks of HEALTH_DEPENDENCIES."""
    health = app.extensions["health"] = Health(settings, registry)
    for name, url, critical in settings.health_dependencies:
        health.add_check(name, partial(_ask, url), critical=critical)
    app.add_url_rule("/health", "health", health.picture)
    app.add_url_rule("/health/live", "health_live", lambda: _status(True))
    app.add_url_rule("/health/ready", "health_ready", lambda: _status(health.is_ready()))
    app.add_url_rule("/health/startup", "health_startup", lambda: _status(health.started))


def _status(well: bool) -> ResponseReturnValue:
    return ({"status": "healthy"}, 200) if well else ({"status": "unhealthy"}, 503)


def _ask(url: str) -> None:
    urlopen(url, timeout=LIMIT_SECONDS).close()  # noqa: S310 - settings hold it to http(s)


def _log_change(check: Check) -> None:
    fields = {"dependency": check.name, "critical": check.critical}
    if check.healthy:
        _log.info("dependency answers again", extra=fields)
    else:
        _log.warning("dependency fails", extra=fields | {"reason": check.reason})
