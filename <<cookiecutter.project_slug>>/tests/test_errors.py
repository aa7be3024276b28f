"""Errors: each failure is logged once and, with SENTRY_DSN, reported once, without secrets."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from flask import Flask, Response, abort
from werkzeug.exceptions import InternalServerError

from <<cookiecutter.__package>>.observability import (
    errors,
    get_logger,
    identify_user,
    in_request_context,
)

from .conftest import MakeService
from .support import Server, Service, eventually, parsed, server
from .test_loggers import CONFIGURATIONS

log = get_logger(__name__)

Event = dict[str, Any]


class Sentry:
    """The service, and the stand-in for Sentry that it reports to."""

    def __init__(self, service: Service, stand_in: Server) -> None:
        self.service = service
        self.app = service.app
        self.client = service.client
        self.stand_in = stand_in

    def events(self) -> list[Event]:
        """What arrived, after all that was sent has."""
        import sentry_sdk  # noqa: PLC0415 - a service without a DSN must not pay for it

        sentry_sdk.flush(timeout=5)
        return [
            json.loads(item)
            for _, _, body in self.stand_in.requests
            for header, item in _items(body)
            if header["type"] == "event"
        ]

    def event(self) -> Event:
        (event,) = self.events()
        return event


def _items(envelope: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The items of an envelope (develop.sentry.dev/sdk/envelopes)."""
    _, _, rest = envelope.partition(b"\n")
    while rest.strip():
        header_line, _, rest = rest.partition(b"\n")
        header = json.loads(header_line)
        size = header.get("length", rest.find(b"\n"))
        yield header, rest[:size]
        rest = rest[size:].lstrip(b"\n")


@pytest.fixture
def sentry(make_service: MakeService) -> Iterator[Sentry]:
    with server(lambda _: (200, b'{"id": "1"}')) as stand_in:
        service = make_service(
            sentry_dsn=f"http://publickey@{stand_in.host}/7",
            environment="staging",
            app_version="1.2.3",
            app_revision="4f1c",
        )
        yield Sentry(service, stand_in)


class OutOfStockError(Exception):
    """A failure of the tests' own."""


def fail() -> str:
    raise OutOfStockError("no more parcels")


def logged_failures(service: Service) -> list[str]:
    """The exceptions' types of all lines that tell one."""
    return [line["exception"]["type"] for line in service.lines() if "exception" in line]


# Without Sentry


def test_an_unhandled_failure_is_logged_once(service: Service) -> None:
    service.app.get("/fails")(fail)
    answer = service.client.get("/fails")
    assert answer.status_code == 500
    assert "parcels" not in answer.text
    assert logged_failures(service) == [f"{__name__}.OutOfStockError"]
    assert len(service.lines()) == 2


def test_a_failure_that_errorhandler_exception_answers_is_logged_once(service: Service) -> None:
    service.app.get("/fails")(fail)
    service.app.errorhandler(Exception)(lambda error: ("sorry", 500))
    assert service.client.get("/fails").text == "sorry"
    assert logged_failures(service) == [f"{__name__}.OutOfStockError"]
    assert service.line("request failed")["level"] == "ERROR"


def test_a_probe_that_fails_is_logged_too(service: Service) -> None:
    service.app.view_functions["health"] = fail
    assert service.client.get("/health", headers={"X-Request-ID": "r-1"}).status_code == 500
    assert service.line("request failed")["request_id"] == "r-1"
    assert len(service.lines()) == 1


def test_a_failure_that_its_handler_logs_is_not_logged_again(service: Service) -> None:
    service.app.get("/fails")(fail)

    @service.app.errorhandler(OutOfStockError)
    def sorry(error: OutOfStockError) -> tuple[str, int]:
        log.exception("sold out")
        return "sorry", 503

    service.client.get("/fails")
    assert [line["message"] for line in service.lines()] == ["sold out", "request"]


def test_a_failure_that_is_answered_as_the_callers_fault_is_not_logged(service: Service) -> None:
    service.app.get("/fails")(fail)
    service.app.errorhandler(OutOfStockError)(lambda error: ("sold out", 409))
    service.client.get("/fails")
    assert [line["message"] for line in service.lines()] == ["request"]


@pytest.mark.parametrize("status", [400, 404, 409, 418])
def test_an_abort_is_not_a_failure(service: Service, status: int) -> None:
    service.app.get("/aborts")(lambda: abort(status))
    assert service.client.get("/aborts").status_code == status
    assert logged_failures(service) == []


