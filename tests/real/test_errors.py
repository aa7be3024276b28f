"""Errors reach a real server of Sentry's protocol: once each, with what one needs."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from . import servers
from .load import one_path, send
from .processes import eventually, free_port, run
from .service import Gunicorn, Service, request


def _events(inbox: servers.Project, number: int) -> list[dict[str, Any]]:
    """Wait for that many events; more would be one failure reported twice."""
    eventually(lambda: len(inbox.events()) >= number, f"{number} events", 30)
    return inbox.events()


def _what_happened(event: dict[str, Any]) -> tuple[str, str]:
    last = event["exception"]["values"][-1]
    return last["type"], last["value"]


def _failures(service: Gunicorn, text: str) -> list[dict[str, Any]]:
    """The log lines of an exception with this text."""
    return [r for r in service.records() if text in json.dumps(r.get("exception", ""))]


def _serving(service: Service, dsn: str, **extra: str) -> Any:
    release: dict[str, Any] = {"APP_VERSION": "7.8.9", "APP_REVISION": "abc1234", "WEB_CONCURRENCY": "2"}
    return service.serving(SENTRY_DSN=dsn, **release | extra)


def test_an_unhandled_failure_is_reported_once_with_all_that_one_asks_for(
    small: Service, bugsink: servers.Bugsink
) -> None:
    """In a request and in a thread that it starts: release, environment, user, ids, endpoint."""
    inbox = bugsink.inbox()
    with _serving(small, inbox.dsn) as service:
        answer = request(
            service.port,
            "/stage/boom?user=u-77&message=first",
            headers={"X-Request-ID": "req-77"},
        )
        assert answer.status == 500
        assert answer.json()["request_id"] == "req-77"
        assert "first" not in answer.text
        (event,) = _events(inbox, 1)
        assert request(service.port, "/stage/thread-boom/t9", headers={"X-Request-ID": "req-78"}).status == 200
        _events(inbox, 2)
        service.get("/stage/status/500")
        service.get("/nowhere")
        service.order(amount="-1")
    assert service.program.wait(30) == 0
    in_thread = _events(inbox, 2)[1:]
    assert len(in_thread) == 1, "answers without an exception are no errors"
    assert _what_happened(event) == ("RuntimeError", "first")
    assert event["release"] == "proof-service@7.8.9"
    assert event["environment"] == "staging"
    assert event["user"]["id"] == "u-77"
    assert dict(event["tags"])["request_id"] == "req-77"
    assert event["transaction"] == "boom"
    assert event["dist"] == "abc1234"
    assert _what_happened(in_thread[0]) == ("RuntimeError", "in a thread t9")
    assert dict(in_thread[0]["tags"])["request_id"] == "req-78"
    assert in_thread[0]["user"]["id"] == "user-t9"
    assert len(_failures(service, "first")) == 1
    assert len(_failures(service, "in a thread t9")) == 1
    assert _failures(service, "first")[0]["request_id"] == "req-77"


def test_a_failure_that_an_errorhandler_answers_is_reported_too(small: Service, bugsink: servers.Bugsink) -> None:
    """errorhandler(Exception) hides failures from Flask's signals, and from most integrations."""
    inbox = bugsink.inbox()
    with _serving(small, inbox.dsn, STAGE_HANDLES_EVERYTHING="1") as service:
        assert service.get("/stage/boom?user=u-1&message=hidden").text == "handled"
        _events(inbox, 1)
    events = _events(inbox, 1)
    assert [_what_happened(event) for event in events] == [("RuntimeError", "hidden")]
    assert events[0]["user"]["id"] == "u-1"
    assert events[0]["transaction"] == "boom"
    assert len(_failures(service, "hidden")) == 1


def test_no_library_that_configures_logging_silences_lines_or_events(small: Service, bugsink: servers.Bugsink) -> None:
    """At import and in requests: requests, failures, the service's own lines and gunicorn's go on, each once."""
    inbox = bugsink.inbox()
    ways = ["dictConfig", "basicConfig", "handlers", "shutdown", "disable"]
    with _serving(small, inbox.dsn, STAGE_SILENCES="dictConfig", WEB_CONCURRENCY="1") as service:
        for way in ways:
            assert service.get(f"/stage/silences/{way}").status == 200
            assert service.get(f"/stage/boom?message=after-{way}").status == 500
        assert service.post("/api/v1/orders", {}).status == 400
        events = _events(inbox, len(ways))
        (worker,) = service.workers()
        service.program.send(signal.SIGHUP)
        eventually(lambda: service.lines(logger="gunicorn.error", message=f"Worker exiting (pid: {worker})"), "an exit")
    service.output.at_end()
    assert sorted(_what_happened(event)[1] for event in events) == sorted(f"after-{way}" for way in ways)
    assert not service.errors.text()
    for way in ways:
        assert [line["message"] for line in service.lines(mark=way)] == [
            "from the service",
            "from a module of the service",
        ]
        assert len(service.lines(message="request", path=f"/stage/silences/{way}")) == 1
        assert len(_failures(service, f"after-{way}")) == 1
    assert len(service.lines(message="security event")) == 1


