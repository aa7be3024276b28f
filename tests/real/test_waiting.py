"""Waiting for a thread: what the clients' own clocks say is duration and queue together."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from . import servers
from .load import Account, one_path, send
from .processes import eventually
from .service import Gunicorn, Scrape, Service

QUEUE, DURATION = "http_request_queue_seconds", "http_request_duration_seconds"
THREADS = 4
NEAR = 0.4


def _scraped(service: Gunicorn, number: int) -> Scrape:
    """Wait until so many requests are counted, and none is in progress."""

    def condition() -> Scrape:
        scrape = service.scrape()
        assert scrape.total(f"{DURATION}_count") == number
        assert scrape.total("http_requests_in_progress") == 0
        return scrape

    return eventually(condition, f"{number} requests counted")


def _longer_than(scrape: Scrape, edge: str) -> float:
    return scrape.total(f"{QUEUE}_count") - scrape.total(f"{QUEUE}_bucket", le=edge)


def _clients(account: Account) -> float:
    return sum(one.seconds for one in account.answered)


def test_the_clients_own_clock_is_queue_and_duration_together(small: Service) -> None:
    """24 clients of 8 threads, a view of a second: they wait for two others, in the mean."""
    rules = small.folder / "monitoring/prometheus/rules/waiting.yml"
    with (
        small.serving(WEB_CONCURRENCY="2", WEB_THREADS=str(THREADS)) as service,
        servers.evaluating(rules, small.slug, f"127.0.0.1:{service.metrics_port}") as prometheus,
    ):
        account = send(service, 72, step=one_path("/stage/slow/1.0"), clients=24)
        scrape = _scraped(service, 72)
        alarmed = {"warning": "pending", "critical": "pending"}
        eventually(lambda: prometheus.states("RequestsWaiting") == alarmed, "RequestsWaiting")
    assert account.statuses() == {200: 72}
    queue, duration = scrape.total(f"{QUEUE}_sum"), scrape.total(f"{DURATION}_sum")
    assert scrape.total(f"{QUEUE}_count") == 72
    assert duration == pytest.approx(72 * 1.0, rel=0.1)
    assert queue + duration == pytest.approx(_clients(account), rel=0.05)
    # Of each kind as many as the clients saw; a wait near the edge may be on either side of it.
    for edge in (0.5, 2.5):
        above = sum(one.seconds > 1.0 + edge + NEAR for one in account.answered)
        near = sum(abs(one.seconds - 1.0 - edge) <= NEAR for one in account.answered)
        assert above <= _longer_than(scrape, str(edge)) <= above + near, edge


def test_a_request_that_finds_a_thread_waits_for_none(small: Service) -> None:
    """HEAD, a streamed answer, connections that are kept, IPv6; each counts once."""
    with small.serving() as service:
        for address in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(address, service.port, timeout=10)
            for method, path, body in (
                ("HEAD", "/stage/ok", None),
                ("POST", "/stage/echo", b"x" * 100_000),
                ("GET", "/nowhere", None),
                ("GET", "/stage/slow/0.3", None),
                ("GET", "/stage/boom", None),
            ):
                connection.request(method, path, body)
                connection.getresponse().read()
            connection.close()
        scrape = _scraped(service, 10)
    assert scrape.total(f"{QUEUE}_count") == 10
    assert _longer_than(scrape, "0.1") == 0
    assert scrape.total(f"{QUEUE}_sum") < 10 * 0.02


def test_time_that_the_client_takes_is_no_waiting(small: Service) -> None:
    """A request that begins late, and one that arrives in pieces, on a new and on a kept connection."""
    with small.serving() as service, socket.create_connection(("127.0.0.1", service.port)) as client:
        client.settimeout(30)
        for number in (1, 2):
            # The first wait is longer than gunicorn holds a thread for a connection without a request.
            time.sleep(6.0 if number == 1 else 1.0)
            client.sendall(b"GET /stage/ok HTTP/1.1\r\n")
            time.sleep(1.0)
            client.sendall(b"Host: here\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nok"):
                answer += client.recv(65_536)
            scrape = _scraped(service, number)
        assert _longer_than(scrape, "0.1") == 0


def test_only_requests_are_counted(small: Service) -> None:
    """No probe, no connection that closes without a request, none that gunicorn refuses."""
    with small.serving() as service:
        address = "127.0.0.1", service.port
        for sent in (b"", b"GET", b"no request\r\n\r\n"):
            with socket.create_connection(address) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(30)
                while client.recv(65_536):
                    pass
        for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
            assert service.get(path).status == 200
        assert _scraped(service, 0).total(f"{QUEUE}_count") == 0
