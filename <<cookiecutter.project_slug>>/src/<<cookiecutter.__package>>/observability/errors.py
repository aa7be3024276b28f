"""Errors: every failure reaches the log once, and Sentry once where SENTRY_DSN is set.

The log is the road: whatever is logged with an exception at ERROR or above is reported, whether
Flask, a feature, a thread or a command logged it. sentry-sdk's own integrations stay off: they
patch what they find and copy scopes at every request.
"""

import atexit
import logging
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flask import Flask, has_request_context, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from ..settings import Settings
from .identity import Identity, current_identity, identity_of_failure
from .losses import Losses
from .redaction import scrub

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

FLUSH_SECONDS = 2.0
_REPORTED = "_reported_as_error"
_log = logging.getLogger(__name__)


def init_errors(app: Flask, settings: Settings, losses: Losses) -> None:
    """Log what nobody caught and, with a DSN, send it."""
    _note_failures(app)
    threading.excepthook = _thread_failed
    sys.excepthook = _process_failed
    if settings.sentry_dsn is not None:
        _init_sentry(app, settings, losses)


def request_ended(identity: Identity) -> None:
    """Log the exception that an error handler turned into a 5xx answer, as Flask logs others."""
    failure = identity.failure
    if failure is not None and identity.status >= 500 and failure is not identity.logged_failure:
        _log.error("request failed", exc_info=failure)


def _note_failures(app: Flask) -> None:
    """Remember a request's exception before error handlers see it, and log none twice.

    With errorhandler(Exception) neither got_request_exception nor log_exception is reached. An
    `abort` with a 5xx is a failure too.
    """
    handle = app.handle_user_exception

    def noting(error: Exception) -> HTTPException | ResponseReturnValue:
        if identity := current_identity():
            identity.failure = error
            # Where the exception reaches the server, Flask has forgotten the request by then.
            identity.take_route(request)
        return handle(error)

    log_exception = app.log_exception

    def logging_once(failed: Any) -> None:
        identity = current_identity()
        if identity is None or identity.logged_failure is not failed[1]:
            log_exception(failed)

    app.handle_user_exception = noting  # type: ignore[assignment, method-assign]
    app.log_exception = logging_once  # type: ignore[assignment, method-assign]


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread else None
        _log.error("thread failed", exc_info=failed.exc_value, extra={"thread_name": name})


def _process_failed(
    kind: type[BaseException], error: BaseException, stack: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, stack)
    else:
        _log.critical("command failed", exc_info=error.with_traceback(stack))


def _init_sentry(app: Flask, settings: Settings, losses: Losses) -> None:
    import sentry_sdk  # noqa: PLC0415 - without a DSN its import would be all cost
    from sentry_sdk.transport import HttpTransport  # noqa: PLC0415

    losses.expect("errors", "network_error", "queue_overflow", "ratelimit_backoff", "send_error")

    class CountingTransport(HttpTransport):
        """Counts the events that do not reach the server."""

        def record_lost_event(
            self, reason: str, data_category: Any = None, item: Any = None, *, quantity: int = 1
        ) -> None:
            kind = item.data_category if item else data_category
            if kind == "error" and reason not in ("sample_rate", "before_send"):
                losses.count("errors", reason)
            super().record_lost_event(reason, data_category, item, quantity=quantity)

    assert settings.sentry_dsn is not None
    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        environment=settings.environment,
        release=f"{settings.otel_service_name}@{settings.app_version}",
        dist=settings.app_revision,
        sample_rate=settings.sentry_sample_rate,
        default_integrations=False,
        auto_enabling_integrations=False,
        # Local variables hold what cannot be told from a secret.
        include_local_variables=False,
        max_breadcrumbs=0,
        shutdown_timeout=FLUSH_SECONDS,
        before_send=_scrubbed,
        transport=CountingTransport,
    )
    for handler in [handler for handler in logging.root.handlers if isinstance(handler, Reporter)]:
        logging.root.removeHandler(handler)
    logging.root.addHandler(Reporter(app.logger.name))
    atexit.register(sentry_sdk.flush, FLUSH_SECONDS)


class Reporter(logging.Handler):
    """Sends the exceptions of log records, each once."""

    def __init__(self, flask_logger: str) -> None:
        super().__init__(logging.ERROR)
        self._uncaught = frozenset((flask_logger, "gunicorn.error", _log.name))

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if (
            not isinstance(error, BaseException)
            or record.name.startswith("sentry_sdk")
            or _REPORTED in vars(error)
        ):
            return
        vars(error)[_REPORTED] = True
        try:
            self._report(error, record)
        except Exception:
            self.handleError(record)

    def _report(self, error: BaseException, record: logging.LogRecord) -> None:
        import sentry_sdk  # noqa: PLC0415
        from sentry_sdk.utils import event_from_exception  # noqa: PLC0415

        client = sentry_sdk.get_client()
        mechanism = {"type": "logging", "handled": record.name not in self._uncaught}
        event, hint = event_from_exception(
            error, client_options=client.options, mechanism=mechanism
        )
        event["level"] = "fatal" if record.levelno >= logging.CRITICAL else "error"
        event["logger"] = record.name
        client.capture_event(event | _circumstances(error), hint)


def _circumstances(error: BaseException) -> "Event":
    """Whose request it was, and which."""
    event: Event = {}
    if identity := current_identity() or identity_of_failure(error):
        event["tags"] = {"request_id": identity.request_id}
        if identity.trace_id:
            event["tags"]["trace_id"] = identity.trace_id
        if identity.user_id is not None:
            event["user"] = {"id": identity.user_id}
        if identity.endpoint:
            event["transaction"] = identity.endpoint
    if has_request_context():
        event["transaction"] = request.endpoint or "<unmatched>"
        event["request"] = {"method": request.method, "url": request.base_url}
    return event


def _scrubbed(event: "Event", _: "Hint") -> "Event":
    fields: dict[str, Any] = event  # type: ignore[assignment]
    for name in ("exception", "extra", "logentry", "request", "tags", "user"):
        if name in fields:
            fields[name] = scrub(fields[name])
    return event
