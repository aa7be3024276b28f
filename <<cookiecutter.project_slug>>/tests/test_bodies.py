"""A request's body reaches a view whole, however the view reads it, or is the caller's error."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from flask import Response, request
from gunicorn.config import Config
from gunicorn.http import get_parser
from gunicorn.http.wsgi import create
from werkzeug.exceptions import BadRequest
from werkzeug.test import run_wsgi_app

from <<cookiecutter.__package>>.bodies import LARGEST_BODY_BYTES

from .support import Service

FORM = "multipart/form-data; boundary=xx"
URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"


def in_slices() -> bytes:
    return b"".join(iter(lambda: request.stream.read(100), b""))


def into_a_buffer() -> bytes:
    buffer, pieces = bytearray(10_000), []
    while size := request.stream.readinto(buffer):  # type: ignore[attr-defined]
        pieces.append(bytes(buffer[:size]))
    return b"".join(pieces)


WAYS: dict[str, tuple[str, Callable[[], bytes | str]]] = {
    "get_data": ("text/plain", lambda: request.get_data()),
    "data": ("text/plain", lambda: request.data),
    "stream": ("text/plain", lambda: request.stream.read()),
    "slices": ("text/plain", in_slices),
    "buffer": ("text/plain", into_a_buffer),
    "lines": ("text/plain", lambda: b"".join(request.stream)),
    "json": (JSON, lambda: request.get_json()["a"]),
    "silent-json": (JSON, lambda: (request.get_json(silent=True) or {"a": "nothing"})["a"]),
    "form": (URLENCODED, lambda: request.form.get("a", "nothing")),
    "multipart": (FORM, lambda: request.values.get("a", "nothing")),
    "files": (FORM, lambda: request.files["a"].read() if request.files else "nothing"),
}
"""Each way of reading a body: the type that it is for, and what it reads."""


def body_for(way: str, size: int) -> bytes:
    """A body of which this way reads `size` bytes x."""
    kind, text = WAYS[way][0], b"x" * size
    if kind == FORM:
        file = b'; filename="f"' if way == "files" else b""
        head = b'--xx\r\nContent-Disposition: form-data; name="a"' + file
        return head + b"\r\n\r\n" + text + b"\r\n--xx--\r\n"
    if kind == JSON:
        return json.dumps({"a": text.decode()}).encode()
    return b"a=" + text if kind == URLENCODED else text


def with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    pieces = [body[at : at + 4000] for at in range(0, len(body), 4000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "shorter than its length": lambda body: with_length(body)[:-1],
    "without a byte": lambda body: with_length(body)[: -len(body)],
    "cut in a chunk": lambda body: in_chunks(body)[:-20],
    "without its last chunk": lambda body: in_chunks(body)[:-5],
    "without its last line": lambda body: in_chunks(body)[:-2],
    "a chunk's size is no number": lambda body: in_chunks(body)[:-5] + b"zz\r\n\r\n",
    "a chunk longer than its size": lambda body: in_chunks(body)[:-7] + b"xx\r\n0\r\n\r\n",
    "a trailer that is none": lambda body: in_chunks(body)[:-2] + b"not a trailer\r\n\r\n",
}


class Answers:
    """Answers to requests that gunicorn's own parser reads from a socket."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def __call__(self, way: str, framed: bytes, kind: str | None = None) -> tuple[int, bytes]:
        """The status and the body of the answer to a POST of this body with its framing."""
        head = f"POST /reads/{way} HTTP/1.1\r\nContent-Type: {kind or WAYS[way][0]}\r\n"
        client, server = socket.socketpair()

        def send() -> None:
            with client, suppress(ConnectionError):
                client.sendall(head.encode() + framed)

        sending = threading.Thread(target=send)
        sending.start()
        with server:
            config = Config()
            parsed = next(get_parser(config, server, ("10.0.0.1", 1)))
            _, environ = create(parsed, server, ("10.0.0.1", 1), ("10.0.0.2", 80), config)
            pieces, status, headers = run_wsgi_app(self.service.app, environ, buffered=True)
            answer = b"".join(pieces)
        sending.join()
        assert headers["Content-Type"] == (
            "text/plain" if status == "200 OK" else "application/problem+json"
        )
        return int(status[:3]), answer


