"""Bodies over raw sockets: whole, or the caller's error, and never one of the service's."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from itertools import product

from .processes import eventually
from .service import Gunicorn, Service, request

HEAD = b"POST /stage/%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SECOND = b"GET /stage/ok HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\n\r\n"
BROKEN = {
    "shorter than its length": b"Content-Length: 5000\r\n\r\na=x",
    "cut in a chunk": CHUNKED + b"1388\r\na=x",
    "without its last chunk": CHUNKED + b"3\r\na=x\r\n",
    "a size that is no number": CHUNKED + b"3\r\na=x\r\nzz\r\n" + SECOND,
    "a chunk longer than its size": CHUNKED + b"2\r\na=x\r\n0\r\n\r\n" + SECOND,
    "a trailer that is none": CHUNKED + b"3\r\na=x\r\n0\r\nno trailer\r\n\r\n" + SECOND,
}
WAYS = (b"reads/get_data", b"reads/lines", b"reads/form")
MIB = 1024 * 1024


def _exchange(port: int, data: bytes) -> bytes:
    """Send all of it, then nothing more; return what came back."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        with suppress(OSError):  # refused before all of it is sent
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
        return received


def _reset(port: int, data: bytes) -> None:
    """Send it and break the connection off, as a client that crashes does."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(data)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _no_error_of_ours(service: Gunicorn) -> None:
    assert not service.lines(level="ERROR"), service.lines(level="ERROR")[:2]
    series = service.scrape().series["http_request_duration_seconds_count"]
    assert {status for labels in series for name, status in labels if name == "status"} <= {"200", "400", "413"}


def test_a_broken_body_is_the_callers_error_and_ends_its_connection(small: Service) -> None:
    """400 as a problem document, nothing after it taken for a request, no ERROR line, no 5xx."""
    with small.serving(WEB_CONCURRENCY="1") as service:
        workers = service.workers()
        for way, (how, framed) in product(WAYS, BROKEN.items()):
            answer = _exchange(service.port, HEAD % way + framed)
            assert answer.startswith(b"HTTP/1.1 400 "), (way, how, answer[:300])
            assert answer.count(b"HTTP/1.1 ") == 1, (way, how, answer)
            assert b"application/problem+json" in answer, (way, how)
            _reset(service.port, HEAD % way + framed.removesuffix(SECOND))
        sent = 2 * len(WAYS) * len(BROKEN)
        eventually(lambda: len(service.lines(message="request")) == sent, "a line of each request")
        assert not service.lines(request_id="smuggled")
        assert service.scrape().total("security_events_total", event="input_validation_fail") == sent
        _no_error_of_ours(service)
        assert service.workers() == workers


def test_a_body_that_breaks_while_the_answer_is_sent_is_no_failure_of_ours(small: Service) -> None:
    """The answer breaks off; nothing is logged as an error."""
    with small.serving(WEB_CONCURRENCY="1") as service:
        whole = _exchange(service.port, HEAD % b"echo" + CHUNKED + b"3\r\na=x\r\n0\r\n\r\n")
        assert whole.endswith(b"3\r\na=x\r\n0\r\n\r\n")
        for framed in BROKEN.values():
            answer = _exchange(service.port, HEAD % b"echo" + framed)
            assert not answer.endswith(b"0\r\n\r\n"), "it looks complete"
            assert b"HTTP/1.1 500" not in answer
            _reset(service.port, HEAD % b"echo" + framed)
        assert _exchange(service.port, SECOND).startswith(b"HTTP/1.1 200 ")
        _no_error_of_ours(service)


def test_a_body_that_is_too_large_is_413_however_it_is_framed(small: Service) -> None:
    """One byte over the limit, and three times the limit; the client reads the answer."""
    with small.serving(WEB_CONCURRENCY="1") as service:
        for way, size in product(WAYS, (MIB + 1, 3_000_000)):
            body = b"a=".ljust(size, b"x")
            for framed in (
                b"Content-Length: %d\r\n\r\n%s" % (size, body),
                CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (size, body),
            ):
                answer = _exchange(service.port, HEAD % way + framed)
                assert answer.startswith(b"HTTP/1.1 413 "), (way, framed[:50], answer[:300])
                assert b"application/problem+json" in answer
        largest = request(service.port, "/stage/reads/get_data", method="POST", body=b"x" * MIB)
        assert largest.text == str(MIB)
        _no_error_of_ours(service)


def test_expect_100_continue_goes_on_working(small: Service) -> None:
    """The body is asked for before it is sent."""
    with (
        small.serving(WEB_CONCURRENCY="1") as service,
        socket.create_connection(("127.0.0.1", service.port), 30) as connection,
    ):
        connection.sendall(HEAD % b"reads/get_data" + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"a=x" + SECOND)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 2:
            received += connection.recv(1000)
