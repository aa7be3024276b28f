"""Logs: one JSON object a line, the same schema for the service, gunicorn and every library.

The schema stands beside this module in log_line.schema.json.
"""

import inspect
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from random import random
from typing import Any, Self

import orjson
import structlog
from flask import Flask, current_app
from prometheus_client import CollectorRegistry, Counter

from ..settings import SLOW_REQUEST_SECONDS, Settings
from .identity import Identity, current_identity
from .lines import LineWriter
from .losses import Losses
from .redaction import described, scrub, scrub_short_text, scrub_text
from .values import adder

Fields = dict[str, object]
SAY_LOST_SECONDS = 60.0
"""At most so often a line tells how many were lost."""

LONGEST_LINE = 16_384
"""Bytes, the newline included."""

get_logger = structlog.stdlib.get_logger

# Names of ours, and those that log stores treat in their own way: a caller's field of one of
# these names is kept as field_<name>.
RESERVED = frozenset(
    "timestamp level message logger service environment version revision request_id trace_id"
    " span_id trace_sampled user_id exception module function line truncated method route path"
    " status_code duration_ms bytes client_ip status severity event".split()
)
# Lines that tell what another line tells already, or nothing.
_QUIETER = {"werkzeug": "WARNING", "urllib3": "WARNING", "alembic.runtime.plugins": "WARNING"}
_OF_A_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_USUAL_PATH = 128
# What a long line never loses a part of.
_WHOLE = RESERVED - {"message", "exception", "path", "route", "logger", "user_id"}
_PARAMETERS = frozenset(("event", "method_name", "positional_args", "self"))
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


class Lines(logging.Handler):
    """Turns log records, and the requests that end, into lines."""

    def __init__(
        self, settings: Settings, registry: CollectorRegistry | None, losses: Losses | None
    ) -> None:
        super().__init__()
        self._writer = (
            LineWriter(-1, settings.log_file)
            if settings.log_file
            else LineWriter(sys.__stdout__.fileno() if sys.__stdout__ else 1)
        )
        self._encode: Callable[[Fields], bytes] = (
            encode if settings.log_format == "json" else Console()
        )
        self._losses = losses
        self._say_after = 0.0
        self.lost = 0
        """Lines that could not be written, since that was last said."""
        self._constant: Fields = {
            "service": settings.otel_service_name,
            "environment": settings.environment,
            "version": settings.app_version,
        }
        if settings.app_revision:
            self._constant["revision"] = settings.app_revision
        self._is_json = settings.log_format == "json"
        constant = orjson.dumps(self._constant).decode()[1:-1]
        self._head = f'","level":"INFO","message":"request","logger":"request",{constant}'
        self._sample_ratio = settings.log_sample_ratio
        self._requests_at = _effective_level(settings, "request")
        self._count: dict[str, Callable[[float], None]] = {}
        if registry is not None:
            counter = Counter("log_messages", "Log lines, by level.", ["level"], registry=registry)
            # gunicorn's master, which has no losses to tell, forks: its inc must notice that.
            self._count = {
                level: adder(counter.labels(level)) if losses else counter.labels(level).inc
                for level in _LEVELS.values()
            }

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's lock: lines are whole anyway, and threads do not queue for it."""
        self.emit(record)
        return True

    def close(self) -> None:
        self._writer.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(self._encode(self._line_of(record)), record.levelno)
        except Exception as error:
            self._lose(type(error).__name__)

    def request_ended(self, request: Identity) -> None:
        """The one line of a request. Failures and slow requests are never sampled away."""
        level = _level_of(request)
        if level < self._requests_at or (
            request.status < 400
            and request.seconds < SLOW_REQUEST_SECONDS
            and random() >= self._sample_ratio  # noqa: S311
        ):
            return
        try:
            if self._is_json and level == logging.INFO and len(request.path) <= _USUAL_PATH:
                try:
                    text = self.text_of(request)
                except TypeError:  # a lone surrogate, which orjson refuses
                    text = encode(self.line_of(request))
            else:
                text = self._encode(self.line_of(request))
            self._send(text, level)
        except Exception as error:
            self._lose(type(error).__name__)

    def text_of(self, request: Identity) -> bytes:
        """What `line_of` and `encode` make of a request that did not fail, for half of the cost."""
        ids = f',"trace_id":"{request.trace_id}"' if request.trace_id else ""
        if request.user_id is not None:
            ids += f',"user_id":{_json(scrub_short_text(request.user_id))}'
        size = "" if request.size is None else f',"bytes":{request.size}'
        client = "" if request.client_ip is None else f',"client_ip":{_json(request.client_ip)}'
        return (
            f'{{"timestamp":"{timestamp(time.time())}{self._head}'
            f',"request_id":"{request.request_id}"{ids}'
            f',"method":"{request.method}","route":{_json(request.route)}'
            f',"path":{_json(scrub_short_text(request.path))},"status_code":{request.status}'
            f',"duration_ms":{request.seconds * 1000:.3f}{size}{client}}}\n'
        ).encode()

    def line_of(self, request: Identity) -> Fields:
        """The fields of a request's line."""
        level = _level_of(request)
        line: Fields = {
            "timestamp": timestamp(time.time()),
            "level": _LEVELS[level],
            "message": "request",
            "logger": "request",
            **self._constant,
            "request_id": request.request_id,
        }
        _add_ids(line, request)
        line["method"] = request.method
        line["route"] = request.route
        line["path"] = scrub_short_text(request.path)
        line["status_code"] = request.status
        line["duration_ms"] = round(request.seconds * 1000, 3)
        if request.size is not None:
            line["bytes"] = request.size
        if request.client_ip is not None:
            line["client_ip"] = request.client_ip
        if level == logging.ERROR:
            line.update(_where_it_failed(request))
        return line

    def _line_of(self, record: logging.LogRecord) -> Fields:
        line: Fields = {
            "timestamp": timestamp(record.created),
            "level": _level_name(record.levelno),
            "message": scrub_text(_message(record)),
            "logger": record.name,
            **self._constant,
        }
        if identity := current_identity():
            line["request_id"] = identity.request_id
            _add_ids(line, identity)
        line.update(_callers_fields(record))
        if record.levelno >= logging.WARNING:
            line.update(module=record.module, function=record.funcName, line=record.lineno)
        if record.exc_info and (error := record.exc_info[1]):
            line["exception"] = _exception(error)
            if identity:
                identity.logged_failure = error
        return line

    def _send(self, text: bytes, level: int) -> None:
        if count := self._count.get(_level_name(level)):
            count(1)
        if not self._writer.write(text):
            self._lose("stalled")
        elif self.lost and time.monotonic() >= self._say_after:
            self._say_after = time.monotonic() + SAY_LOST_SECONDS
            lost, self.lost = self.lost, 0
            logging.getLogger(__name__).warning("log lines lost", extra={"lost": lost})

    def _lose(self, reason: str) -> None:
        self.lost += 1
        if self._losses:
            self._losses.count("logs", reason)


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


