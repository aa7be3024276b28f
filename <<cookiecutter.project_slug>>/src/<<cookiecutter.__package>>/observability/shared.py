"""Memory that gunicorn's master shares with its workers, made before the first of them is forked.

The module is imported once a master, so a reload (SIGHUP), which runs the configuration again,
keeps what is here.
"""

import mmap
import struct
import tempfile
from pathlib import Path

_DRAINING, _LOST_FILES, _PATIENCE = 0, 4, 8
_memory = mmap.mmap(-1, 16)

line_lock, _name = tempfile.mkstemp()
Path(_name).unlink()
"""Its record lock orders the writers of long log lines; the kernel frees it when a process dies."""


def begin_drain() -> None:
    """From now on every worker's readiness probe fails."""
    _memory[_DRAINING] = 1


def is_draining() -> bool:
    return _memory[_DRAINING] == 1


def impatient_until() -> float:
    """The monotonic time until which no process waits for a log reader that stalls."""
    return float(struct.unpack_from("d", _memory, _PATIENCE)[0])


def set_impatient_until(moment: float) -> None:
    struct.pack_into("d", _memory, _PATIENCE, moment)


def lost_value_files() -> int:
    """How many files of metric values a worker could not have, in all workers so far."""
    return int(struct.unpack_from("I", _memory, _LOST_FILES)[0])


def count_lost_value_file() -> None:
    struct.pack_into("I", _memory, _LOST_FILES, lost_value_files() + 1)
