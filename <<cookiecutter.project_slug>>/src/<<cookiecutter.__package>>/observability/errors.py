"""Errors: every failure reaches the log once, and Sentry once where SENTRY_DSN is set.

Whatever is logged with an exception at ERROR or above is reported, whether Flask, a feature, a
thread or a command logged it. sentry-sdk's own integrations stay off: they patch what they find and
copy scopes at every request.
"""

import atexit
import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from io import StringIO
from typing import Any

from flask import Flask, has_request_context, request

from ..settings import Settings
from .identity import Identity, current_identity, identity_of_failure
from .losses import Losses
from .redaction import scrub

Reporter = Callable[[logging.LogRecord], None]
FLUSH_SECONDS = 2.0
_REPORTED = "_reported_as_error"
_log = logging.getLogger(__name__)


def init_errors(app: Flask, settings: Settings, losses: Losses) -> Reporter | None:
    """Log what nobody caught; with a DSN, returns what sends the exceptions of log records."""
    _note_failures(app)
    threading.excepthook = _thread_failed
    sys.excepthook = _process_failed
    if settings.sentry_dsn is None:
        return None
    _init_sentry(settings.sentry_dsn.get_secret_value(), settings, losses)
    return partial(_report_once, losses)


def _note_failures(app: Flask) -> None:
    """Remember a request's exception before error handlers see it.

    With errorhandler(Exception) neither got_request_exception nor log_exception is reached. An
    `abort` with a 5xx is a failure too.
    """
    handle = app.handle_user_exception

    def noting(error: Exception) -> Any:
        if identity := current_identity():
            identity.failure = error
            # Where the exception reaches the server, Flask has dropped the request by then.
            identity.take_route(request)
        if "werkzeug.debug.preserve_context" in request.environ:
            # The debugger writes the traceback there, which is in the log.
            request.environ["wsgi.errors"] = StringIO()
        return handle(error)

    app.handle_user_exception = noting  # type: ignore[assignment, method-assign]
    app.log_exception = lambda exc_info: _log_once(exc_info[1])  # type: ignore[method-assign]


def request_ended(identity: Identity) -> None:
    """Log the exception that an error handler turned into a 5xx answer."""
    if identity.failure is not None and identity.status >= 500:
        _log_once(identity.failure)


def _log_once(failure: Any) -> None:
    """Log a request's failure, unless the code that saw it has done so."""
    identity = current_identity()
    if identity is None or identity.logged_failure is not failure:
        # All three, as logging takes an exception that is false for none.
        exc_info = (type(failure), failure, failure.__traceback__)
        _log.error("request failed", exc_info=exc_info)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread else None
        exc_info: Any = failed[:3]
        _log.error("thread failed", exc_info=exc_info, extra={"thread_name": name})


def _process_failed(kind: type[BaseException], error: BaseException, stack: Any) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, stack)
    else:
        _log.critical("command failed", exc_info=(kind, error, stack))


def _init_sentry(dsn: str, settings: Settings, losses: Losses) -> None:
    import sentry_sdk  # noqa: PLC0415 - without a DSN its import would be all cost
    from sentry_sdk.transport import HttpTransport  # noqa: PLC0415

    class CountingTransport(HttpTransport):
        """Counts the events that do not reach the server."""

        def record_lost_event(
            self, reason: str, data_category: Any = None, item: Any = None, *, quantity: int = 1
        ) -> None:
            kind = item.data_category if item else data_category
            if kind == "error" and reason not in ("sample_rate", "before_send"):
                losses.count("errors", reason)
            super().record_lost_event(reason, data_category, item, quantity=quantity)

    losses.expect("errors", "network_error", "queue_overflow", "ratelimit_backoff", "send_error")
    sentry_sdk.init(
        dsn=dsn,
        environment=settings.environment,
        release=f"{settings.otel_service_name}@{settings.app_version}",
        dist=settings.app_revision,
        sample_rate=settings.sentry_sample_rate,
        default_integrations=False,
        # Local variables hold what cannot be distinguished from secrets.
        include_local_variables=False,
        before_send=_scrubbed,
        transport=CountingTransport,
    )
    atexit.register(sentry_sdk.flush, FLUSH_SECONDS)


def _report_once(losses: Losses, record: logging.LogRecord) -> None:
    """Send the exception of a log record, unless another record had it."""
    try:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or _REPORTED in vars(error) or record.name.startswith("sentry_sdk"):
            return
        vars(error)[_REPORTED] = True
        _report(error, record)
    except Exception as failure:
        losses.count("errors", type(failure).__name__)


def _report(error: BaseException, record: logging.LogRecord) -> None:
    from sentry_sdk import get_client  # noqa: PLC0415
    from sentry_sdk.utils import event_from_exception  # noqa: PLC0415

    handled = record.name not in (_log.name, "gunicorn.error")
    event, hint = event_from_exception(
        error, get_client().options, {"type": "logging", "handled": handled}
    )
    event["level"] = "fatal" if record.levelno >= logging.CRITICAL else "error"
    event["logger"] = record.name
    get_client().capture_event(event | _circumstances(error), hint)


def _circumstances(error: BaseException) -> Any:
    """Whose request it was, and which."""
    identity = current_identity() or identity_of_failure(error)
    if identity is None:
        return {}
    event: dict[str, Any] = {"tags": {"request_id": identity.request_id}}
    if identity.trace_id:
        event["tags"]["trace_id"] = identity.trace_id
    if identity.user_id is not None:
        event["user"] = {"id": identity.user_id}
    if has_request_context():
        identity.take_route(request)
        event["request"] = {"method": request.method, "url": request.base_url}
    if identity.endpoint:
        event["transaction"] = identity.endpoint
    return event


def _scrubbed(event: Any, _: Any) -> Any:
    return {name: scrub(value) for name, value in event.items()}
