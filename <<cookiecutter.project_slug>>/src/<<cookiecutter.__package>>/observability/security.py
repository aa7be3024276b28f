"""Security events: what an attacker does, as log lines and a metric.

The names are those of OWASP's Logging Vocabulary (cheatsheetseries.owasp.org).
"""

import logging
import threading
import time
from collections import OrderedDict

from flask import Flask, current_app
from prometheus_client import CollectorRegistry, Counter

from .identity import Identity, current_identity, identity_of

OF_STATUS = {
    400: "input_validation_fail",
    401: "authn_login_fail",
    403: "authz_fail",
    404: "malicious_excess_404",  # where they are many
    429: "excess_rate_limit_exceeded",
}
SCAN_THRESHOLD = 20
"""So many 404s of one client within SCAN_SECONDS are a scan."""

SCAN_SECONDS = 60.0
_MOST_CLIENTS = 4096

_known = {"authn_login_lock", *OF_STATUS.values()}
_log = logging.getLogger(__name__)


def register_security_event(event: str) -> str:
    """Make a name of the owner's own a value of the metric's label; returns it."""
    _known.add(event)
    return event


def record_security_event(event: str, /, **fields: object) -> None:
    """Log and count a security event; the request's status then makes no second one.

    A name that is neither OWASP's here nor registered is logged as it is and counted as `_OTHER`,
    so that no caller can make a series.
    """
    if identity := current_identity():
        identity.security_event_recorded = True
    events: SecurityEvents = current_app.extensions["security_events"]
    events.record(event, fields)


class SecurityEvents:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "security_events", "Security events, by OWASP's names.", ["event"], registry=registry
        )
        for event in _known:
            self._counter.labels(event)
        self._missed: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def record(
        self, event: str, fields: dict[str, object], request: Identity | None = None
    ) -> None:
        self._counter.labels(event if event in _known else "_OTHER").inc()
        extra = {"fields": {**fields, "event_name": event}, "request": request}
        _log.warning("security event", extra=extra)

    def request_ended(self, request: Identity) -> None:
        """Record the event that the status of a request's answer stands for."""
        event = OF_STATUS.get(request.status)
        if event is None or request.security_event_recorded:
            return
        if request.status == 404 and not self._is_scan(request.remote_address or ""):
            return
        self.record(event, {}, request)

    def request_refused(self, status: int, client_ip: str | None) -> None:
        """A request that the server answers itself, as it cannot be parsed or is too large.

        It is in no request metric: nothing is known of its duration, and many would hide slow
        requests and failures among those of the service.
        """
        request = identity_of({})
        request.route, request.status, request.client_ip = "<refused>", status, client_ip
        self.record("input_validation_fail", {}, request)

    def _is_scan(self, client: str) -> bool:
        """Whether this 404 is the one that makes a scan: once per client and window."""
        now = time.monotonic()
        with self._lock:
            began, count = self._missed.pop(client, (now, 0))
            if now - began > SCAN_SECONDS:
                began, count = now, 0
            self._missed[client] = (began, count + 1)
            if len(self._missed) > _MOST_CLIENTS:
                self._missed.popitem(last=False)
        return count + 1 == SCAN_THRESHOLD


def init_security(app: Flask, registry: CollectorRegistry) -> SecurityEvents:
    """Count 400, 401, 403 and 429 answers and scans; more by `record_security_event`."""
    events = app.extensions["security_events"] = SecurityEvents(registry)
    return events
