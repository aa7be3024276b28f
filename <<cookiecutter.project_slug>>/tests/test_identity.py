"""Identity: one id from the caller, through every answer, to every service that is called."""

import threading
from collections.abc import Iterator

import pytest
from requests import Session
from requests.adapters import HTTPAdapter
from requests.exceptions import ReadTimeout

from <<cookiecutter.__package>> import http_client
from <<cookiecutter.__package>>.http_client import TIMEOUT_SECONDS, http_session
from <<cookiecutter.__package>>.observability import (
    identify_user,
    in_request_context,
    outgoing_headers,
    request_id,
)

from .support import Server, Service, server

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "given", ["r-1", "A", "0" * 64, "a.b_c-D9", "550e8400-e29b-41d4-a716-446655440000"]
)
def test_the_callers_request_id_is_kept(service: Service, given: str) -> None:
    answer = service.client.get("/", headers={"X-Request-ID": given})
    assert answer.headers.getlist("X-Request-ID") == [given]
    assert service.line("request")["request_id"] == given


@pytest.mark.parametrize(
    "given",
    ["", " ", "a b", "0" * 65, "a\tb", "ä", "a,b", "<script>", '"', "a;b", "../x", "a\n", "a\n{}"],
)
def test_one_that_is_no_id_is_replaced(service: Service, given: str) -> None:
    environ = {"HTTP_X_REQUEST_ID": given}
    answer = service.client.get("/", environ_overrides=environ)
    made = answer.headers["X-Request-ID"]
    assert made != given
    assert len(made) == 32
    assert int(made, 16) >= 0
    assert service.line("request")["request_id"] == made


def test_without_one_each_request_gets_its_own(service: Service) -> None:
    made = {service.client.get("/").headers["X-Request-ID"] for _ in range(50)}
    assert len(made) == 50


@pytest.mark.parametrize(
    "path", ["/", "/no/such/page", "/health/live", "/metrics", "/fails", "/static/home.css"]
)
def test_every_answer_carries_the_id(service: Service, path: str) -> None:
    service.app.get("/fails")(lambda: str(1 // 0))
    answer = service.client.get(path, headers={"X-Request-ID": "r-1"})
    answer.close()
    assert answer.headers.getlist("X-Request-ID") == ["r-1"]


def test_a_trace_that_the_caller_began_is_on_every_line(service: Service) -> None:
    service.client.get("/", headers={"traceparent": TRACEPARENT})
    assert service.line("request")["trace_id"] == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        TRACEPARENT.upper(),
        f"00-{TRACE[:-1]}-00f067aa0ba902b7-01",
        f"{TRACEPARENT}\n",
        f"00-{TRACE[:-1]}x-00f067aa0ba902b7-01",
        f"{TRACEPARENT},{TRACEPARENT}",
    ],
)
def test_what_is_no_traceparent_is_ignored(service: Service, traceparent: str) -> None:
    sent: list[dict[str, str]] = []

    @service.app.get("/asks")
    def asks() -> str:
        sent.append(outgoing_headers())
        return ""

    service.client.get("/asks", environ_overrides={"HTTP_TRACEPARENT": traceparent})
    assert "trace_id" not in service.line("request")
    assert "traceparent" not in sent[0]


def test_the_user_is_never_taken_from_a_header_nor_returned(service: Service) -> None:
    @service.app.get("/me")
    def me() -> str:
        identify_user("u-1")
        return ""

    headers = {"X-User-ID": "forged", "User-ID": "forged", "X-Forwarded-User": "forged"}
    service.client.get("/", headers=headers)
    answer = service.client.get("/me", headers=headers)
    assert "u-1" not in str(answer.headers)
    nobody, somebody = service.lines("request")
    assert "user_id" not in nobody
    assert somebody["user_id"] == "u-1"
    assert "forged" not in service.written()


@pytest.mark.parametrize("user", [7, "x" * 1_000, "jane\n{}", "", "\ud800"])
def test_whatever_names_a_user_harms_nobody(service: Service, user: object) -> None:
    @service.app.get("/me")
    def me() -> str:
        identify_user(user)  # type: ignore[arg-type]
        return ""

    assert service.client.get("/me").status_code == 200
    assert len(service.line("request")["user_id"]) <= 128


def test_outside_a_request_there_is_no_identity() -> None:
    identify_user("u-1")
    assert request_id() is None
    assert outgoing_headers() == {}
    assert in_request_context(request_id)() is None


def test_a_function_in_request_context_is_called_as_it_is(service: Service) -> None:
    def add(one: int, *, other: int) -> int:
        return one + other

    with service.app.test_request_context():
        assert in_request_context(add)(1, other=2) == 3
    with pytest.raises(ZeroDivisionError):
        in_request_context(lambda: 1 // 0)()


# Calls to other services


@pytest.fixture
def other() -> Iterator[Server]:
    with server(lambda _: (200, b"{}")) as stand_in:
        yield stand_in


def call(service: Service, session: Session, other: Server, **kwargs: object) -> dict[str, str]:
    """The headers of a call that a request makes."""

    @service.app.get("/asks")
    def asks() -> str:
        identify_user("u-1")
        session.get(f"{other.url}/stock", **kwargs)  # type: ignore[arg-type]
        return ""

    headers = {
        "X-Request-ID": "r-1",
        "traceparent": TRACEPARENT,
        "Authorization": "Bearer x",
        "Cookie": "a=b",
    }
    assert service.client.get("/asks", headers=headers).status_code == 200
    ((_, sent, _),) = other.requests
    return sent


def test_a_call_carries_the_requests_id_and_trace(service: Service, other: Server) -> None:
    with http_session() as session:
        sent = call(service, session, other)
    assert sent["X-Request-ID"] == "r-1"
    assert sent["traceparent"].split("-")[1] == TRACE


def test_a_call_carries_nothing_else_of_the_request(service: Service, other: Server) -> None:
    with http_session() as session:
        sent = call(service, session, other)
    assert "u-1" not in str(sent)
    assert not {"Authorization", "Cookie"} & sent.keys()


def test_a_header_that_the_caller_sets_stays(service: Service, other: Server) -> None:
    with http_session() as session:
        sent = call(service, session, other, headers={"X-Request-ID": "mine"})
    assert sent["X-Request-ID"] == "mine"


def test_a_call_outside_a_request_carries_no_id(other: Server) -> None:
    with http_session() as session:
        session.get(other.url)
    assert "X-Request-ID" not in other.requests[0][1]


def test_a_call_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < TIMEOUT_SECONDS[0] <= TIMEOUT_SECONDS[1] <= 10
    monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", (1, 0.05))
    free = threading.Event()
    with server(lambda _: (200 if free.wait(5) else 500, b"")) as slow, http_session() as session:
        with pytest.raises(ReadTimeout):
            session.get(slow.url)
        free.set()


def test_calls_are_not_repeated_unless_asked(other: Server) -> None:
    for retries in (0, 2):
        with http_session(retries) as session:
            for adapter in session.adapters.values():
                assert isinstance(adapter, HTTPAdapter)
                assert adapter.max_retries.total == retries
