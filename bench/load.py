"""Requests over keep-alive connections, from this process: a loop that costs a tenth of what answering them does."""

import re
import selectors
import socket
import time
from types import TracebackType

CONNECTIONS = 4
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class LoadError(Exception):
    """A request was not answered as it should be."""


class Load:
    """Some connections to one server, each with one request under way at a time."""

    def __init__(self, port: int, path: str) -> None:
        """Connects."""
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n".encode()
        self._connections = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(CONNECTIONS)]
        self._waiting = selectors.DefaultSelector()
        for connection in self._connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._waiting.register(connection, selectors.EVENT_READ, connection)

    def __enter__(self) -> "Load":
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Disconnects."""
        self._waiting.close()
        for connection in self._connections:
            connection.close()

    def send(self, seconds: float) -> int:
        """Keeps every connection busy for so long, and returns how many requests were answered; none is left under way.

        Raises:
            LoadError: an answer's status is not 200, or there was none
        """
        until = time.monotonic() + seconds
        under_way = len(self._connections)
        answered = 0
        for connection in self._connections:
            connection.sendall(self._request)
        while under_way:
            for key, _ in self._waiting.select():
                connection = key.data
                read_answer(connection)
                answered += 1
                if time.monotonic() < until:
                    connection.sendall(self._request)
                else:
                    under_way -= 1
        return answered


def read_answer(connection: socket.socket) -> None:
    """Reads one answer to its end.

    Raises:
        LoadError: it is no 200, or the connection ended
    """
    data = receive(connection)
    while b"\r\n\r\n" not in data:
        data += receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise LoadError(f"answered {head[:40]!r}")
    while len(body) < int(length[1]):
        body += receive(connection)


def receive(connection: socket.socket) -> bytes:
    """Some bytes, at least one."""
    data = connection.recv(65_536)
    if not data:
        raise LoadError("the server closed the connection")
    return data
