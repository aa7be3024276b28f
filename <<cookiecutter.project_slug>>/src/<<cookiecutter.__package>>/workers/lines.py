"""Whole lines to one stream that several processes share, written by a thread of each.

A request queues its line, or what makes it, and goes on: to write a line costs a request more
than all the rest of it, and would make it wait for whoever reads; to make it here, among others,
costs less than within a request. So INFO lines gather for 10 ms, others are written at once, and
a process that a signal ends without warning (SIGKILL) takes the last 10 ms with it. Where the
reader stalls, lines wait in memory; more than MOST_WAITING are lost, and counted.
"""

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import util
from pathlib import Path
from queue import Empty, SimpleQueue

from . import memory

GATHER_SECONDS = 0.01
FLUSH_SECONDS = 2.0
"""How long the end of the process waits for a reader that stalls."""

MOST_WAITING = 2048
"""Lines that wait in one process beside those being written; at most 16 KiB each."""

Line = bytes | Callable[[], bytes]
"""A line, newline included, or what returns it when it is written."""

_NEWLINE = ord("\n")

_writing = threading.Lock()
"""Held by the thread that writes: a writer that was closed may still be at its last lines."""


class LineWriter:
    """Writes to a descriptor, or to a file that may be rotated away under it.

    `lose(reason, count)` is called for lines that are lost, `flows()` when all that waited is
    written.
    """

    def __init__(
        self,
        descriptor: int,
        file: Path | None = None,
        *,
        lose: Callable[[str, int], None],
        flows: Callable[[], None],
    ) -> None:
        self._descriptor = -1 if file else descriptor
        self._file = file
        self._lose = lose
        self._flows = flows
        self._begin_empty()
        _writers.add(self)

    def _begin_empty(self) -> None:
        self._waiting: deque[Line] = deque()
        self._awake = False
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._busy = False
        self._thread: threading.Thread | None = None

    def put(self, line: Line, *, at_once: bool) -> None:
        """Queue a line. Takes no lock, as a signal's handler may log too."""
        if len(self._waiting) >= MOST_WAITING:
            self._lose("stalled", 1)
            return
        self._waiting.append(line)
        if at_once or not self._awake:
            self._awake = True
            self._wake.put(at_once)
            if self._thread is None:
                self._start()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all is written, or the time is over."""
        until = time.monotonic() + seconds
        self._wake.put(True)
        while (self._waiting or self._busy) and time.monotonic() < until:
            time.sleep(0.001)

    def close(self) -> None:
        """End the thread and give back the file; what waits still is lost: flush before.

        Another line begins anew.
        """
        if left := len(self._waiting):
            self._lose("stalled", left)
        self._wake.put(True)
        self._begin_empty()
        # Its thread may be opening a rotated file anew; one that hangs keeps what it has.
        if self._file and _writing.acquire(timeout=FLUSH_SECONDS):
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
            _writing.release()

    def _start(self) -> None:
        # Of two that start at the same time the later one stays; the other ends at its first look.
        thread = self._thread = threading.Thread(
            target=self._run, args=(self._wake,), name="log-lines", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread can be had: the interpreter is ending, or there is a limit
            self._thread = None
            self._awake = False
            self._write_waiting()

    def _run(self, wake: "SimpleQueue[bool]") -> None:
        while self._thread is threading.current_thread():
            at_once = wake.get()
            with suppress(Empty):
                if not at_once:
                    wake.get(timeout=GATHER_SECONDS)
            self._awake = False
            with suppress(Exception):  # the thread goes on where `lose` or `flows` fails
                self._write_waiting()

    def _write_waiting(self) -> None:
        with _writing:
            self._busy = True
            try:
                lines = [self._made(self._waiting.popleft()) for _ in range(len(self._waiting))]
                lost = self._write(b"".join(lines)) if lines else 0
            finally:
                self._busy = False
        if lost:
            self._lose("unwritable", lost)
        elif lines and not self._waiting:
            self._flows()

    def _made(self, line: Line) -> bytes:
        try:
            return line if isinstance(line, bytes) else line()
        except Exception as error:
            self._lose(type(error).__name__, 1)
            return b""

    def _write(self, text: bytes) -> int:
        """Write all of it, however long that takes; returns how many lines could not be."""
        position, torn = 0, False
        with suppress(OSError):
            if self._file:
                self._follow(self._file)
            with memory.line_lock():
                torn = memory.is_line_torn()
                text = b"\n" * torn + text
                # Whoever comes after a process that is killed here begins a new line.
                memory.set_line_torn(True)
                try:
                    while position < len(text):
                        position += self._write_some(memoryview(text)[position:])
                finally:
                    memory.set_line_torn(text[position - 1] != _NEWLINE if position else torn)
        return text.count(b"\n", max(position, torn))

    def _write_some(self, text: memoryview) -> int:
        try:
            return os.write(self._descriptor, text)
        except BlockingIOError:
            # Another process that holds the stream may have set O_NONBLOCK on it.
            select.select([], [self._descriptor], [])
            return 0

    def _follow(self, file: Path) -> None:
        """Open the file, anew where another has taken its name; keep the former if none can be."""
        former = self._descriptor
        with suppress(OSError):
            if os.path.samestat(file.stat(), os.fstat(former)):
                return
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(file, flags, 0o640)
        except OSError:
            if former < 0:
                raise
        else:
            if former >= 0:
                os.close(former)


_writers: "weakref.WeakSet[LineWriter]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # What waits is the parent's to write, its thread is not here, its locks may be held for ever.
    global _writing
    _writing = threading.Lock()
    for writer in list(_writers):
        writer._begin_empty()


def _flush_at_exit(_: object) -> None:
    for writer in list(_writers):
        util.Finalize(writer, writer.flush, exitpriority=-100)


os.register_at_fork(after_in_child=_after_fork_in_child)
# The children of multiprocessing end without atexit's functions.
util.register_after_fork(memory, _flush_at_exit)
