"""From nothing to a running, observable service, in every tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .conftest import TIERS
from .processes import Output, Program, clean_environment, eventually, free_port, run
from .service import ORDER, Scrape, Service, request


@contextmanager
def started(service: Service, target: str) -> Iterator[tuple[int, int]]:
    """Run a make target that serves, as its owner would; give its two ports."""
    ports = free_port(), free_port()
    environment = clean_environment(PORT=str(ports[0]), METRICS_PORT=str(ports[1]))
    output = Output()
    program = Program(["make", target], environment=environment, folder=service.folder, stdout=output)
    try:
        eventually(
            lambda: request(ports[0], "/health/ready", seconds=5).status == 200,
            f"make {target} answers; it said {output.text()[-1000:]}",
            60,
        )
        yield ports
    finally:
        program.stop()


@pytest.mark.parametrize("tier", TIERS)
def test_a_new_service_runs_for_development(service_of: Callable[[str], Service], tier: str) -> None:
    """`make install && make run` answers on one port, with nothing else installed."""
    with started(service_of(tier), "run") as (port, _):
        assert request(port, "/health").json()["status"] == "healthy"
        created = request(
            port,
            "/api/v1/orders",
            method="POST",
            headers={"Content-Type": "application/json"},
            body=b'{"customer": "c-1", "amount": "12.50", "currency": "EUR", "source": "web"}',
        )
        assert created.status == 201, created.text
        assert created.json().items() >= ORDER.items()
        metrics = request(port, "/metrics")
        assert metrics.status == 200
        assert Scrape(metrics.text).total("orders_created_total", source="web") == 1
        assert Scrape(metrics.text).total("log_messages_total", level="INFO") > 0
        home = request(port, "/")
        assert home.status == 200
        assert "<html" in home.text


def test_make_reads_the_port_as_the_service_does(small: Service) -> None:
    """A .env file may hold quotes, comments, spaces and `export`."""
    port, file = free_port(), small.folder / ".env"
    file.write_text(f'export PORT = "{port}"  # beside the other one\n')
    output = Output()
    program = Program(["make", "run"], environment=clean_environment(), folder=small.folder, stdout=output)
    try:
        eventually(lambda: request(port, "/health/ready", seconds=5).status == 200, "it answers where .env says", 60)
        assert f"http://127.0.0.1:{port} answers" in output.text()
        code, said = small.make("load", PORT="eighty")
        assert code == 2
        assert "PORT: " in said
        assert "Traceback" not in said
    finally:
        program.stop()
        file.unlink()


@pytest.mark.parametrize("tier", TIERS)
def test_a_new_service_is_served_as_in_production(service_of: Callable[[str], Service], tier: str) -> None:
    """`make serve` answers, and tells its metrics on their own port only."""
    with started(service_of(tier), "serve") as (port, metrics_port):
        assert request(port, "/health").json()["status"] == "healthy"
        assert request(port, "/metrics").status == 404
        assert request(port, "/nowhere").status == 404

        def counted() -> float:
            scrape = Scrape(request(metrics_port, "/metrics").text)
            return scrape.total("http_request_duration_seconds_count", route="<unmatched>")

        assert eventually(counted, "the request is counted") == 1


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("target", ["test", "lint"])
def test_a_new_service_passes_its_own_checks(service_of: Callable[[str], Service], tier: str, target: str) -> None:
    """`make test` and `make lint` pass as generated."""
    code, said = service_of(tier).make(target)
    assert code == 0, said[-3000:]


def test_a_field_that_its_owner_puts_on_every_line_breaks_no_test(small: Service) -> None:
    """What the README says of `Lines.common_fields`, with no test to change beside it."""
    (file,) = small.folder.glob("src/*/observability/logging.py")
    before = file.read_text()
    after = before.replace('"logger": logger,', '"logger": logger,\n            "region": "eu-1",')
    assert after != before
    file.write_text(after)
    try:
        done = run([small.tool("python"), "-m", "pytest", "tests/test_log_lines.py"], folder=small.folder)
        assert done.returncode == 0, done.stdout[-3000:]
    finally:
        file.write_text(before)


@pytest.mark.parametrize("tier", TIERS)
def test_the_doctor_of_a_new_service_reports_each_signal(service_of: Callable[[str], Service], tier: str) -> None:
    """`make doctor` says of every signal whether it arrives, and of one that is off what to set."""
    code, said = service_of(tier).make("doctor", PORT=str(free_port()), METRICS_PORT=str(free_port()))
    assert code == 0, said
    for signal in ("logs", "metrics", "errors", "health"):
        assert signal in said, said
    assert "SENTRY_DSN" in said


def test_load_gives_dashboards_something_to_show(small: Service) -> None:
    """`scripts/load.py`, which `make load` runs, sends good and bad requests."""
    with small.serving(staged=False) as service:
        address = f"http://127.0.0.1:{service.port}"
        done = run(
            [small.tool("python"), "scripts/load.py", "--seconds", "3", "--url", address],
            folder=small.folder,
        )
        assert done.returncode == 0, done.stderr
        scrape = service.scrape()
        counted = scrape.series["http_request_duration_seconds_count"]
        statuses = {dict(labels)["status"] for labels in counted}
        assert {"200", "201", "404"} <= statuses
