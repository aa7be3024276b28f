"""Closing the door of a listening socket without losing who already stands in it."""

import ctypes
import socket
import struct
from contextlib import suppress

SETTLE_SECONDS = 0.2
"""Time for handshakes that have begun to end, and for workers to accept what they made."""

_SO_ATTACH_FILTER = 26  # socket(7); Python's socket module does not name it

# A packet that opens a connection (SYN without ACK, byte 13 of TCP's header) is dropped, any other
# passes. An instruction is a sock_filter of linux/filter.h: code, jump if true, if false, operand.
_DROP_OPENING_PACKETS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte at 13
        (0x54, 0, 0, 0x12),  # of it SYN and ACK
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # then drop
        (0x06, 0, 0, 0xFFFF_FFFF),  # else take all of it
    )
)


def refuse_new_connections(listener: socket.socket) -> None:
    """From now on nobody new gets in; whom the kernel has let in can still be accepted.

    A listening socket that is merely closed resets the connections in its queue, whose clients
    have sent their requests by then. Who comes now tries again a second later, and is refused or
    reaches another instance. Where the kernel has no such filters nothing changes.
    """
    program = ctypes.create_string_buffer(_DROP_OPENING_PACKETS, len(_DROP_OPENING_PACKETS))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", len(_DROP_OPENING_PACKETS) // 8, ctypes.addressof(program)),
        )
