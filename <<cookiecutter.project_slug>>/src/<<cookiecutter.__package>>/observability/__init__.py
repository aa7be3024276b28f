"""Everything that makes the service observable, behind one call.

Features import from here and from nothing below.
"""

from flask import Flask

from ..settings import Settings
from . import errors
from .errors import init_errors
from .health import Health, init_health
from .identity import (
    identify_user,
    in_request_context,
    not_a_failure,
    outgoing_headers,
    request_id,
)
from .logging import get_logger, init_logging
from .losses import Losses
from .metrics import counter, gauge, histogram, init_metrics, metrics, new_registry
from .middleware import Middleware
from .request_lines import RequestLines
from .security import init_security, record_security_event, register_security_event

__all__ = [
    "Health",
    "counter",
    "gauge",
    "get_logger",
    "histogram",
    "identify_user",
    "in_request_context",
    "init_observability",
    "metrics",
    "not_a_failure",
    "outgoing_headers",
    "record_security_event",
    "register_security_event",
    "request_id",
]


def init_observability(app: Flask, settings: Settings) -> None:
    """Switch on every signal. Call it first, so that it sees all that the app does."""
    registry = app.extensions["metric_registry"] = new_registry()
    losses = app.extensions["losses"] = Losses(registry)
    lines = app.extensions["log_lines"] = init_logging(settings, registry, losses)
    request_lines = RequestLines(settings, lines)
    lines.report = init_errors(app, settings, losses)
    requests = app.extensions["request_metrics"] = init_metrics(app, settings, registry)
    security = init_security(app, registry)
    init_health(app, settings, registry)
    observers = (errors.request_ended, security.request_ended, requests.ended, request_lines.ended)
    app.wsgi_app = Middleware(  # type: ignore[method-assign]
        app.wsgi_app, settings, losses, requests.began, observers, requests.done
    )