def test_a_failing_command_is_reported_once(small: Service, bugsink: servers.Bugsink) -> None:
    """Commands fail where nobody looks."""
    inbox = bugsink.inbox()
    code, out, err = small.flask(
        "stage-boom",
        "in a command",
        app="stage",
        SENTRY_DSN=inbox.dsn,
        ENVIRONMENT="staging",
        APP_VERSION="7.8.9",
        DATABASE_URL=f"sqlite:///{small.database}",
    )
    assert code == 1
    (event,) = _events(inbox, 1)
    assert _what_happened(event) == ("RuntimeError", "in a command")
    assert (event["release"], event["environment"]) == ("proof-service@7.8.9", "staging")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len([line for line in lines if "in a command" in json.dumps(line)]) == 1
    assert "Traceback" not in err


def test_the_same_failure_is_one_group_and_different_ones_are_two(small: Service, bugsink: servers.Bugsink) -> None:
    """Grouping works: a hundred of one failure are one issue."""
    inbox = bugsink.inbox()
    with _serving(small, inbox.dsn) as service:
        send(service, 20, step=one_path("/stage/boom?message=again"))
        service.get("/stage/thread-boom/x")
        _events(inbox, 21)
    assert len(_events(inbox, 21)) == 21
    assert inbox.groups() == 2


def test_without_a_dsn_the_sdk_is_not_even_loaded(small: Service) -> None:
    """No DSN, no cost."""
    script = "import stage, sys; print('sentry_sdk' in sys.modules)"
    done = run(
        [small.tool("python"), "-c", script],
        folder=small.folder,
        environment=small.environment(DATABASE_URL=f"sqlite:///{small.database}"),
    )
    assert done.stdout.strip() == "False", done.stderr


@contextmanager
def _listener(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen, and treat every connection in some unhelpful way."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                threading.Thread(target=behave, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()


def _hang(connection: socket.socket) -> None:
    """Take everything and never answer."""
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass


def _babble(connection: socket.socket) -> None:
    """Answer what is not HTTP."""
    try:
        connection.recv(65536)
        connection.sendall(b"\xff\x00 not HTTP at all\r\n\r\n" * 100)
        connection.close()
    except OSError:
        pass


def _refuse_all(connection: socket.socket) -> None:
    """Answer 500 to everything."""
    try:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()
    except OSError:
        pass


@contextmanager
def _unhelpful(kind: str) -> Iterator[int]:
    if kind == "refuses":
        yield free_port()
        return
    behave = {"hangs": _hang, "babbles": _babble, "fails": _refuse_all}[kind]
    with _listener(behave) as port:
        yield port


@pytest.mark.parametrize("kind", ["refuses", "hangs", "babbles", "fails"])
def test_a_sentry_that_misbehaves_like_our_own_socket_slows_nobody_down(small: Service, kind: str) -> None:
    """Failing requests take no longer than without a Sentry; the loss is counted and said once."""
    with (
        _unhelpful(kind) as port,
        _serving(small, f"http://key@127.0.0.1:{port}/1") as service,
        small.serving(WEB_CONCURRENCY="2") as plain,
    ):
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(5):
            for times, one in ((ours, service), (theirs, plain)):
                account = send(one, 30, step=one_path("/stage/boom"), clients=2)
                assert account.statuses() == {500: 30}
                times += [sent.seconds for sent in account.answered]
        assert statistics.median(ours) < 3 * statistics.median(theirs) + 0.05
        assert max(ours) < 5
        if kind == "hangs":
            # The transport's queue is bounded: what does not fit is lost, and counted.
            send(service, 400, step=one_path("/stage/boom"))
        eventually(
            lambda: service.scrape().total("telemetry_dropped_total", signal="errors"),
            "lost errors are counted",
            60,
        )
        assert service.ready()
        said = [r for r in service.lines(signal="errors") if r["level"] == "WARNING"]
        reasons = {record["reason"] for record in said}
        assert 1 <= len(said) <= 2 * len(reasons), said
        service.program.stop(seconds=30)
        assert service.program.wait(1) == 0
