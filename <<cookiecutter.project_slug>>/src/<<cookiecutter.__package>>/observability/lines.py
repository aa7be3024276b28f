"""Whole lines to one stream that several processes share, written by a thread of each.

A request hands its line over and goes on: to write it costs a request more than all the rest of
its line, and would make it wait for whoever reads. So INFO lines gather for 10 ms, others are
written at once, and a process that is killed (SIGKILL) takes the last 10 ms with it. Where the
reader stalls, lines wait in memory; more than MOST_WAITING are lost, and counted.
"""

import fcntl
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from ..workers import memory

GATHER_SECONDS = 0.01
FLUSH_SECONDS = 2.0
"""How long the end of the process waits for a reader that stalls."""

MOST_WAITING = 2048
"""Lines of one process; at most 16 KiB each."""

_FOLLOW_SECONDS = 1.0


class LineWriter:
    """Writes to standard output, or to a file that may be rotated away under it.

    `lose(reason, count)` hears of the lines that are lost, `flows()` when all that waited is
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
        self._looked = -_FOLLOW_SECONDS
        self._lose = lose
        self._flows = flows
        self._closed = False
        self._forget()
        _writers.add(self)

    def _forget(self) -> None:
        # After a fork, what waits is the parent's to write, and its locks may be held for ever.
        self._waiting: deque[bytes] = deque()
        self._awake = False
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._starting, self._writing = threading.Lock(), threading.Lock()
        self._busy = False
        self._thread: threading.Thread | None = None

    def put(self, line: bytes, *, at_once: bool) -> None:
        """Hand a line over, newline included. Never waits, also where a signal's handler logs."""
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
        """Write what waits, and give back what was opened here. Nothing may be put later."""
        self.flush()
        self._closed = True
        self._wake.put(True)
        _writers.discard(self)
        if self._file and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):
            return
        thread = threading.Thread(target=self._run, name="log-lines", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # the interpreter is ending
            self._starting.release()
            self._write_waiting()

    def _run(self) -> None:
        while not self._closed:
            at_once = self._wake.get()
            with suppress(Empty):
                if not at_once:
                    self._wake.get(timeout=GATHER_SECONDS)
            self._awake = False
            with suppress(Exception):  # the thread lives on, whatever its owner's account says
                self._write_waiting()

    def _write_waiting(self) -> None:
        with self._writing:
            self._busy = True
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                lost = self._write(b"".join(lines)) if lines else 0
            finally:
                self._busy = False
        if lost:
            self._lose("unwritable", lost)
        elif lines and not self._waiting:
            self._flows()

    def _write(self, text: bytes) -> int:
        """Write all of it, however long that takes; returns how many lines could not be."""
        position, head = 0, b""
        try:
            if self._file:
                self._follow(self._file)
            with _alone():
                torn = memory.is_line_torn()
                head = b"\n" if torn else b""
                text = head + text
                # Whoever comes after a process that is killed here begins a new line.
                memory.set_line_torn(True)
                try:
                    while position < len(text):
                        position += self._write_some(memoryview(text)[position:])
                finally:
                    memory.set_line_torn(text[position - 1] != _NEWLINE if position else torn)
        except OSError:
            return text.count(b"\n", max(position, len(head)))
        return 0

    def _write_some(self, text: memoryview) -> int:
        try:
            return os.write(self._descriptor, text)
        except BlockingIOError:
            # Another process that holds the stream may have set O_NONBLOCK on it.
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0

    def _follow(self, file: Path) -> None:
        """Open the file, anew where another has taken its name."""
        if time.monotonic() - self._looked < _FOLLOW_SECONDS:
            return
        if self._descriptor >= 0:
            try:
                there, ours = file.stat(), os.fstat(self._descriptor)
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    self._looked = time.monotonic()
                    return
            except FileNotFoundError:
                pass
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        former, self._descriptor = self._descriptor, os.open(file, flags, 0o640)
        self._looked = time.monotonic()
        if former >= 0:
            os.close(former)


_NEWLINE = ord("\n")
_writers: "weakref.WeakSet[LineWriter]" = weakref.WeakSet()


def _forget_all() -> None:
    for writer in list(_writers):
        writer._forget()


os.register_at_fork(after_in_child=_forget_all)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep the other processes' lines out of ours; the kernel frees the lock of one that dies."""
    fcntl.lockf(memory.line_lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(memory.line_lock, fcntl.LOCK_UN)
