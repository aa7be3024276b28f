"""Memory that gunicorn's master shares with its workers, made before the first of them is forked.

A reload (SIGHUP) does not import it again, so it keeps what is here.
"""

import mmap
import struct
import tempfile
from pathlib import Path

_DRAINING, _LOST_FILES = 0, 4
_memory = mmap.mmap(-1, 8)


def _nameless_file() -> int:
    descriptor, name = tempfile.mkstemp()
    Path(name).unlink()
    return descriptor


line_lock = _nameless_file()
"""Its record lock orders the writers of long log lines; the kernel frees it when a process dies."""


def begin_drain() -> None:
    """From now on every worker's readiness probe fails."""
    _memory[_DRAINING] = 1


def is_draining() -> bool:
    return _memory[_DRAINING] == 1


def lost_value_files() -> int:
    """How many files of metric values could not be had, in all workers so far."""
    return int(struct.unpack_from("I", _memory, _LOST_FILES)[0])


def count_lost_value_file() -> None:
    struct.pack_into("I", _memory, _LOST_FILES, lost_value_files() + 1)