@pytest.mark.parametrize("status", [500, 503])
def test_an_abort_that_is_the_services_fault_is_logged_once(service: Service, status: int) -> None:
    service.app.get("/aborts")(lambda: abort(status))
    assert service.client.get("/aborts").status_code == status
    assert len(logged_failures(service)) == 1


def test_a_handled_failure_is_logged_where_it_is_handled(service: Service) -> None:
    @service.app.get("/copes")
    def copes() -> str:
        try:
            fail()
        except OutOfStockError:
            log.exception("sold out, offering another")
        return "another"

    assert service.client.get("/copes").status_code == 200
    assert [line["message"] for line in service.lines()] == [
        "sold out, offering another",
        "request",
    ]


def test_a_failed_thread_is_logged_once(service: Service) -> None:
    @service.app.get("/works")
    def works() -> str:
        thread = threading.Thread(target=in_request_context(fail), name="worker")
        thread.start()
        thread.join()
        return ""

    service.client.get("/works", headers={"X-Request-ID": "r-1"})
    line = service.line("thread failed")
    assert line["exception"]["message"] == "no more parcels"
    assert line["request_id"] == "r-1"
    assert line["thread_name"] == "worker"
    assert len(service.lines()) == 2


def test_a_thread_that_exits_has_not_failed(service: Service) -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert service.lines() == []


def test_a_failed_command_is_logged_once(service: Service) -> None:
    try:
        fail()
    except OutOfStockError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    line = service.line("command failed")
    assert line["level"] == "CRITICAL"
    assert line["exception"]["type"] == f"{__name__}.OutOfStockError"


