"""The sockets that the service listens on: where, and how they stop without losing a connection."""

import select
import socket
from collections.abc import Iterator

import pytest

from <<cookiecutter.__package>>.workers.listener import (
    accept_packets,
    addresses,
    refuse_new_connections,
)

BOTH = addresses(None)
needs_ipv6 = pytest.mark.skipif(BOTH == ["0.0.0.0"], reason="this machine has no IPv6")


@pytest.fixture(
    params=[
        ("127.0.0.1", "127.0.0.1"),
        pytest.param(("::1", "::1"), marks=needs_ipv6),
        pytest.param(("::", "127.0.0.1"), marks=needs_ipv6),
    ]
)
def listener(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """A listening socket, and where its client connects."""
    host, client = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as made:
        made.settimeout(5)
        yield made, (client, made.getsockname()[1])


Listener = tuple[socket.socket, tuple[str, int]]


def sends_to(client: socket.socket, made: socket.socket) -> bytes:
    """What is received of a client that sends before and after it is accepted."""
    with client:
        client.sendall(b"a request, ")
        accepted = made.accept()[0]
        with accepted:
            accept_packets(accepted)
            client.sendall(b"and its end")
            client.shutdown(socket.SHUT_WR)
            accepted.settimeout(5)
            return b"".join(iter(lambda: accepted.recv(100), b""))


def test_a_connection_that_has_begun_is_accepted_and_a_later_one_is_not(listener: Listener) -> None:
    made, address = listener
    waiting = [socket.create_connection(address, 5) for _ in range(5)]
    refuse_new_connections(made)
    with socket.socket(waiting[0].family) as late:
        late.setblocking(False)
        late.connect_ex(address)
        assert not select.select([], [late], [], 0.2)[1], "it was let in"
    for client in waiting:
        assert sends_to(client, made) == b"a request, and its end"


def test_a_handshake_that_ends_later_makes_a_connection_like_any_other(listener: Listener) -> None:
    made, address = listener
    # For the server its handshake lasts until the client sends something.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    client = socket.create_connection(address, 5)
    refuse_new_connections(made)
    assert sends_to(client, made) == b"a request, and its end"


def test_a_socket_that_cannot_refuse_says_so() -> None:
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match="not supported"):
        refuse_new_connections(other)


@needs_ipv6
def test_all_addresses_are_those_of_both_families() -> None:
    assert [":" in address for address in BOTH] in ([True], [True, False])


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: such a kernel makes no socket of the family."""
    made = socket.socket

    def without_ipv6(family: int = socket.AF_INET) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return made(family)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    assert addresses(None) == ["0.0.0.0"]
    assert addresses("127.0.0.1") == ["127.0.0.1"]
