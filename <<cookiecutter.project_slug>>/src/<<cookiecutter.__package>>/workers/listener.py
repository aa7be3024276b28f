"""Where to listen, and how to stop without losing the connections that clients have begun."""

import socket
from contextlib import suppress

SETTLE_SECONDS = 0.2
"""Time for handshakes that have begun to end, and for workers to accept what they made."""

# ip(7) and linux/in6.h; Python's socket module does not name them.
_IP_MINTTL = 21
_IPV6_MINHOPCOUNT = 73


def addresses(host: str | None) -> list[str]:
    """The addresses to listen on: `host` or, where that is None, all of IPv4 and IPv6."""
    if host:
        return [host]
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
            takes_ipv4 = not probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:  # a machine without IPv6
        return ["0.0.0.0"]  # noqa: S104
    return ["::"] if takes_ipv4 else ["::", "0.0.0.0"]  # noqa: S104


def refuse_new_connections(listener: socket.socket) -> None:
    """From now on no connection begins; those that have begun can still be accepted.

    A listening socket that is merely closed resets the connections in its queue, whose clients
    have sent their requests by then. Who connects now tries again a second later, and is refused
    or reaches another instance. The kernel drops the opening packets, as packets start with a
    time to live of 64 or 128 and 255 is asked for. No capability is needed.
    Raises OSError where the kernel does not know the options.
    """
    _drop_below(255, listener)


def accept_packets(connection: socket.socket) -> None:
    """Undo for a connection what it has from its listener, if its handshake ended after that."""
    with suppress(OSError):  # it has nothing of the kind
        _drop_below(0, connection)


def _drop_below(time_to_live: int, sock: socket.socket) -> None:
    # An IPv6 socket holds IPv4 connections, too.
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, time_to_live)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, time_to_live)
