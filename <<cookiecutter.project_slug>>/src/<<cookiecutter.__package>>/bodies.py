"""Request bodies: whole, or the caller's error.

gunicorn says that its input ends by itself (`wsgi.input_terminated`), and Werkzeug then takes a
body that breaks off for a shorter one.
"""

import errno
import io
import sys
from contextlib import ExitStack
from typing import IO, Any

import flask
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.utils import cached_property

LARGEST_BODY_BYTES = 1024 * 1024
_AT_ONCE = 64 * 1024


class BrokenBodyError(ClientDisconnected, ConnectionResetError):
    """400: the body ends too early or is malformed.

    Also an error of the connection: a body that is read while the answer is being sent breaks
    that off, and gunicorn then closes the connection without calling it a failure.
    """

    errno = errno.ECONNRESET
    description = "The body ends too early or is malformed."


class BodyTooLargeError(RequestEntityTooLarge, ConnectionResetError):
    """413, and an error of the connection like BrokenBodyError."""

    errno = errno.ECONNRESET


class Body(io.RawIOBase):
    """A body of `length` bytes or, where that is None, one in chunks of at most `largest` bytes.

    Its end is returned only where it is whole: else reads raise BrokenBodyError or
    BodyTooLargeError.
    """

    def __init__(self, stream: IO[bytes], length: int | None, largest: int) -> None:
        if length is not None and length > largest:
            raise BodyTooLargeError
        self._stream = stream
        self._in_chunks = length is None
        self._broken = False
        self._left = largest + 1 if length is None else length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._take(_AT_ONCE), b""))

    def _take(self, size: int) -> bytes:
        if self._broken:
            raise BrokenBodyError
        try:
            data = self._stream.read(min(size, self._left))
        except Exception as error:  # the socket's, or gunicorn's of a malformed chunk
            self._broken = True
            raise BrokenBodyError from error
        self._left -= len(data)
        if self._in_chunks:
            if not self._left:
                raise BodyTooLargeError
        elif self._left and not data:
            raise BrokenBodyError
        return data


class Forms(FormDataParser):
    """Refuses a form that cannot be parsed, which Werkzeug's own takes for an empty one."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        make_file = self.stream_factory
        self.silent = False
        with ExitStack() as files:
            self.stream_factory = lambda *args, **of: files.enter_context(make_file(*args, **of))
            try:
                parsed = super().parse(*args, **kwargs)
            except ValueError as error:
                raise BrokenBodyError from error
            files.pop_all()
        return parsed


class Request(flask.Request):
    """Flask's request, whose body is whole however it is read."""

    form_data_parser_class = Forms

    @cached_property
    def stream(self) -> IO[bytes]:
        length = self.content_length
        if length is None and "wsgi.input_terminated" not in self.environ:
            return io.BytesIO()
        largest = self.max_content_length
        body = Body(self.input_stream, length, sys.maxsize if largest is None else largest)
        return io.BufferedReader(body)

    def get_json(self, *args: Any, **kwargs: Any) -> Any:
        """Flask's; JSON that is nested too deep for Python is malformed as well."""
        try:
            return super().get_json(*args, **kwargs)
        except RecursionError as error:
            raise BrokenBodyError from error


def init_bodies(app: flask.Flask) -> None:
    """Hold the bodies of all requests to LARGEST_BODY_BYTES, or a view's max_content_length."""
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES
    app.request_class = Request
