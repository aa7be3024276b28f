"""The values of metrics in a worker: files that cannot crash it, and direct writes."""

import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prometheus_client import Histogram, values
from prometheus_client.mmap_dict import MmapedDict

from . import memory

_FILE_BYTES = 65_536
_writing = threading.RLock()
"""Reentrant, as a signal handler or a finalizer may run in a thread that holds it."""


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held it.
    global _writing
    _writing = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class AllocatedValues(MmapedDict):
    """Values in a file whose blocks are allocated before they are written.

    prometheus_client maps a sparse file: on a full disk, writing to it is SIGBUS, which kills the
    worker. Raises OSError instead, when the file is made or grows.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            with open(filename, "ab") as file:
                if file.tell() == 0:
                    os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
        super().__init__(filename, read_mode)

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + 32 > self._capacity:
            self._grow()
        super()._init_value(key)

    def _grow(self) -> None:
        os.posix_fallocate(self._f.fileno(), 0, self._capacity * 2)


class FallbackValues(AllocatedValues):
    """Values in memory where no file can be had: lost to scrapes, harmless to requests."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            super().__init__(filename, read_mode)
        except OSError:
            self._f = None  # type: ignore[assignment]
            self._fname = filename
            self._positions: dict[str, int] = {}
            self._use_memory(b"\x08\0\0\0\0\0\0\0", _FILE_BYTES)
            self._used = 8

    def _grow(self) -> None:
        if self._f is not None:
            try:
                return super()._grow()
            except OSError:
                self._f.close()
                self._f = None  # type: ignore[assignment]
        self._use_memory(self._m[: self._used], self._capacity * 2)

    def close(self) -> None:
        # A process that forks by itself leaves its child cells that still refer to the file.
        with suppress(BufferError):
            super().close()

    def _use_memory(self, content: bytes, capacity: int) -> None:
        memory.count_lost_value_file()
        self._m = mmap.mmap(-1, capacity)
        self._m[: len(content)] = content
        self._capacity = capacity


values.MmapedDict = FallbackValues  # type: ignore[attr-defined]


def _place(value: Any) -> "tuple[memoryview[float], int]":
    """Where a value lies: the numbers of its file, and its index among them.

    prometheus_client takes a lock, reads the process id and looks the place up by name at each
    write: three times the cost of the write itself. Only for values that nothing else writes;
    hold `_writing`.
    """
    return memoryview(value._file._m).cast("d"), value._file._positions[value._key] // 8


def adder(metric: Any) -> Callable[[float], None]:
    """`inc` of a counter or gauge whose only writer is the caller."""
    if not metric._value._multiprocess:
        return metric.inc  # type: ignore[no-any-return]
    numbers, index = _place(metric._value)

    def add(amount: float) -> None:
        with _writing:
            numbers[index] += amount

    return add


def observer(histogram: Histogram) -> Callable[[float], None]:
    """`observe` of a histogram whose only writer is the caller."""
    if not histogram._sum._multiprocess:
        return histogram.observe
    total, total_index = _place(histogram._sum)
    buckets = [_place(bucket) for bucket in histogram._buckets]
    bounds = histogram._upper_bounds

    def observe(amount: float) -> None:
        numbers, index = buckets[bisect_left(bounds, amount)]
        with _writing:
            total[total_index] += amount
            numbers[index] += 1

    return observe
