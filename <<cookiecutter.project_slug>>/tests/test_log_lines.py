"""Log lines: what is on them, and that nothing anybody sends can break or forge one.

Every line that a test reads is held to the schema on the way: see `Service.lines`.
"""

import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import structlog
from flask import Response, abort
from jsonschema import Draft202012Validator, ValidationError

from <<cookiecutter.__package>>.observability import (
    get_logger,
    identify_user,
    in_request_context,
    middleware,
    record_security_event,
    request_id,
)
from <<cookiecutter.__package>>.observability.encoding import RESERVED
from <<cookiecutter.__package>>.observability.logging import Lines
from <<cookiecutter.__package>>.settings import SLOW_REQUEST_SECONDS, Settings

from .conftest import MakeService
from .support import SCHEMA, Line, Service, eventually, parsed, validate_line

log = get_logger(__name__)


# One schema


def test_the_schema_is_a_schema_and_strict() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    line = {
        "timestamp": "2026-01-31T09:26:53.589Z",
        "level": "INFO",
        "message": "hello",
        "logger": "parcels",
        "service": "parcels",
        "environment": "production",
        "version": "1.2.3",
    }
    validate_line(line | {"parcel_id": 7, "basket": [{"sku": "a"}]})
    for wrong in (
        {"timestamp": "2026-01-31T09:26:53Z"},
        {"timestamp": "2026-01-31T09:26:53.589+01:00"},
        {"level": "info"},
        {"level": "WARNING"},
        {"message": 3},
        {"trace_id": "0" * 32},
        {"request_id": "a b"},
        {"truncated": False},
        {"event": "x"},
        {"status_code": 200},
        {"exception": {"type": "ValueError", "message": ""}},
        {"message": "request", "logger": "request"},
    ):
        with pytest.raises(ValidationError):
            validate_line(line | wrong)


def own_fields(service: Service) -> dict[str, object]:
    """What Lines.common_fields has beside the fields of the schema."""
    line = service.app.extensions["log_lines"].common_fields(0, logging.INFO, "", "", None)
    return {name: value for name, value in line.items() if name not in RESERVED}


def shown_lines(service: Service) -> list[str]:
    """The console's lines, without such fields."""
    text = service.written()
    for name in own_fields(service):
        text = re.sub(rf" {name}=\S+", "", text)
    return text.splitlines()


def test_a_request_makes_one_line(service: Service) -> None:
    @service.app.post("/parcels/<int:number>")
    def parcel(number: int) -> tuple[dict[str, int], int]:
        return {"number": number}, 201

    answer = service.client.post("/parcels/7?token=x", headers={"X-Request-ID": "r-1"})
    (line,) = service.lines()
    assert 0 < line.pop("duration_ms") < 10_000
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 10
    assert line == own_fields(service) | {
        "level": "INFO",
        "message": "request",
        "logger": "request",
        "service": service.settings.otel_service_name,
        "environment": "development",
        "version": service.settings.app_version,
        "request_id": "r-1",
        "method": "POST",
        "route": "/parcels/<int:number>",
        "path": "/parcels/7",
        "status_code": 201,
        "bytes": len(answer.data),
        "client_ip": "127.0.0.1",
    }