def encode(line: Fields) -> bytes:
    """One line, newline included, of at most 16 KiB; longer values are cut, said by `truncated`."""
    try:
        text = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except (TypeError, ValueError):
        line = {name: _plain(value) for name, value in line.items()}
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    for longest in (8192, 2048, 512, 128, 32):
        if len(text) <= LONGEST_LINE:
            return text
        line = {
            name: value if name in _WHOLE else _cut(value, longest) for name, value in line.items()
        } | {"truncated": True}
        text = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    if len(text) > LONGEST_LINE:
        ours = {name: value for name, value in line.items() if name in RESERVED}
        text = orjson.dumps(ours, default=str, option=orjson.OPT_APPEND_NEWLINE)
    return text


class Console:
    """Lines for a person at a terminal: coloured, one event a line, tracebacks below."""

    _HIDDEN = frozenset({"service", "environment", "version", "revision", "logger", "module"})

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer(
            colors=bool(sys.stdout and sys.stdout.isatty()), pad_event_to=24
        )

    def __call__(self, line: Fields) -> bytes:
        shown = {
            name.translate(_CONTROL): value.translate(_CONTROL) if isinstance(value, str) else value
            for name, value in line.items()
            if name not in self._HIDDEN
        }
        exception = shown.pop("exception", None)
        shown["event"] = shown.pop("message")
        shown["level"] = str(shown["level"]).lower()
        text = str(self._render(None, "", shown))
        if isinstance(exception, Mapping):
            text += f"\n{str(exception['stacktrace']).translate(_CONTROL_IN_LINES)}"
        return text.encode(errors="backslashreplace") + b"\n"


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_CONTROL_IN_LINES = {code: text for code, text in _CONTROL.items() if code not in (9, 10)}
_seconds: tuple[int, str] = (-1, "")


def timestamp(moment: float) -> str:
    """RFC 3339 in UTC with milliseconds; the text of the current second is made once."""
    global _seconds
    second = int(moment)
    known, text = _seconds
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _seconds = (second, text)
    return f"{text}.{int((moment - second) * 1000):03d}Z"


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
    stack = "".join(traceback.format_exception(error, limit=-64))
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
        "message": scrub_text(described(error)),
        "stacktrace": scrub_text(stack),
    }


@lru_cache(maxsize=4096)
def _json(text: str) -> str:
    """The JSON of a text that repeats."""
    return orjson.dumps(text).decode()


def _add_ids(line: Fields, request: Identity) -> None:
    if request.trace_id:
        line["trace_id"] = request.trace_id
    if request.user_id is not None:
        line["user_id"] = scrub_short_text(request.user_id)


def _level_of(request: Identity) -> int:
    return logging.ERROR if request.status >= 500 else logging.INFO


def _where_it_failed(request: Identity) -> Fields:
    """The place that raised, else the view that answered."""
    if request.failure and request.failure.__traceback__:
        *_, (frame, number) = traceback.walk_tb(request.failure.__traceback__)
        code = frame.f_code
        return {"module": Path(code.co_filename).stem, "function": code.co_name, "line": number}
    view = inspect.unwrap(current_app.view_functions.get(request.endpoint or "", _add_ids))
    code = view.__code__
    return {
        "module": Path(code.co_filename).stem,
        "function": code.co_name,
        "line": code.co_firstlineno,
    }


def _effective_level(settings: Settings, name: str) -> int:
    return logging.getLevelNamesMapping()[settings.log_levels.get(name, settings.log_level)]


def _level_name(number: int) -> str:
    return _LEVELS[min(50, max(10, number // 10 * 10))]


def _plain(value: object) -> object:
    """What orjson refuses, made acceptable: lone surrogates, huge integers, odd keys."""
    if isinstance(value, dict):
        return {str(_plain(str(name))): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return str(value).encode(errors="backslashreplace").decode()


def _cut(value: object, longest: int) -> object:
    if isinstance(value, str) and len(value) > longest:
        return f"{value[: longest // 2]}…{value[-longest // 2 :]}"
    if isinstance(value, dict):
        return {_cut(name, 128): _cut(item, longest) for name, item in list(value.items())[:64]}
    if isinstance(value, list):
        return [_cut(item, longest) for item in value[:64]]
    return value
