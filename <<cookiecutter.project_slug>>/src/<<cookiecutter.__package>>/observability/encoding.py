"""How a line looks: JSON for machines, text in colour for a person at a terminal."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache

import orjson

from ..settings import SLOW_REQUEST_SECONDS
from .identity import Identity
from .redaction import scrub_short_text

Fields = dict[str, object]

LONGEST_LINE = 16_384
"""Bytes, the newline included."""

LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}

# Names of ours, and those that log stores treat in their own way: a caller's field of one of
# these names is kept as field_<name>.
RESERVED = frozenset(
    "timestamp level message logger service environment version revision request_id trace_id"
    " span_id trace_sampled user_id exception module function line truncated method route path"
    " status_code duration_ms bytes client_ip status severity event".split()
)
# What a long line never loses a part of.
_WHOLE = RESERVED - {"message", "exception", "path", "route", "logger", "user_id"}


@lru_cache
def level_name(number: int) -> str:
    """The name of a level, or of the next lower one that has a name."""
    return LEVELS[min(50, max(10, number // 10 * 10))]


def request_fields(request: Identity) -> Fields:
    """What was asked, by whom, and how it was answered."""
    fields: Fields = {
        "method": request.method,
        "route": request.route,
        "path": scrub_short_text(request.path),
        "status_code": request.status,
    }
    if request.client_ip is not None:
        fields["client_ip"] = request.client_ip
    return fields


def encode(line: Fields) -> bytes:
    """One line, newline included, of at most 16 KiB; `truncated` marks one that was cut."""
    text = _json(line)
    for longest in (8192, 2048, 512, 128, 32):
        if len(text) <= LONGEST_LINE:
            return text
        line = {
            name: value if name in _WHOLE else _cut(value, longest) for name, value in line.items()
        } | {"truncated": True}
        text = _json(line)
    if len(text) > LONGEST_LINE:
        text = _json({name: value for name, value in line.items() if name in RESERVED})
    return text


def _json(line: object) -> bytes:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates, of which json makes question marks here
        text = json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace")
        return orjson.dumps(json.loads(text), option=orjson.OPT_APPEND_NEWLINE)


def _cut(value: object, longest: int) -> object:
    if isinstance(value, str) and len(value) > longest:
        return f"{value[: longest // 2]}…{value[-longest // 2 :]}"
    if isinstance(value, dict):
        return {_cut(name, 128): _cut(item, longest) for name, item in list(value.items())[:64]}
    if isinstance(value, list):
        return [_cut(item, longest) for item in value[:64]]
    return value


def timestamp(moment: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    second = int(moment)
    return f"{_to_the_second(second)}.{int((moment - second) * 1000):03d}Z"


@lru_cache(maxsize=2)
def _to_the_second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


# The rest of what the console does not show as a field, or at all.
_NOT_FIELDS = RESERVED - {"user_id"}
_PACKAGE = f"{__name__.partition('.')[0]}."
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_CONTROL_IN_LINES = {code: text for code, text in _CONTROL.items() if code not in (9, 10)}
_GREEN, _CYAN, _YELLOW, _RED, _DIM = "32", "36", "33", "31", "2"
_COLORS = {"DEBUG": _DIM, "INFO": _GREEN, "WARNING": _YELLOW, 3: _CYAN, 4: _YELLOW, 5: _RED}


class Console:
    """Lines for a person at a terminal: one event a line, its ids at the end, tracebacks below."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, line: Fields) -> bytes:
        moment = datetime.fromisoformat(str(line["timestamp"])).astimezone()
        is_request = "duration_ms" in line
        words = [
            self._colored(f"{moment:%H:%M:%S}", _DIM),
            *(self._request(line) if is_request else self._message(line)),
            *(_field(name, value) for name, value in line.items() if name not in _NOT_FIELDS),
        ]
        for name in ("request_id", "trace_id"):
            if name in line:
                text = str(line[name])
                short = text if is_request or len(text) <= 12 else f"{text[:8]}…"
                words.append(self._colored(f"{name}={short}", _DIM))
        text = " ".join(words)
        if isinstance(exception := line.get("exception"), Mapping):
            text += f"\n{str(exception['stacktrace']).rstrip().translate(_CONTROL_IN_LINES)}"
        return text.encode(errors="backslashreplace") + b"\n"

    def _request(self, line: Fields) -> Iterator[str]:
        status, milliseconds = int(str(line["status_code"])), float(str(line["duration_ms"]))
        yield f"{line['method']} {line['path']}".translate(_CONTROL)
        yield self._colored(str(status), _COLORS.get(status // 100, _GREEN))
        yield f"{milliseconds:.0f} ms"
        if milliseconds >= SLOW_REQUEST_SECONDS * 1000:
            yield self._colored("slow", _YELLOW)
        if "function" in line:
            yield self._colored(f"in {line['function']}, {line['module']}.py:{line['line']}", _RED)

    def _message(self, line: Fields) -> Iterator[str]:
        level = str(line["level"])
        yield self._colored(level, _COLORS.get(level, _RED))
        yield f"{str(line['logger']).removeprefix(_PACKAGE)}: {line['message']}".translate(_CONTROL)

    def _colored(self, text: str, color: str) -> str:
        text = text.translate(_CONTROL)
        return f"\x1b[{color}m{text}\x1b[0m" if self._colors else text


def _field(name: str, value: object) -> str:
    plain = isinstance(value, str) and value and not set(value) & set(" \"'=")
    text = str(value) if plain else _json(value).decode().rstrip()
    return f"{name}={text}".translate(_CONTROL)
