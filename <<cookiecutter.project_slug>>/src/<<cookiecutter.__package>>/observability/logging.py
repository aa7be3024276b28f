"""Logs: one JSON object a line, the same schema for the service, gunicorn and every library.

The schema stands beside this module in log_line.schema.json.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Self

import structlog
from flask import Flask
from prometheus_client import CollectorRegistry, Counter

from ..settings import Settings
from ..workers.values import adder
from .encoding import LEVELS, RESERVED, Console, Fields, encode, ids_of, level_name, timestamp
from .identity import current_identity, identity_of_failure
from .lines import LineWriter
from .losses import Losses
from .redaction import described, scrub, scrub_text

SAY_LOST_SECONDS = 60.0
"""At most so often a line tells how many were lost."""

get_logger = structlog.stdlib.get_logger

# Lines that tell what another line tells already, or nothing.
_QUIETER = {"werkzeug": "WARNING", "urllib3": "WARNING", "alembic.runtime.plugins": "WARNING"}
_OF_A_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PARAMETERS = frozenset(("event", "method_name", "positional_args", "self"))


class Lines(logging.Handler):
    """Turns log records into lines."""

    def __init__(
        self, settings: Settings, registry: CollectorRegistry | None, losses: Losses | None
    ) -> None:
        super().__init__()
        self.constant: Fields = {
            "service": settings.otel_service_name,
            "environment": settings.environment,
            "version": settings.app_version,
        }
        if settings.app_revision:
            self.constant["revision"] = settings.app_revision
        self.encode: Callable[[Fields], bytes] = (
            encode if settings.log_format == "json" else Console()
        )
        self.lost = 0
        """Lines that could not be written, since that was last said."""
        self._say_after = 0.0
        self._losses = losses
        self._writer = LineWriter(
            sys.__stdout__.fileno() if sys.__stdout__ else 1,
            settings.log_file,
            lose=self.lose,
            flows=self._say_lost,
        )
        if losses:
            losses.expect("logs", "stalled", "unwritable")
        self._count: dict[str, Callable[[float], None]] = {}
        if registry is not None:
            counter = Counter("log_messages", "Log lines, by level.", ["level"], registry=registry)
            # gunicorn's master counts no losses and forks: only `inc` itself notices a fork.
            self._count = {
                level: adder(counter.labels(level)) if losses else counter.labels(level).inc
                for level in LEVELS.values()
            }

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's lock: the writer needs none, and threads do not queue for it."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.send(self.encode(self._line_of(record)), record.levelno)
        except Exception as error:
            self.lose(type(error).__name__)

    def send(self, line: bytes, level: int) -> None:
        """Count a line and hand it to the writer."""
        if count := self._count.get(level_name(level)):
            count(1)
        self._writer.put(line, at_once=level > logging.INFO)

    def lose(self, reason: str, quantity: int = 1) -> None:
        """Count lines that will never be read."""
        self.lost += quantity
        if self._losses:
            self._losses.count("logs", reason, quantity)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        super().close()

    def _say_lost(self) -> None:
        if self.lost and time.monotonic() >= self._say_after:
            self._say_after = time.monotonic() + SAY_LOST_SECONDS
            lost, self.lost = self.lost, 0
            logging.getLogger(__name__).warning("log lines lost", extra={"lost": lost})

    def _line_of(self, record: logging.LogRecord) -> Fields:
        error = record.exc_info[1] if record.exc_info else None
        line: Fields = {
            "timestamp": timestamp(record.created),
            "level": level_name(record.levelno),
            "message": scrub_text(_message(record)),
            "logger": record.name,
            **self.constant,
        }
        if identity := current_identity() or identity_of_failure(error):
            line.update(ids_of(identity))
        line.update(_callers_fields(record))
        if record.levelno >= logging.WARNING:
            line.update(module=record.module, function=record.funcName, line=record.lineno)
        if error is not None:
            line["exception"] = _exception(error)
            if identity:
                identity.logged_failure = error
        return line


def _method(level: str, **always: Any) -> Callable[..., Any]:
    def log(self: Any, message: object = None, /, *args: object, **fields: Any) -> Any:
        return self._proxy_to_logger(level, message, *args, **always | _beside_parameters(fields))

    return log


class ServiceLogger(structlog.stdlib.BoundLogger):
    """structlog's logger, which takes fields that have the names of its own parameters too."""

    def bind(self, /, **fields: Any) -> Self:
        return super().bind(**_beside_parameters(fields))

    debug = _method("debug")
    info = _method("info")
    warning = _method("warning")
    warn = warning
    error = _method("error")
    critical = _method("critical")
    fatal = critical
    exception = _method("error", exc_info=True)


def _beside_parameters(fields: Fields) -> Fields:
    return {f"={name}" if name in _PARAMETERS else name: fields[name] for name in fields}


def configure_logging(
    settings: Settings,
    registry: CollectorRegistry | None = None,
    losses: Losses | None = None,
) -> Lines:
    """Send every logger's lines through one handler. Safe to call again, as after a fork."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Lines)]:
        root.removeHandler(handler)
        handler.close()
    lines = Lines(settings, registry, losses)
    root.addHandler(lines)
    root.setLevel(settings.log_level)
    for name, level in {**_QUIETER, **settings.log_levels}.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, _to_record],
        wrapper_class=ServiceLogger,
        logger_factory=logging.getLogger,
        cache_logger_on_first_use=True,
    )
    return lines


def init_logging(
    app: Flask, settings: Settings, registry: CollectorRegistry, losses: Losses
) -> Lines:
    """Logs of this process, Flask's own logger included."""
    lines = configure_logging(settings, registry, losses)
    app.logger.handlers.clear()
    return lines


def _to_record(_: Any, __: str, event: Any) -> Any:
    # structlog's last step: what its caller said becomes one attribute of a stdlib record, so
    # that no field can collide with an attribute of LogRecord.
    message = event.pop("event", "")
    passed = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    # Over the frames between the caller and logging: structlog's two and `log`.
    passed["stacklevel"] = 4
    arguments = event.pop("positional_args", ())
    fields = {name.removeprefix("="): event[name] for name in event}
    return (message, *arguments), {**passed, "extra": {"fields": fields}}


def _callers_fields(record: logging.LogRecord) -> Fields:
    fields = record.__dict__.get("fields")
    if not isinstance(fields, Mapping):
        fields = {
            name: value for name, value in record.__dict__.items() if name not in _OF_A_RECORD
        }
    if not fields:
        return {}
    scrubbed = scrub(fields)
    assert isinstance(scrubbed, dict)
    return {
        f"field_{name}" if name in RESERVED else name: value for name, value in scrubbed.items()
    }


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return f"{described(record.msg)} {described(record.args or '')}".rstrip()


def _exception(error: BaseException) -> Fields:
    try:
        stack = traceback.format_exception(error, limit=-64)
    except Exception:  # one that raises when it is asked for its attributes
        stack = traceback.format_tb(error.__traceback__, limit=-64)
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
        "message": scrub_text(described(error)),
        "stacktrace": scrub_text("".join(stack)),
    }
