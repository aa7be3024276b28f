"""`flask doctor`: says which signal arrived, and fails where one that is on did not."""

import errno
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from werkzeug.serving import make_server

from <<cookiecutter.__package>>.workers.lines import LineWriter

from .conftest import MakeService
from .support import ROOT, Service, free_port, server


def doctor(service: Service) -> tuple[int, dict[str, str]]:
    """The exit code, and what is said of each signal."""
    result = service.app.test_cli_runner().invoke(args=["doctor"])
    lines = [line for line in result.output.splitlines() if not line.startswith("{")]
    return result.exit_code, {line[:20].strip(): line[21:] for line in lines}


@pytest.fixture
def make_patient(make_service: MakeService) -> Callable[..., Service]:
    """Makes a service that does not run: nobody listens on its ports."""

    def make(**settings: object) -> Service:
        return make_service(**{"port": free_port(), "metrics_port": free_port()} | settings)

    return make


def like_sentry(envelope: bytes) -> tuple[int, bytes]:
    header = json.loads(envelope.partition(b"\n")[0])
    return 200, json.dumps({"id": header["event_id"]}).encode()


def test_what_is_off_is_not_missing(make_patient: Callable[..., Service]) -> None:
    code, findings = doctor(make_patient())
    assert code == 0
    assert findings["logs"].startswith("arrived")
    assert findings["metrics"].startswith("unknown")
    assert findings["errors"].startswith("off")
    assert "SENTRY_DSN" in findings["errors"]


def test_an_error_that_the_stand_in_for_sentry_takes_has_arrived(
    make_patient: Callable[..., Service],
) -> None:
    with server(like_sentry) as stand_in:
        service = make_patient(sentry_dsn=f"http://s3cr3t@{stand_in.host}/7", environment="staging")
        code, findings = doctor(service)
    assert code == 0
    assert findings["errors"].startswith("arrived")
    (path, headers, body) = stand_in.requests[0]
    assert path == "/api/7/envelope/"
    assert "s3cr3t" in headers["X-Sentry-Auth"]
    event = json.loads(body.splitlines()[2])
    assert event["message"] == "doctor: errors arrive"
    assert event["environment"] == "staging"
    assert "s3cr3t" not in str(findings)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>welcome</html>"),
        (200, b""),
        (200, b"[]"),
        (200, b'{"id": null}'),
        (200, b'{"id": "another"}'),
        (200, b"\xff"),
        (403, b"{}"),
        (404, b""),
        (500, b"{}"),
    ],
)
def test_an_error_that_the_stand_in_for_sentry_does_not_take_is_missing(
    make_patient: Callable[..., Service], status: int, content: bytes
) -> None:
    with server(lambda _: (status, content)) as stand_in:
        code, findings = doctor(make_patient(sentry_dsn=f"http://s3cr3t@{stand_in.host}/7"))
    assert code == 1
    assert findings["errors"].startswith("MISSING")
    assert stand_in.host in findings["errors"]
    assert "SENTRY_DSN" in findings["errors"]
    assert "s3cr3t" not in str(findings)
    assert findings["logs"].startswith("arrived")


def test_an_error_that_nobody_takes_is_missing(make_patient: Callable[..., Service]) -> None:
    code, findings = doctor(make_patient(sentry_dsn=f"http://s3cr3t@127.0.0.1:{free_port()}/7"))
    assert code == 1
    assert findings["errors"].startswith("MISSING")
    assert "s3cr3t" not in str(findings)


def test_a_log_file_is_read_back(make_patient: Callable[..., Service]) -> None:
    service = make_patient(log_level="WARNING")
    code, findings = doctor(service)
    assert code == 0
    assert str(service.log) in findings["logs"]
    assert service.line("doctor")["probe"]


def test_a_log_file_that_takes_nothing_is_missing(
    make_patient: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_patient()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(LineWriter, "_write_some", full)
    code, findings = doctor(service)
    assert code == 1
    assert findings["logs"].startswith("MISSING")


def test_dependencies_are_looked_at(make_patient: Callable[..., Service]) -> None:
    with server(lambda _: (200, b"")) as well, server(lambda _: (500, b"")) as ill:
        service = make_patient(health_dependencies=f"stock={well.url}/, !prices={ill.url}/")
        code, findings = doctor(service)
    assert code == 1
    assert findings["health of stock"].startswith("arrived")
    assert findings["health of prices"].startswith("MISSING")


@contextmanager
def running(service: Service) -> Iterator[int]:
    """Serve a service on a port of its own."""
    httpd = make_server("127.0.0.1", 0, service.app, threaded=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield httpd.server_port
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def test_metrics_of_a_running_service_are_scraped(
    make_service: MakeService, make_patient: Callable[..., Service]
) -> None:
    with running(make_service(log_level="ERROR")) as port:
        code, findings = doctor(make_patient(port=port))
    assert code == 0
    assert findings["metrics"].startswith("arrived")
    assert f"counted at http://127.0.0.1:{port}/metrics" in findings["metrics"]


def test_a_proxy_is_not_asked_for_this_machine(
    make_service: MakeService,
    make_patient: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with running(make_service(log_level="ERROR")) as port:
        _, findings = doctor(make_patient(port=port))
        assert findings["metrics"].startswith("arrived")
        done = subprocess.run(  # noqa: S603 - the service's own script
            [
                sys.executable,
                "scripts/load.py",
                "--url",
                f"http://127.0.0.1:{port}",
                "--seconds=0.1",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    assert re.fullmatch(r"(\d+ x \d{3}(, )?)+\n", done.stdout), done.stdout


@pytest.mark.parametrize("content", [b"", b"<html>", b"x_total 1\n", b"\xff\xfe"])
def test_a_stranger_on_the_metrics_port_is_not_believed(
    make_patient: Callable[..., Service], content: bytes
) -> None:
    with server(lambda _: (200, content)) as stranger:
        code, findings = doctor(make_patient(metrics_port=int(stranger.host.rpartition(":")[2])))
    assert code in (0, 1)
    assert "counted at" not in findings["metrics"]
