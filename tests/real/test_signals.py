"""Stopping and reloading: nobody's request is lost, and no total falls."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from .load import counted, one_path, under_load, watched
from .processes import children, eventually, without_capabilities
from .service import Gunicorn, Service, request

DRAIN_SECONDS = 3
WORKERS = 3


def _reload(service: Gunicorn) -> None:
    """Send SIGHUP and wait until every worker is a new one that counts."""
    old = set(service.workers())
    service.program.send(signal.SIGHUP)

    def replaced() -> bool:
        now = service.workers()
        fresh = all(any(service.metrics_folder.glob(f"*_{pid}.db")) for pid in now)
        return len(now) == WORKERS and not old & set(now) and fresh

    eventually(replaced, "new workers after SIGHUP", 90)


def test_a_reload_loses_no_request_and_no_total_falls(small: Service) -> None:
    """SIGHUP four times under load, scraped all the while."""
    with small.serving(WEB_CONCURRENCY=str(WORKERS), LOG_LEVEL="WARNING") as service:
        with watched(service) as watcher, under_load(service, clients=4, pause=0.005) as account:
            for _ in range(4):
                _reload(service)
        assert not account.lost
        assert not account.refused
        assert len(account.answered) > 100
        assert not watcher.fell
        assert not watcher.failed
        assert eventually(lambda: counted(service.scrape()), "counts") == len(account.answered)
        eventually(
            lambda: service.scrape().total("http_request_capacity") == WORKERS * 4,
            "the capacity is that of the running workers",
        )


def test_a_stop_under_load_loses_no_request(small: Service) -> None:
    """SIGTERM: readiness 503 at once, DRAIN_SECONDS of service, then an end with code 0."""
    with (
        small.serving(WEB_CONCURRENCY=str(WORKERS), DRAIN_SECONDS=str(DRAIN_SECONDS)) as service,
        under_load(service, clients=6, pause=0.002) as account,
        under_load(service, step=one_path("/stage/slow/1.5"), clients=3) as slow,
    ):
        eventually(lambda: service.scrape().total("http_requests_in_progress") >= 3, "a load", 20)
        signalled = time.monotonic()
        service.program.send(signal.SIGTERM)
        eventually(lambda: not service.ready(), "readiness is 503", 5)
        took = time.monotonic() - signalled
        assert took < 1.0, "readiness is 503 at once"
        assert service.get("/health/live").status == 200
        assert service.program.wait(DRAIN_SECONDS + 40) == 0
        ended = time.monotonic()
    refused = min(account.refused) - signalled
    assert refused > DRAIN_SECONDS - 0.2, "it stopped accepting before the drain was over"
    assert ended - signalled < DRAIN_SECONDS + 15
    assert not account.lost
    assert not slow.lost
    during = [one for one in account.answered if one.at > signalled + took]
    assert len(during) > 50, "requests were served during the drain"
    assert {one.status for one in slow.answered} == {200}
    assert not service.lines(level="ERROR", logger="gunicorn.error")


def test_a_service_without_capabilities_loses_no_request_when_it_stops(small: Service) -> None:
    """Three times, while clients of IPv4 and of IPv6 connect as fast as they can."""
    for _ in range(3):
        with (
            small.serving(under=without_capabilities(), WEB_CONCURRENCY="2", DRAIN_SECONDS="0.3") as service,
            under_load(service, step=one_path("/health/live"), clients=6) as by_ipv4,
            under_load(service, step=one_path("/health/live"), clients=6, host="::1") as by_ipv6,
        ):
            time.sleep(0.3)  # of load
            service.program.send(signal.SIGTERM)
            assert service.program.wait(40) == 0
        for account in (by_ipv4, by_ipv6) if socket.has_dualstack_ipv6() else (by_ipv4,):
            assert not account.lost, account.lost[:3]
            assert len(account.answered) > 20
        assert not service.lines(level="WARNING"), service.lines(level="WARNING")


def test_a_second_sigterm_ends_the_drain(small: Service) -> None:
    """Who asks twice does not want to wait."""
    with small.serving(DRAIN_SECONDS="60") as service:
        service.program.send(signal.SIGTERM)
        eventually(lambda: not service.ready(), "readiness is 503", 10)
        service.program.send(signal.SIGTERM)
        assert service.program.wait(30) == 0


def test_sigusr2_is_refused_before_anything_is_touched(small: Service) -> None:
    """A second master would wipe the first one's totals: one line says so, nothing else happens."""
    with small.serving(WEB_CONCURRENCY=str(WORKERS)) as service:
        service.get("/stage/ok")
        eventually(lambda: counted(service.scrape()) == 1, "one request counted")
        workers, files = service.workers(), set(service.metrics_folder.iterdir())
        service.program.send(signal.SIGUSR2)
        refusal = eventually(
            lambda: [line for line in service.records() if "SIGUSR2" in line["message"]],
            "a line about SIGUSR2",
        )
        assert len(refusal) == 1
        assert refusal[0]["level"] == "WARNING"
        assert service.get("/stage/ok").status == 200
        eventually(lambda: counted(service.scrape()) == 2, "totals go on")
        assert children(service.program.pid) == workers
        assert set(service.metrics_folder.iterdir()) >= files
        assert request(service.port, "/health/ready").status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_an_impatient_stop_ends_it_too(small: Service, number: signal.Signals) -> None:
    """Ctrl-C in a terminal stops at once, and cleanly."""
    with small.serving(DRAIN_SECONDS="60") as service:
        service.program.send(number)
        assert service.program.wait(30) == 0
        service.output.at_end()