@pytest.fixture
def answers(service: Service) -> Answers:
    """A service that reads bodies in every way."""

    @service.app.post("/reads/<way>")
    def reads(way: str) -> Response:
        return Response(WAYS[way][1](), content_type="text/plain")

    return Answers(service)


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_body_reaches_the_view(answers: Answers, way: str) -> None:
    body = body_for(way, 9000)
    assert answers(way, with_length(body)) == (200, b"x" * 9000)
    assert answers(way, in_chunks(body)) == (200, b"x" * 9000)


@pytest.mark.parametrize("way", WAYS)
def test_a_body_that_is_cut_or_malformed_is_the_callers_error(answers: Answers, way: str) -> None:
    body = body_for(way, 9000)
    for how, broken in BROKEN.items():
        status, answer = answers(way, broken(body))
        assert (status, b"malformed" in answer) == (400, True), how
    lines = answers.service.lines("request")
    assert {line["status_code"] for line in lines} == {400}
    assert not [line for line in answers.service.lines() if line["level"] == "ERROR"]


@pytest.mark.parametrize("way", WAYS)
def test_a_body_that_is_too_large_is_refused(answers: Answers, way: str) -> None:
    body = body_for(way, 10).ljust(LARGEST_BODY_BYTES + 1)
    assert answers(way, with_length(body))[0] == 413
    assert answers(way, in_chunks(body))[0] == 413
    assert not [line for line in answers.service.lines() if line["level"] == "ERROR"]


@pytest.mark.parametrize("framed", [with_length, in_chunks])
def test_the_largest_body_is_taken(answers: Answers, framed: Callable[[bytes], bytes]) -> None:
    largest = b"x" * LARGEST_BODY_BYTES
    assert answers("slices", framed(largest)) == (200, largest)


@pytest.mark.parametrize("framed", [with_length, in_chunks])
def test_a_view_may_take_more(answers: Answers, framed: Callable[[bytes], bytes]) -> None:
    @answers.service.app.before_request
    def allow() -> None:
        request.max_content_length = 2_000_000

    assert answers("stream", framed(b"x" * 2_000_000))[0] == 200
    assert answers("stream", framed(b"x" * 2_000_001))[0] == 413


def test_a_body_that_broke_stays_broken(answers: Answers) -> None:
    @answers.service.app.post("/reads/twice")
    def twice() -> bytes:
        with suppress(BadRequest):
            request.get_data()
        return request.get_data()

    for how, broken in BROKEN.items():
        assert answers("twice", broken(b"x" * 9000), "text/plain")[0] == 400, how


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM, b"--xx\r\nContent-Disposition: form-data; name=a\r\n\r\ncut"),
        (FORM, b"no boundary anywhere"),
        ("multipart/form-data", body_for("multipart", 10)),
        (URLENCODED, b"a=\xff"),
    ],
)
def test_a_form_that_cannot_be_parsed_is_not_an_empty_one(
    answers: Answers, kind: str, body: bytes
) -> None:
    assert answers("form", with_length(body), kind)[0] == 400


@pytest.mark.parametrize("way", ["json", "silent-json"])
def test_json_that_is_nested_too_deep_is_the_callers_error(answers: Answers, way: str) -> None:
    assert answers(way, with_length(b"[" * 100_000))[0] == 400
    assert not [line for line in answers.service.lines() if line["level"] == "ERROR"]


def test_a_body_that_is_read_while_the_answer_is_sent_breaks_the_connection_off(
    answers: Answers,
) -> None:
    """gunicorn takes no error of the connection for a failure of the service."""

    @answers.service.app.post("/reads/echo")
    def echo() -> Response:
        return Response(iter(request.stream), content_type="text/plain")

    assert answers("echo", in_chunks(b"x" * 9000), "text/plain") == (200, b"x" * 9000)
    with pytest.raises(ConnectionResetError) as raised:
        answers("echo", in_chunks(b"x" * 9000)[:-5], "text/plain")
    assert raised.value.errno
