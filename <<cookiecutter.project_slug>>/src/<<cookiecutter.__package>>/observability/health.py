"""Health: liveness, readiness, startup and the whole picture.

Checks run side by side in threads of their own with a limit, and what they found is kept for a
moment: probes cost nothing, and a dependency that hangs cannot hang a probe.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.request import urlopen

from flask import Blueprint, Flask
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
    """One dependency and what was last seen of it."""

    def __init__(self, name: str, look: Callable[[], None], critical: bool) -> None:
        self.name = name
        self.critical = critical
        self.healthy = False
        self.told_healthy = True
        """What the log last said of it, which says nothing while all is well."""
        self.duration = 0.0
        self.reason: str | None = None
        """Why it is not healthy: an exception's type, whose text may hold a secret."""
        self._look = look
        self._running: threading.Thread | None = None
        self._began = 0.0
        self._is_late = False

    def begin(self) -> None:
        """Look again, unless the last look still hangs."""
        self._is_late = self._running is not None and self._running.is_alive()
        if not self._is_late:
            self._began = time.monotonic()
            self._running = threading.Thread(target=self._run, name=f"check-{self.name}")
            # A check that hangs must not keep the process from ending.
            self._running.daemon = True
            self._running.start()

    def end(self, deadline: float) -> None:
        """Wait for the look until the deadline, once; one that hangs is unhealthy."""
        assert self._running is not None
        if not self._is_late:
            self._running.join(max(0.0, deadline - time.monotonic()))
        if self._running.is_alive():
            self.healthy, self.reason = False, "no answer in time"
            self.duration = time.monotonic() - self._began

    def _run(self) -> None:
        began = time.monotonic()
        reason = None
        try:
            self._look()
        except Exception as error:
            reason = type(error).__name__
        self.duration = time.monotonic() - began
        if self.duration >= LIMIT_SECONDS:
            reason = "no answer in time"
        self.healthy, self.reason = reason is None, reason


class Health:
    """What the service depends on, and whether it is ready."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._checks: list[Check] = []
        self._started = threading.Event()
        self._looking = threading.Lock()
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
        self._started.set()

    def watch(self) -> None:
        """Look at the dependencies in the background for as long as the process lives."""

        def run() -> None:
            while True:
                self.look()
                time.sleep(WATCH_SECONDS)

        if self._checks:
            threading.Thread(target=run, name="health-watch", daemon=True).start()

    def look(self) -> list[Check]:
        """The checks, at most KEEP_SECONDS old. Takes at most LIMIT_SECONDS."""
        with self._looking:
            if time.monotonic() - self._looked >= KEEP_SECONDS:
                deadline = time.monotonic() + LIMIT_SECONDS
                for check in self._checks:
                    check.begin()
                for check in self._checks:
                    check.end(deadline)
                    self._tell(check)
                self._looked = time.monotonic()
        return self._checks

    def _tell(self, check: Check) -> None:
        self._up.labels(check.name, str(check.critical).lower()).set(check.healthy)
        if check.healthy is check.told_healthy:
            return
        check.told_healthy = check.healthy
        fields = {"dependency": check.name, "critical": check.critical}
        if check.healthy:
            _log.info("dependency answers again", extra=fields)
        else:
            _log.warning("dependency fails", extra=fields | {"reason": check.reason})

    def is_started(self) -> bool:
        return self._started.is_set()

    def is_ready(self) -> bool:
        return (
            self.is_started()
            and not is_draining()
            and all(check.healthy for check in self.look() if check.critical)
        )

    def picture(self) -> tuple[dict[str, object], int]:
        """`/health`: names and states, no addresses and no exception's text."""
        checks = self.look()
        if not self.is_ready():
            status = "unhealthy"
        else:
            status = "healthy" if all(check.healthy for check in checks) else "degraded"
        settings = self._settings
        revision = {"revision": settings.app_revision} if settings.app_revision else {}
        return {
            "status": status,
            "service": settings.otel_service_name,
            "version": settings.app_version,
            **revision,
            "environment": settings.environment,
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


def init_health(app: Flask, settings: Settings, registry: CollectorRegistry) -> Health:
    """The four endpoints, and the external checks of HEALTH_DEPENDENCIES."""
    health = Health(settings, registry)
    for name, url, critical in settings.health_dependencies:
        health.add_check(name, _http_check(url), critical=critical)
    app.extensions["health"] = health
    app.register_blueprint(_endpoints(health))
    return health


def _endpoints(health: Health) -> Blueprint:
    endpoints = Blueprint("health", __name__, url_prefix="/health")

    @endpoints.get("")
    def picture() -> ResponseReturnValue:
        return health.picture()

    @endpoints.get("/live")
    def live() -> ResponseReturnValue:
        return {"status": "healthy"}

    @endpoints.get("/ready")
    def ready() -> ResponseReturnValue:
        return _status(health.is_ready())

    @endpoints.get("/startup")
    def startup() -> ResponseReturnValue:
        return _status(health.is_started())

    return endpoints


def _status(well: bool) -> ResponseReturnValue:
    return ({"status": "healthy"}, 200) if well else ({"status": "unhealthy"}, 503)


def _http_check(url: str) -> Callable[[], None]:
    def look() -> None:
        with urlopen(url, timeout=LIMIT_SECONDS):  # noqa: S310 - settings hold it to http(s)
            pass

    return look