def test_an_interrupted_command_has_not_failed(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert service.lines() == []
    assert "KeyboardInterrupt" in capsys.readouterr().err


def break_off(app: Flask) -> OutOfStockError:
    """Stream an answer that fails after its first piece, and return what the server is told."""

    @app.get("/streams")
    def streams() -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            fail()

        return Response(pieces())

    answer = app.test_client().get("/streams", headers={"X-Request-ID": "r-1"}, buffered=False)
    with pytest.raises(OutOfStockError) as told:
        _ = answer.data
    answer.close()
    return told.value


def test_an_answer_that_breaks_off_is_logged_with_the_requests_ids(service: Service) -> None:
    error = break_off(service.app)
    logging.getLogger("gunicorn.error").error("Error handling request", exc_info=error)
    log.info("afterwards")
    assert service.line("Error handling request")["request_id"] == "r-1"
    assert "request_id" not in service.line("afterwards")


def test_without_a_dsn_sentry_is_not_even_imported(process_output: bytes) -> None:
    (line,) = [line for line in parsed(process_output) if "sentry" in line]
    assert line["sentry"] is False


# With Sentry


def test_the_stand_in_for_sentry_receives_the_whole_circumstances(sentry: Sentry) -> None:
    @sentry.app.get("/parcels/<int:number>")
    def parcel(number: int) -> str:
        identify_user("u-1")
        return fail()

    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-ID": "r-1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    sentry.client.get("/parcels/7?page=2", headers=headers)
    event = sentry.event()
    assert event["environment"] == "staging"
    assert event["release"] == f"{sentry.service.settings.otel_service_name}@1.2.3"
    assert event["dist"] == "4f1c"
    assert event["level"] == "error"
    assert event["user"] == {"id": "u-1"}
    assert event["tags"] == {"request_id": "r-1", "trace_id": trace}
    assert event["transaction"] == "parcel"
    assert event["request"] == {"method": "GET", "url": "http://localhost/parcels/7"}
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "OutOfStockError"
    assert exception["value"] == "no more parcels"
    assert exception["mechanism"]["handled"] is False
    assert exception["stacktrace"]["frames"][-1]["function"] == "fail"
    (path, request_headers, _), *_ = sentry.stand_in.requests
    assert path == "/api/7/envelope/"
    assert "publickey" in request_headers["X-Sentry-Auth"]


def in_a_view(app: Flask) -> None:
    app.get("/fails")(fail)
    app.test_client().get("/fails")


def with_errorhandler_exception(app: Flask) -> None:
    app.errorhandler(Exception)(lambda error: ("sorry", 500))
    in_a_view(app)


def with_a_handler_that_logs(app: Flask) -> None:
    def sorry(error: Exception) -> tuple[str, int]:
        log.exception("sold out")
        app.logger.error("again", exc_info=error)
        return "sorry", 500

    app.errorhandler(Exception)(sorry)
    in_a_view(app)


def handled_and_raised_again(app: Flask) -> None:
    @app.get("/fails")
    def fails() -> str:
        try:
            return fail()
        except OutOfStockError:
            log.exception("sold out")
            raise

    app.test_client().get("/fails")


def in_a_thread(app: Flask) -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def in_a_command(app: Flask) -> None:
    @app.cli.command("ship")
    def ship() -> None:
        click.echo("shipping")
        fail()

    result = app.test_cli_runner().invoke(args=["ship"])
    assert isinstance(result.exception, OutOfStockError)
    sys.excepthook(OutOfStockError, result.exception, result.exception.__traceback__)


def in_a_hook_before(app: Flask) -> None:
    app.before_request(lambda: fail())
    app.test_client().get("/")


def while_propagating(app: Flask) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(OutOfStockError):
        in_a_view(app)


def by_an_abort(app: Flask) -> None:
    @app.get("/aborts")
    def aborts() -> str:
        try:
            return fail()
        except OutOfStockError as error:
            raise InternalServerError(original_exception=error) from error

    app.test_client().get("/aborts")


def by_the_standard_library(app: Flask) -> None:
    try:
        fail()
    except OutOfStockError:
        logging.getLogger("a.library").exception("failed")


@pytest.mark.parametrize(
    "failing",
    [
        in_a_view,
        with_errorhandler_exception,
        with_a_handler_that_logs,
        handled_and_raised_again,
        in_a_thread,
        in_a_command,
        in_a_hook_before,
        while_propagating,
        by_an_abort,
        by_the_standard_library,
    ],
)
def test_the_stand_in_for_sentry_receives_each_failure_once(
    sentry: Sentry, failing: Callable[[Flask], None]
) -> None:
    failing(sentry.app)
    told = [exception["type"] for exception in sentry.event()["exception"]["values"]]
    assert "OutOfStockError" in told


@pytest.mark.parametrize(
    "failing",
    [
        in_a_view,
        with_errorhandler_exception,
        handled_and_raised_again,
        in_a_thread,
        in_a_command,
        while_propagating,
    ],
)
def test_what_nobody_handled_is_logged_once(
    service: Service, failing: Callable[[Flask], None]
) -> None:
    failing(service.app)
    assert logged_failures(service) == [f"{__name__}.OutOfStockError"]


@pytest.mark.parametrize("configure", CONFIGURATIONS)
def test_no_configuration_of_anybody_elses_keeps_a_failure_from_sentry(
    sentry: Sentry, configure: Callable[[], None]
) -> None:
    configure()
    in_a_view(sentry.app)
    assert sentry.event()["exception"]["values"][-1]["type"] == "OutOfStockError"


def test_a_requests_failed_thread_is_reported_with_its_id_and_no_route_that_it_does_not_know(
    sentry: Sentry,
) -> None:
    @sentry.app.get("/starts")
    def starts() -> str:
        thread = threading.Thread(target=in_request_context(fail))
        thread.start()
        thread.join()
        return ""

    sentry.client.get("/starts", headers={"X-Request-ID": "r-1"})
    event = sentry.event()
    assert event["tags"]["request_id"] == "r-1"
    assert event.get("transaction") != "<unmatched>"


def test_an_answer_that_breaks_off_is_reported_as_its_requests_failure(sentry: Sentry) -> None:
    error = break_off(sentry.app)
    logging.getLogger("gunicorn.error").error("Error handling request", exc_info=error)
    event = sentry.event()
    assert event["tags"]["request_id"] == "r-1"
    assert event["transaction"] == "streams"
    assert event["exception"]["values"][0]["mechanism"]["handled"] is False


def test_a_failure_that_has_its_own_way_with_attributes_is_told(sentry: Sentry) -> None:
    class ProxyError(Exception):
        def __getattr__(self, name: str) -> object:
            raise KeyError(name)

        def __len__(self) -> int:
            return 0

    try:
        raise ProxyError("odd")
    except ProxyError:
        log.exception("failed")
    told = sentry.service.line("failed")["exception"]
    assert told["message"] == "odd"
    assert "test_errors.py" in told["stacktrace"]


def test_a_failure_that_takes_no_attributes_is_reported_too(sentry: Sentry) -> None:
    class FrozenError(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    try:
        raise FrozenError("cold")
    except FrozenError:
        log.exception("failed")
    assert sentry.event()["exception"]["values"][0]["value"] == "cold"


def test_a_failure_that_counts_as_false_is_told_and_reported_once(sentry: Sentry) -> None:
    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    @sentry.app.get("/empty")
    def empty() -> str:
        raise EmptyError("nothing there")

    assert sentry.client.get("/empty").status_code == 500
    assert sentry.service.line("request failed")["exception"]["message"] == "nothing there"
    assert sentry.event()["exception"]["values"][0]["value"] == "nothing there"


def test_lines_without_an_exception_are_not_reported(sentry: Sentry) -> None:
    log.error("a line and no more")
    sentry.app.get("/busy")(lambda: Response(status=503))
    sentry.client.get("/busy")
    sentry.client.get("/no/such/page")
    try:
        fail()
    except OutOfStockError:
        log.warning("expected", exc_info=True)
    assert sentry.events() == []


def test_no_secret_reaches_the_stand_in_for_sentry(sentry: Sentry) -> None:
    # Made here, as an event quotes the source: a secret that is written there is lost anyway.
    secret, card = "".join(("hunt", "er2")), " ".join(["4111", *["1111"] * 3])

    @sentry.app.post("/pay/<path:rest>")
    def pay(rest: str) -> str:
        identify_user(f"Bearer {secret}-1")
        try:
            raise ValueError(f"no card {card} of postgresql://app:{secret}@db/parcels")
        except ValueError as error:
            raise OutOfStockError(f"password={secret} api_key: {secret}") from error

    sentry.client.post(
        f"/pay/password={secret}?token={secret}",
        data={"password": secret},
        headers={"Authorization": f"Bearer {secret}", "Cookie": f"session={secret}"},
    )
    told = json.dumps(sentry.event())
    assert '"vars"' not in told
    assert secret not in told
    assert card not in told
    assert told.count("REDACTED") >= 4


def losses(service: Service) -> float:
    """How many errors were not delivered."""
    name = "telemetry_dropped_total"
    each = [labels for labels in service.series(name) if labels["signal"] == "errors"]
    return sum(service.metric(name, **labels) for labels in each)


def test_a_sample_of_errors_can_be_sent(make_service: MakeService) -> None:
    with server(lambda _: (200, b"{}")) as stand_in:
        dsn = f"http://publickey@{stand_in.host}/7"
        sentry = Sentry(make_service(sentry_dsn=dsn, sentry_sample_rate=0.0), stand_in)
        in_a_view(sentry.app)
        assert sentry.events() == []
        assert losses(sentry.service) == 0


@pytest.mark.parametrize(
    ("status", "content"), [(200, b"<html>"), (429, b""), (500, b"{}"), (413, b""), (302, b"")]
)
def test_whatever_the_stand_in_for_sentry_answers_no_request_fails(
    make_service: MakeService, status: int, content: bytes
) -> None:
    with server(lambda _: (status, content)) as stand_in:
        sentry = Sentry(make_service(sentry_dsn=f"http://publickey@{stand_in.host}/7"), stand_in)
        sentry.app.get("/fails")(fail)
        assert [sentry.client.get("/fails").status_code for _ in range(3)] == [500] * 3
        sentry.events()
        assert bool(losses(sentry.service)) is (status != 200)
        assert len(logged_failures(sentry.service)) == 3


def test_a_sentry_that_refuses_is_counted_and_said_once(make_service: MakeService) -> None:
    with server(lambda _: (200, b"")) as stand_in:
        dsn = f"http://publickey@{stand_in.host}/7"
    sentry = Sentry(make_service(sentry_dsn=dsn), stand_in)
    sentry.app.get("/fails")(fail)
    assert [sentry.client.get("/fails").status_code for _ in range(3)] == [500] * 3
    sentry.events()
    eventually(lambda: losses(sentry.service) == 3)
    assert len(sentry.service.lines("telemetry lost")) == 1


def test_an_error_of_which_no_event_can_be_made_is_counted(
    sentry: Sentry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(errors, "_report", broken)
    sentry.app.get("/fails")(fail)
    assert sentry.client.get("/fails").status_code == 500
    assert losses(sentry.service) == 1
    assert sentry.service.line("telemetry lost")["reason"] == "MemoryError"


def test_a_sentry_that_hangs_slows_no_request(make_service: MakeService) -> None:
    free = threading.Event()

    def hang(_: bytes) -> tuple[int, bytes]:
        free.wait(10)
        return 200, b"{}"

    with server(hang) as stand_in:
        sentry = Sentry(make_service(sentry_dsn=f"http://publickey@{stand_in.host}/7"), stand_in)
        sentry.app.get("/fails")(fail)
        for _ in range(20):
            assert sentry.client.get("/fails").status_code == 500
        slowest = max(line["duration_ms"] for line in sentry.service.lines("request"))
        free.set()
        assert len(sentry.events()) == 20
    assert slowest < 1_000