@pytest.fixture
def queued(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What waits for the writer, which does not come."""
    waiting: list[Any] = []
    writer = service.app.extensions["log_lines"]._writer
    monkeypatch.setattr(writer, "put", lambda line, *, at_once: waiting.append(line))
    return waiting


def test_a_line_that_waits_for_the_writer_has_the_time_of_the_requests_end(
    service: Service, queued: list[Any]
) -> None:
    service.client.get("/")
    ended = time.time()
    eventually(lambda: time.time() > ended + 0.1)
    (line,) = (json.loads(make()) for make in queued)
    assert datetime.fromisoformat(line["timestamp"]).timestamp() <= ended


def test_no_failure_waits_for_the_writer_with_the_memory_of_its_request(
    service: Service, queued: list[Any]
) -> None:
    @service.app.get("/parcels")
    def fail() -> str:
        raise LookupError

    service.app.register_error_handler(LookupError, lambda _: "none")
    assert service.client.get("/parcels").status_code == 200
    assert [type(line) for line in queued] == [bytes]


def test_every_line_names_the_service_its_environment_version_and_revision(
    make_service: MakeService,
) -> None:
    service = make_service(
        otel_service_name="till", environment="staging", app_version="9.1", app_revision="4f1c"
    )
    log.info("hello")
    service.client.get("/nowhere")
    for line in service.lines():
        told = [line[name] for name in ("service", "environment", "version", "revision")]
        assert told == ["till", "staging", "9.1", "4f1c"]


def test_a_warning_says_where_it_was_written(service: Service) -> None:
    log.warning("by structlog")
    logging.getLogger("somebody.else").error("by the standard library")
    service.app.logger.critical("by Flask's logger")
    for line in service.lines():
        assert line["module"] == "test_log_lines"
        assert line["function"] == "test_a_warning_says_where_it_was_written"
        assert line["line"] > 0


def test_a_logger_that_was_there_before_says_where_it_was_called(service: Service) -> None:
    logging.getLogger("was.there.before")
    get_logger("was.there.before").warning("by structlog")
    try:
        raise ValueError
    except ValueError:
        get_logger("was.there.before").exception("with its exception")
    for line in service.lines():
        assert line["module"] == "test_log_lines"


def test_a_failed_request_says_where_it_failed(service: Service) -> None:
    @service.app.get("/boom")
    def boom() -> str:
        raise RuntimeError("boom")

    @service.app.get("/busy")
    def busy() -> Response:
        return Response(status=503)

    service.client.get("/boom")
    service.client.get("/busy")
    failed, answered = service.lines("request")
    for line, function in ((failed, "boom"), (answered, "busy")):
        assert line["level"] == "ERROR"
        assert (line["module"], line["function"]) == ("test_log_lines", function)


def test_an_exception_is_told_with_its_type_message_and_stack(service: Service) -> None:
    try:
        json.loads("{")
    except ValueError:
        log.exception("no parcel in the message", queue="parcels")
    line = service.line("no parcel in the message")
    assert line["level"] == "ERROR"
    assert line["queue"] == "parcels"
    assert line["exception"]["type"] == "json.decoder.JSONDecodeError"
    assert line["exception"]["message"].startswith("Expecting property name")
    assert "Traceback (most recent call last)" in line["exception"]["stacktrace"]
    assert "test_log_lines.py" in line["exception"]["stacktrace"]


def test_the_cause_of_an_exception_is_in_its_stack(service: Service) -> None:
    try:
        try:
            os.environ["NO_PRICE"]
        except KeyError as error:
            raise RuntimeError("no price") from error
    except RuntimeError:
        log.exception("failed")
    stack = service.line("failed")["exception"]["stacktrace"]
    assert stack.index("KeyError") < stack.index("direct cause") < stack.index("RuntimeError")


def test_a_field_for_every_line_is_added_in_one_place(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Lines.common_fields

    def with_region(*args: Any) -> dict[str, object]:
        return made(*args) | {"region": "eu-1"}

    monkeypatch.setattr(Lines, "common_fields", with_region)
    service = make_service()

    @service.app.get("/fails")
    def fails() -> str:
        raise RuntimeError("boom")

    service.client.get("/fails")
    service.client.get("/nowhere")
    with service.app.app_context():
        record_security_event("authz_fail")
    log.info("ours", region="theirs")
    logging.getLogger("a.library").warning("a library's", extra={"region": "theirs"})
    logging.getLogger("gunicorn.error").info("Booting worker with pid: %s", 7)
    lines = service.lines()
    assert len(lines) == 7
    assert [line["region"] for line in lines] == ["eu-1"] * 7
    assert [line["field_region"] for line in lines[4:6]] == ["theirs"] * 2


def test_a_librarys_line_has_the_same_shape(service: Service) -> None:
    logging.getLogger("some.library").info("%d rows in %s", 3, "parcels", extra={"rows": 3})
    line = service.line("3 rows in parcels")
    assert line["logger"] == "some.library"
    assert line["rows"] == 3


def test_a_logger_of_structlogs_own_has_the_same_shape(service: Service) -> None:
    structlog.get_logger("somebody.else").warning("%d rows", 3, table="parcels")
    line = service.line("3 rows")
    assert (line["logger"], line["table"]) == ("somebody.else", "parcels")
    assert line["module"] == "test_log_lines"


def test_a_logger_takes_what_structlogs_takes(service: Service) -> None:
    log.info(parcel_id=7)
    log.warn("old")
    log.fatal("older")
    get_logger().info("without a name", exc_info=None)
    assert log.isEnabledFor(logging.INFO)
    assert log.name == __name__
    told = [(line["level"], line["message"], line.get("parcel_id")) for line in service.lines()]
    assert told == [
        ("INFO", "", 7),
        ("WARNING", "old", None),
        ("CRITICAL", "older", None),
        ("INFO", "without a name", None),
    ]


def test_a_python_warning_is_a_line(process_output: bytes) -> None:
    (line,) = [line for line in parsed(process_output) if line["logger"] == "py.warnings"]
    assert line["level"] == "WARNING"
    assert "UserWarning: the old way" in line["message"]


def test_gunicorns_own_lines_have_the_same_shape(process_output: bytes) -> None:
    lines = [line for line in parsed(process_output) if line["logger"] == "gunicorn.error"]
    listening, terminated, cannot = lines
    assert listening["message"] == "Listening at: http://0.0.0.0:8000 (7)"
    assert terminated["level"] == "WARNING"
    assert cannot["exception"]["type"] == "OSError"


# Nothing breaks a line or forges another


def test_a_field_with_a_name_of_ours_is_kept_beside_it(service: Service) -> None:
    for name in sorted(RESERVED):
        logging.getLogger("shop").info("hello", extra={"fields": {name: "theirs"}})
        log.bind(**{name: "theirs"}).info("hello")
        log.info("hello", **{name: "theirs"})
        lines = service.lines()[-3:]
        assert [line.get(f"field_{name}") for line in lines] == ["theirs"] * 3, name
        assert "theirs" not in [line.get(name) for line in lines], name
    assert len(service.lines("hello")) == 3 * len(RESERVED)


@pytest.mark.parametrize("name", ["name", "args", "msg", "levelno", "self", "method_name", "extra"])
def test_a_field_with_a_name_of_the_libraries_is_a_field(service: Service, name: str) -> None:
    log.info("hello", **{name: "theirs"})
    log.bind(**{name: "theirs"}).error("hello")
    for line in service.lines("hello"):
        assert "theirs" in (line.get(name), line.get(f"field_{name}"))
    assert len(service.lines("hello")) == 2


class Awkward:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class AwkwardKey(Awkward):
    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return self is other


class ShownAsNothing:
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


CYCLE: list[object] = [1]
CYCLE.append(CYCLE)
RING: dict[str, object] = {}
RING["again"] = {"ring": RING}
DEEP: list[object] = []
for _ in range(2_000):
    DEEP = [DEEP]

ODD_VALUES: dict[str, object] = {
    "not a number": math.nan,
    "infinity": -math.inf,
    "beyond 64 bits": 2**64,
    "far beyond": 10**200,
    "too long to print": 10**5_000,
    "lone surrogate": "a\ud800b",
    "nul": "a\0b",
    "bytes": b"\xff\xfe\x00abc",
    "bytearray": bytearray(b"abc"),
    "cycle": CYCLE,
    "ring": RING,
    "deep": DEEP,
    "cannot be shown": Awkward(),
    "shown as nothing": ShownAsNothing(),
    "a key that cannot be shown": {AwkwardKey(): 1},
    "keys that are no text": {1: "a", None: "b", (1, 2): "c", b"d": "e"},
    "lone surrogate as a key": {"a\ud800": 1},
    "a set": {1, 2, 3},
    "decimal": Decimal("12.50"),
    "a moment": datetime(2026, 1, 31, tzinfo=UTC),
    "an enumeration": HTTPStatus.NOT_FOUND,
    "a class": Service,
    "a function": print,
    "a generator": (number for number in range(3)),
    "an exception": ValueError("x"),
    "a path": Path("/srv"),
    "true": True,
    "emoji": "\U0001f9fe",
    "right to left": "\u202eabc",
}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_no_value_loses_a_line(service: Service, value: object) -> None:
    log.info("odd", value=value, nested={"value": [value]})
    line = service.line("odd")
    assert "value" in line
    assert "value" in line["nested"]


def test_a_value_that_holds_itself_many_times_costs_little(service: Service) -> None:
    wide: list[object] = []
    wide.extend([wide] * 3)

    def seconds() -> float:
        began = time.thread_time()
        log.info("wide", value=wide)
        log.info("large", value=[[0] * 1_000] * 1_000)
        return time.thread_time() - began

    # The best of several: a processor that others use as well is slower.
    assert min(seconds() for _ in range(5)) < 0.25
    assert len(service.lines()) == 10


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_no_value_in_a_message_loses_a_line(
    service: Service, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without pytest's own handler, which some of these values break.
    ours = [handler for handler in logging.root.handlers if isinstance(handler, Lines)]
    monkeypatch.setattr(logging.root, "handlers", ours)
    logging.getLogger("shop").info("odd %s", value)
    log.info("odd %s", value)
    logging.getLogger("shop").info(value)
    log.info(value)
    assert len(service.lines()) == 4


def test_a_message_that_does_not_fit_its_arguments_is_still_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [handler for handler in logging.root.handlers if isinstance(handler, Lines)]
    monkeypatch.setattr(logging.root, "handlers", ours)
    logging.getLogger("shop").info("%d of %d", 1)
    logging.getLogger("shop").info("100%", 1)
    assert [line["message"] for line in service.lines()] == ["%d of %d (1,)", "100% (1,)"]


def test_an_exception_that_cannot_be_shown_is_still_told(service: Service) -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    try:
        raise BrokenError
    except BrokenError:
        log.exception("failed")
    assert service.line("failed")["exception"]["type"].endswith("BrokenError")


FORGED = '{"level":"CRITICAL","message":"forged"}'
HOSTILE_TEXTS = {
    "a line feed": f"a\n{FORGED}",
    "a carriage return": f"a\r{FORGED}\r",
    "both": f"a\r\n{FORGED}\r\n",
    "a quote": f'a", "level": "CRITICAL", "x": "{FORGED}',
    "a backslash": "a\\",
    "escape sequences": "a\x1b[2J\x1b[31mred\x07\x08\x7f",
    "line separators": f"a\u2028{FORGED}\u2029\x85{FORGED}\x0b\x0c\x1c",
    "nul": "a\0b",
}


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
def test_no_text_forges_a_line(service: Service, text: str) -> None:
    log.info(text, field=text, **{text: 1})
    logging.getLogger(text).info("%s", text)
    line, library = service.lines()
    assert line["message"] == line["field"] == library["message"] == text
    assert library["logger"] == text
    assert text in line


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
def test_no_request_forges_a_line(service: Service, text: str) -> None:
    environ = {
        "PATH_INFO": f"/{text}".encode().decode("latin-1"),
        "QUERY_STRING": text.encode().decode("latin-1"),
        "REQUEST_METHOD": text.encode().decode("latin-1"),
        "HTTP_X_REQUEST_ID": text,
        "HTTP_USER_AGENT": text,
        "HTTP_HOST": "example.org",
    }
    service.client.get("/", environ_overrides=environ)
    line = service.line("request")
    assert line["path"] == f"/{text}"
    assert line["method"] == "_OTHER"
    assert line["request_id"] != text


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
def test_the_console_shows_no_forged_line(make_service: MakeService, text: str) -> None:
    service = make_service(log_format="console")
    log.info(text, field=text, nested={"a": [text]}, **{text: 1})
    logging.getLogger(text).info("%s", text)
    service.client.get("/", environ_overrides={"PATH_INFO": f"/{text}".encode().decode("latin-1")})
    shown = service.written()
    assert shown.count("\n") == 3
    assert len(shown.splitlines()) == 3
    assert not any(
        ord(character) < 32 or ord(character) == 127 for character in shown if character != "\n"
    )


def test_the_console_shows_a_request_as_one_short_line(make_service: MakeService) -> None:
    service = make_service(log_format="console", app_revision="4f1c", otel_service_name="till")

    @service.app.post("/parcels/<int:number>")
    def parcel(number: int) -> tuple[str, int]:
        identify_user("u-1")
        return "", 201

    service.client.post("/parcels/7")
    (line,) = shown_lines(service)
    wanted = r"\d\d:\d\d:\d\d POST /parcels/7 201 \d+ ms user_id=u-1 request_id=[0-9a-f]{32}"
    assert re.fullmatch(wanted, line)


def test_the_console_says_what_was_slow_and_where_it_failed(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(log_format="console")
    now = [100.0]
    monkeypatch.setattr(middleware, "perf_counter", lambda: now[0])

    @service.app.get("/fails")
    def fails() -> str:
        now[0] += SLOW_REQUEST_SECONDS * 1.01
        raise RuntimeError("boom")

    service.client.get("/fails", headers={"X-Request-ID": "r-1"})
    failed, *traceback, request = shown_lines(service)
    assert failed.endswith(" ERROR observability.errors: request failed request_id=r-1")
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "RuntimeError: boom"
    wanted = r"\S+ GET /fails 500 \d+ ms slow in fails, test_log_lines\.py:\d+ request_id=r-1"
    assert re.fullmatch(wanted, request)


def test_the_console_shows_whose_line_it_is_where_it_is_not_the_requests(
    make_service: MakeService,
) -> None:
    service = make_service(log_format="console")

    @service.app.get("/sends")
    def sends() -> str:
        log.info("parcel sent", parcel_id=7, note="to the north", sizes=[1, 2])
        logging.getLogger("a.library").warning("odd")
        return ""

    service.client.get("/sends")
    ours, theirs, request = [line[9:] for line in shown_lines(service)]
    request_id = request.partition("request_id=")[2]
    fields = 'parcel_id=7 note="to the north" sizes=[1,2]'
    assert ours == f"INFO {__name__}: parcel sent {fields} request_id={request_id[:8]}…"
    assert theirs == f"WARNING a.library: odd request_id={request_id[:8]}…"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_the_development_servers_own_lines_are_shown(
    make_service: MakeService, log_format: str
) -> None:
    service = make_service(log_format=log_format)
    werkzeug = logging.getLogger("werkzeug")
    werkzeug.info("\x1b[31mWARNING: for development\x1b[0m\n * Running on http://127.0.0.1:8000")
    werkzeug.warning(" * Debugger is active!")
    werkzeug.info(" * Debugger PIN: %s", "123-456-789")
    werkzeug.info('127.0.0.1 - - [31/Jan/2026 09:26:53] "%s" %s %s', "GET / HTTP/1.1", 200, "-")
    werkzeug.info(" * Detected change in '/srv/app.py', reloading")
    shown = service.written()
    for text in ("Running on http://127.0.0.1:8000", "active", "PIN 123-456-789", "/srv/app.py"):
        assert text in shown
    assert " * " not in shown
    assert shown.count("\n") == 4


def test_an_address_is_not_shown_before_it_answers(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    monkeypatch.setenv("FLASK_DEBUG", "1")
    logging.getLogger("werkzeug").info(" * Running on http://127.0.0.1:8000")
    assert "Running on" not in service.written()


@pytest.mark.parametrize("colors", [True, False])
def test_the_console_is_coloured_on_a_terminal_alone(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, colors: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    if not colors:
        monkeypatch.setenv("NO_COLOR", "1")
    made = Lines(Settings(_env_file=None, log_format="console"), None, None)
    shown = made.encode(made.common_fields(time.time(), logging.INFO, "hello", "shop", None))
    assert (b"\x1b[32mINFO\x1b[0m" in shown) is colors
    in_a_file = make_service(log_format="console")
    log.info("m")
    assert "\x1b" not in in_a_file.written()


def test_the_console_shows_a_traceback(make_service: MakeService) -> None:
    service = make_service(log_format="console")
    try:
        raise ValueError("bad\x1b[2J price")
    except ValueError:
        log.exception("failed", parcel_id=7)
    shown = service.written()
    assert "failed" in shown
    assert "parcel_id=7" in shown
    assert "Traceback (most recent call last)" in shown
    assert "\x1b[2J" not in shown


# At most 16 KiB


def test_a_line_is_at_most_16_kib_and_says_that_it_was_cut(service: Service) -> None:
    log.info("x" * 100_000, field="y" * 100_000)
    (line,) = service.lines()
    assert line["truncated"] is True
    assert line["message"].startswith("xxx")
    assert line["field"].endswith("yyy")


@pytest.mark.parametrize(
    "fields",
    [
        {f"field{number}": "x" * 300 for number in range(200)},
        {f"field{number}": number for number in range(10_000)},
        {"x" * 20_000: 1},
        {"nested": {f"field{number}": "x" * 300 for number in range(200)}},
        {"nested": {f"{number}" * 200: 1 for number in range(1_000)}},
        {"list": ["x" * 100] * 1_000},
        {"list": [["\x01" * 100] * 100] * 100},
        {"emoji": "\U0001f9fe" * 10_000},
        {"control": "\x01" * 16_000},
    ],
    ids=[
        "many long fields",
        "very many fields",
        "a long name",
        "a large mapping",
        "long names within",
        "a long list",
        "lists of lists",
        "four bytes a letter",
        "six bytes a letter",
    ],
)
def test_whatever_makes_a_line_long_its_ids_stay_whole(
    service: Service, fields: dict[str, object]
) -> None:
    request_id, trace = "r" * 64, f"00-{'a1' * 16}-{'b2' * 8}-01"

    @service.app.get("/long")
    def long() -> str:
        identify_user("u" * 100)
        log.error("long", **fields)
        return ""

    service.client.get("/long", headers={"X-Request-ID": request_id, "traceparent": trace})
    line = service.line("long")
    assert line["truncated"] is True
    assert line["request_id"] == request_id
    assert line["trace_id"] == "a1" * 16
    assert line["service"] == service.settings.otel_service_name
    assert line["module"] == "test_log_lines"


def test_a_long_traceback_keeps_its_beginning_and_its_end(service: Service) -> None:
    def fall(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 50_000)
        fall(depth - 1)

    try:
        fall(500)
    except ValueError:
        log.exception("failed")
    (line,) = service.lines()
    assert line["truncated"] is True
    assert line["exception"]["type"] == "ValueError"
    assert line["exception"]["stacktrace"].startswith("Traceback")
    assert line["exception"]["stacktrace"].rstrip().endswith("x")


def test_a_long_path_is_cut(service: Service) -> None:
    service.client.get("/" + "a" * 60_000)
    (line,) = service.lines()
    assert line["truncated"] is True
    assert line["path"].startswith("/aaa")


# Levels and sampling


def test_lines_below_the_level_are_not_written(make_service: MakeService) -> None:
    service = make_service(log_level="WARNING")
    log.info("quiet")
    logging.getLogger("library").info("quiet")
    log.warning("loud")
    service.client.get("/")
    assert [line["message"] for line in service.lines()] == ["loud"]


def test_each_logger_can_have_its_own_level(make_service: MakeService) -> None:
    service = make_service(
        log_level="WARNING", log_levels="shop.basket=DEBUG,request=INFO,till=ERROR"
    )
    logging.getLogger("shop.basket.prices").debug("price")
    logging.getLogger("shop").info("quiet")
    get_logger("till").warning("quiet")
    service.client.get("/nowhere")
    assert [line["message"] for line in service.lines()] == ["price", "request"]


def test_the_request_line_can_be_switched_off_but_not_for_failures(
    make_service: MakeService,
) -> None:
    service = make_service(log_levels="request=ERROR")
    service.app.get("/busy")(lambda: Response(status=503))
    service.client.get("/nowhere")
    service.client.get("/busy")
    assert [line["status_code"] for line in service.lines()] == [503]


def test_sampling_leaves_out_successes_only(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(log_sample_ratio=0.0)
    now = [100.0]
    monkeypatch.setattr(middleware, "perf_counter", lambda: now[0])

    @service.app.get("/status/<int:status>")
    def status(status: int) -> Response:
        log.info("the service's own lines are never sampled")
        return Response(status=status)

    @service.app.get("/slow")
    def slow() -> str:
        now[0] += SLOW_REQUEST_SECONDS * 1.01
        return ""

    for code in (200, 204, 302, 400, 401, 404, 500, 503):
        service.client.get(f"/status/{code}")
    service.client.get("/slow")
    told = [line["status_code"] for line in service.lines("request")]
    assert told == [400, 401, 404, 500, 503, 200]
    assert len(service.lines("the service's own lines are never sampled")) == 8


def test_sampling_keeps_about_its_share(make_service: MakeService) -> None:
    service = make_service(log_sample_ratio=0.5)
    service.app.get("/well")(lambda: "")
    for _ in range(200):
        service.client.get("/well")
    assert 50 < len(service.lines("request")) < 150


def test_probes_and_scrapes_make_no_line(service: Service) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        assert service.client.get(path).status_code == 200
    assert service.lines() == []
    service.client.get("/healthcare")
    assert [line["path"] for line in service.lines()] == ["/healthcare"]


# Whose line it is


@pytest.mark.parametrize(
    ("mode", "address", "told"),
    [
        ("full", "203.0.113.77", "203.0.113.77"),
        ("full", "2001:db8:1234:5678::1", "2001:db8:1234:5678::1"),
        ("truncated", "203.0.113.77", "203.0.113.0"),
        ("truncated", "2001:db8:1234:5678::1", "2001:db8:1234::"),
        ("off", "203.0.113.77", None),
        ("full", "", None),
        ("truncated", "::ffff:203.0.113.77", "203.0.113.0"),
        ("truncated", "", None),
    ],
)
def test_the_clients_address_is_told_as_far_as_allowed(
    make_service: MakeService, mode: str, address: str, told: str | None
) -> None:
    service = make_service(log_client_ip=mode)
    service.client.get("/nowhere", environ_overrides={"REMOTE_ADDR": address})
    (line,) = service.lines("request")
    assert line.get("client_ip") == told
    if address and told != address:
        assert address not in service.written()


@pytest.mark.parametrize(
    "forwarded", ["unknown", "203.0.113.7:5123", "[2001:db8::1]:80", "_x", "a b"]
)
@pytest.mark.parametrize("mode", ["full", "truncated", "off"])
def test_an_odd_forwarding_header_fails_no_request(
    make_service: MakeService, mode: str, forwarded: str
) -> None:
    service = make_service(log_client_ip=mode, trusted_proxies=1)
    assert service.client.get("/", headers={"X-Forwarded-For": forwarded}).status_code == 200
    (line,) = service.lines("request")
    assert mode == "full" or forwarded not in service.written()
    assert line["status_code"] == 200


def test_forwarding_headers_are_believed_of_trusted_proxies_alone(
    make_service: MakeService,
) -> None:
    for proxies, told in ((0, "127.0.0.1"), (1, "192.0.2.1"), (2, "198.51.100.1")):
        service = make_service(trusted_proxies=proxies)
        service.client.get("/", headers={"X-Forwarded-For": "8.8.8.8, 198.51.100.1, 192.0.2.1"})
        assert service.line("request")["client_ip"] == told


def test_every_line_of_a_request_has_its_ids(service: Service) -> None:
    @service.app.get("/")
    def page() -> str:
        log.info("ours")
        identify_user("u-1")
        logging.getLogger("library").info("theirs")
        return ""

    service.app.view_functions["home.page"] = page
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-ID": "r-1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    service.client.get("/", headers=headers)
    log.info("afterwards")
    ours, theirs, request, afterwards = service.lines()
    for line in (ours, theirs, request):
        assert (line["request_id"], line["trace_id"]) == ("r-1", trace)
    assert "user_id" not in ours
    assert theirs["user_id"] == request["user_id"] == "u-1"
    assert not {"request_id", "trace_id", "user_id"} & afterwards.keys()


@pytest.mark.parametrize("how", ["unhandled", "aborted", "propagated"])
def test_no_id_outlives_its_request(service: Service, how: str) -> None:
    @service.app.get("/fails")
    def fails() -> str:
        identify_user("u-1")
        if how == "aborted":
            abort(418)
        raise RuntimeError("boom")

    if how == "propagated":
        service.app.config["PROPAGATE_EXCEPTIONS"] = True
        with pytest.raises(RuntimeError):
            service.client.get("/fails")
    else:
        service.client.get("/fails")
    assert service.line("request")["user_id"] == "u-1"
    log.info("afterwards")
    assert not {"request_id", "user_id"} & service.line("afterwards").keys()
    service.client.get("/nowhere")
    assert "user_id" not in service.lines("request")[-1]


def test_threads_that_a_request_starts_speak_with_its_ids(service: Service) -> None:
    @service.app.get("/work")
    def work() -> str:
        identify_user("u-1")
        threads = [
            threading.Thread(target=in_request_context(say), args=("in a thread",)),
            threading.Thread(target=say, args=("in a bare thread",)),
        ]
        for thread in threads:
            thread.start()
            thread.join()
        with ThreadPoolExecutor(1) as executor:
            list(executor.map(in_request_context(say), ["in a pool"] * 8))
            executor.submit(say, "in a bare pool").result()
        return ""

    def say(message: str) -> None:
        log.info(message, told=request_id())

    service.client.get("/work", headers={"X-Request-ID": "r-1"})
    for message in ("in a thread", "in a pool"):
        for line in service.lines(message):
            assert (line["request_id"], line["user_id"], line["told"]) == ("r-1", "u-1", "r-1")
    for message in ("in a bare thread", "in a bare pool"):
        assert "request_id" not in service.line(message)


def test_requests_at_the_same_time_keep_their_ids_apart(service: Service) -> None:
    meet = threading.Barrier(4, timeout=10)

    @service.app.get("/meet/<name>")
    def view(name: str) -> str:
        identify_user(name)
        meet.wait()
        log.info("met", name_said=name)
        return ""

    def call(name: str) -> None:
        service.app.test_client().get(f"/meet/{name}", headers={"X-Request-ID": name})

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(call, "abcd"))
    for line in service.lines("met"):
        assert line["request_id"] == line["user_id"] == line["name_said"]
    assert len(service.lines()) == 8


@pytest.mark.parametrize("stopped", [False, True])
def test_a_streamed_answers_lines_have_its_ids(service: Service, stopped: bool) -> None:
    @service.app.get("/stream")
    def stream() -> Response:
        def pieces() -> Iterator[bytes]:
            try:
                for number in range(3):
                    log.info("piece", number=number)
                    yield b"x"
            finally:
                log.info("closed")

        return Response(pieces())

    answer = service.client.get("/stream", headers={"X-Request-ID": "r-1"}, buffered=False)
    chunks = iter(answer.response)
    next(chunks)
    log.info("between the pieces")
    if not stopped:
        list(chunks)
    answer.close()
    log.info("afterwards")
    expected = 1 if stopped else 3
    assert [line["request_id"] for line in service.lines("piece")] == ["r-1"] * expected
    assert service.line("closed")["request_id"] == "r-1"
    assert "request_id" not in service.line("between the pieces")
    assert "request_id" not in service.line("afterwards")
    assert "bytes" not in service.line("request")


def test_lines_are_counted_by_level(service: Service) -> None:
    def counted() -> dict[str, float]:
        return {
            level: service.metric("log_messages_total", level=level)
            for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        }

    assert set(counted().values()) == {0}
    assert len(service.series("log_messages_total")) == 5
    log.debug("below the level")
    log.info("a")
    log.warning("b")
    log.error("c")
    log.critical("d")
    logging.getLogger("odd").log(35, "between two levels")
    service.client.get("/nowhere")
    assert counted() == {"DEBUG": 0, "INFO": 2, "WARNING": 2, "ERROR": 1, "CRITICAL": 1}
    written: list[Line] = service.lines()
    assert [line["level"] for line in written].count("WARNING") == 2


def test_a_line_that_cannot_be_made_is_counted_and_harms_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> bytes:
        raise MemoryError

    (lines,) = [handler for handler in logging.root.handlers if isinstance(handler, Lines)]
    monkeypatch.setattr(lines, "encode", broken)
    log.info("lost")
    assert service.client.get("/" + "x" * 200).status_code == 404
    dropped: Callable[[], float] = lambda: service.metric(  # noqa: E731
        "telemetry_dropped_total", signal="logs", reason="MemoryError"
    )
    assert dropped() == 2
    monkeypatch.undo()
    log.info("found")
    assert service.line("log lines lost")["lost"] == 2
