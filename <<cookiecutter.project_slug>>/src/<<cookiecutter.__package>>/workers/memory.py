"""Memory that gunicorn's master shares with its workers, made before the first of them is forked.

A reload (SIGHUP) does not import it again, so it keeps what is here.
"""

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Where each stands: two bytes, and an unsigned integer of four.
_DRAINING, _TORN, _LOST_FILES = 0, 1, 4
_memory = mmap.mmap(-1, 8)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("line-lock")
    # A Python that was built for an older system lacks it.
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_line_lock = _anonymous_file()


def _lock_of_our_own() -> None:
    # One that is inherited is the parent's: both would hold it at once.
    ours = os.open(f"/proc/self/fd/{_line_lock}", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(ours, _line_lock, inheritable=False)
    os.close(ours)


os.register_at_fork(after_in_child=_lock_of_our_own)


@contextmanager
def line_lock() -> Iterator[None]:
    """Keep the other processes' log lines out of ours; the kernel releases it when one exits."""
    fcntl.flock(_line_lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(_line_lock, fcntl.LOCK_UN)


def begin_drain() -> None:
    """From now on every worker's readiness probe fails."""
    _memory[_DRAINING] = 1


def is_draining() -> bool:
    return _memory[_DRAINING] == 1


def set_line_torn(torn: bool) -> None:
    """Say, with the line lock held, whether the stream ends within a line."""
    _memory[_TORN] = torn


def is_line_torn() -> bool:
    """Whether a process died, or a disk was full, in the middle of a line."""
    return _memory[_TORN] == 1


def lost_value_files() -> int:
    """How many files of metric values could not be had, in all workers so far."""
    return int(struct.unpack_from("I", _memory, _LOST_FILES)[0])


def count_lost_value_file() -> None:
    struct.pack_into("I", _memory, _LOST_FILES, lost_value_files() + 1)
