"""Logs: one JSON object a line, the same schema for the service, gunicorn and every library.

The schema stands beside this module in log_line.schema.json.
"""

import atexit
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial, partialmethod
from typing import Any, Self

import click
import structlog
from flask.helpers import get_debug_flag
from prometheus_client import CollectorRegistry, Counter

from ..settings import Settings
from ..workers.lines import LineWriter
from ..workers.values import adder
from .encoding import (
    LEVELS,
    RESERVED,
    Console,
    Fields,
    encode,
    level_name,
    request_fields,
    timestamp,
)
from .identity import Identity, current_identity, identity_of_failure
from .loggers import own_logger, root, send_lines_to
from .losses import Losses
from .redaction import described, scrub, scrub_short_text, scrub_text

REPORT_LOST_SECONDS = 60.0
"""Seconds between two lines that report how many were lost."""

# Their INFO lines repeat other lines, or report nothing.
_QUIETER = {"urllib3": "WARNING", "alembic.runtime.plugins": "WARNING"}
_OF_A_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Lines(logging.Handler):
    """Turns log records into lines."""

    def __init__(
        self, settings: Settings, registry: CollectorRegistry | None, losses: Losses | None
    ) -> None:
        super().__init__()
        self._resource = settings.resource
        on_terminal = settings.log_file is None and sys.stdout and sys.stdout.isatty()
        # Without colours: https://no-color.org.
        colors = bool(on_terminal and not os.environ.get("NO_COLOR"))
        self.encode = encode if settings.log_format == "json" else Console(colors=colors)
        self.report: Callable[[logging.LogRecord], None] | None = None
        """Called with each record at ERROR or above that has an exception."""
        self.lost = 0
        """Lines that could not be written since the last report of that."""
        self._report_after = 0.0
        self._losses = losses
        self._writer = LineWriter(
            sys.__stdout__.fileno() if sys.__stdout__ else 1,
            settings.log_file,
            lose=self.lose,
            flows=self._report_lost,
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
        self.send(record.levelno, partial(self._line_of, record))
        if self.report and record.exc_info and record.levelno >= logging.ERROR:
            self.report(record)

    def send(self, level: int, make: Callable[[], Fields], *, deferred: bool = False) -> None:
        """Queue the line that `make` returns, and count it.

        Deferred, the writer's thread calls `make`: many lines in a row cost less than one within a
        request. Then it may use neither the request's context nor what still changes.
        """

        def line() -> bytes:
            return self.encode(make())

        try:
            queued = line if deferred else line()
            if count := self._count.get(level_name(level)):
                count(1)
            self._writer.put(queued, at_once=level > logging.INFO)
        except Exception as error:
            self.lose(type(error).__name__)

    def lose(self, reason: str, quantity: int = 1) -> None:
        """Count lines that will never be read."""
        self.lost += quantity
        if self._losses:
            self._losses.count("logs", reason, quantity)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        """Stay open: configuring logging closes all handlers and ends their flush at exit."""
        atexit.unregister(self.flush)
        atexit.register(self.flush)

    def end(self) -> None:
        """Write what waits, and give back the file."""
        self.flush()
        self._writer.close()

    def _report_lost(self) -> None:
        if self.lost and time.monotonic() >= self._report_after:
            self._report_after = time.monotonic() + REPORT_LOST_SECONDS
            lost, self.lost = self.lost, 0
            logging.getLogger(__name__).warning("log lines lost", extra={"lost": lost})

    def common_fields(
        self, moment: float, level: int, message: str, logger: str, request: Identity | None
    ) -> Fields:
        """What every line begins with. What every line shall have is added here, and only here."""
        line: Fields = {
            "timestamp": timestamp(moment),
            "level": level_name(level),
            "message": message,
            "logger": logger,
            **self._resource,
        }
        if request:
            line["request_id"] = request.request_id
            if request.trace_id:
                line["trace_id"] = request.trace_id
            if request.user_id is not None:
                line["user_id"] = scrub_short_text(request.user_id)
        return line

    def _line_of(self, record: logging.LogRecord) -> Fields:
        error = record.exc_info[1] if record.exc_info else None
        identity = current_identity() or identity_of_failure(error)
        message = scrub_text(_message(record))
        line = self.common_fields(record.created, record.levelno, message, record.name, identity)
        if isinstance(request := vars(record).get("request"), Identity):
            line |= request_fields(request)
        line |= _callers_fields(record, line)
        if record.levelno >= logging.WARNING:
            line |= {"module": record.module, "function": record.funcName, "line": record.lineno}
        if error is not None:
            line["exception"] = _exception(error)
            if identity:
                identity.logged_failure = error
        return line


class ServiceLogger(structlog.BoundLoggerBase):
    """structlog's logger over the standard library's, whose levels and handlers it takes.

    No name of a field can collide with a parameter or with an attribute of a LogRecord.
    """

    def bind(self, /, **fields: object) -> Self:
        """A logger that puts these fields on every line."""
        return type(self)(self._logger, self._processors, {**self._context, **fields})

    def log(
        self,
        level: int,
        message: object = "",
        /,
        *args: object,
        exc_info: Any = None,
        **fields: object,
    ) -> None:
        """`args` are for a message with %s and the like, `fields` stand beside it on the line."""
        if self._logger.isEnabledFor(level):
            if isinstance(exc_info, BaseException):  # which may be false
                exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
            extra = {"fields": {**self._context, **fields}}
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=2, extra=extra)

    def __getattr__(self, name: str) -> Any:
        """What else the standard library's logger has: `name`, `isEnabledFor`, `setLevel`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._logger, name)

    debug = partialmethod(log, logging.DEBUG)
    info = partialmethod(log, logging.INFO)
    warning = warn = partialmethod(log, logging.WARNING)
    error = partialmethod(log, logging.ERROR)
    critical = fatal = partialmethod(log, logging.CRITICAL)
    exception = partialmethod(log, logging.ERROR, exc_info=True)


def get_logger(name: str | None = None) -> ServiceLogger:
    """A logger that takes fields: `log.info("parcel sent", parcel_id=7)`."""
    return ServiceLogger(own_logger(name), [], {})


def init_logging(
    settings: Settings,
    registry: CollectorRegistry | None = None,
    losses: Losses | None = None,
) -> Lines:
    """Send every logger's lines through one handler. Safe to call again, as after a fork."""
    for handler in {*root.handlers, *logging.root.handlers}:
        if isinstance(handler, Lines):
            logging.root.removeHandler(handler)
            handler.end()
    lines = Lines(settings, registry, losses)
    send_lines_to(lines, settings.log_level)
    own_logger("werkzeug").addFilter(_of_the_server_itself)
    # Without a level werkzeug would give its logger INFO.
    levels = {"werkzeug": settings.log_level, **_QUIETER, **settings.log_levels}
    for name, level in levels.items():
        own_logger(name).setLevel(level)
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    # For loggers that are made by structlog itself.
    structlog.configure(wrapper_class=ServiceLogger, logger_factory=own_logger)
    return lines


def _of_the_server_itself(record: logging.LogRecord) -> bool:
    """Pass what werkzeug's server reports of itself, as one line; requests have lines of ours."""
    if record.levelno > logging.INFO:
        record.msg = str(record.msg).removeprefix(" * ")
        return True
    *_, text = click.unstyle(record.getMessage()).splitlines()
    # With its colon the debugger's PIN would be taken for a secret.
    record.msg, record.args = text.strip(" *").replace("PIN:", "PIN"), ()
    # Under the reloader the process that answers starts later; wsgi.py then shows the address.
    is_early = record.msg.startswith("Running on") and get_debug_flag()
    return " - - [" not in text and not is_early


def _callers_fields(record: logging.LogRecord, line: Fields) -> Fields:
    """What the caller adds; what has a name of ours is kept as field_<name>."""
    fields = vars(record).get("fields")
    if not isinstance(fields, Mapping):
        fields = {name: value for name, value in vars(record).items() if name not in _OF_A_RECORD}
    scrubbed: Any = scrub(fields)
    ours = RESERVED | line.keys()
    return {f"field_{name}" if name in ours else name: scrubbed[name] for name in scrubbed}


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
