"""Whole lines to one stream that several processes and threads share.

Each line is one write, which never blocks. What is at most PIPE_BUF (4,096) bytes long, a pipe
takes whole (pipe(7)) and needs no lock: waiting for one costs a request more than all the rest
of its line. A longer line is written only where the pipe surely has room for all of it, which
Linux then fills without letting another writer in. A reader that is behind is waited for a little;
where it stalls, lines are lost, and counted.
"""

import fcntl
import os
import select
import socket
import stat
import struct
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import shared

PATIENCE = 0.05
"""Seconds a line waits for a reader that is behind; after a loss, none does for a second."""

LONG_PATIENCE = 0.3
"""The same for a line that is longer than a page, such as a traceback: there are few of them."""

_PIPE_BYTES = 1024 * 1024
_PAGE = select.PIPE_BUF


class LineWriter:
    """Writes to a descriptor, or to a file that may be rotated away under it."""

    def __init__(self, descriptor: int, file: Path | None = None) -> None:
        self._file = file
        self._looked = 0.0
        self._alone = threading.Lock()
        self._torn = False
        self._impatient_until = 0.0
        self._given = self._descriptor = descriptor
        self._former = -1
        self._socket: socket.socket | None = None
        self._capacity = 0
        """Bytes the pipe can hold; 0 where the stream is none."""
        self._send: Callable[[bytes], int] = lambda line: os.write(self._descriptor, line)
        if file is None:
            self._use_without_blocking(descriptor)

    def write(self, line: bytes) -> bool:
        """Write one line, newline included; False where it is lost."""
        try:
            if self._file and time.monotonic() - self._looked > 1:
                self._follow(self._file)
            if self._capacity and len(line) > _PAGE:
                return self._write_long(line)
            try:
                return self._send_whole(line)
            except BlockingIOError:
                until = self._deadline(PATIENCE)
                return self._wait(self._is_writable, until) and self._send_whole(line)
        except OSError:
            return False

    def _send_whole(self, line: bytes) -> bool:
        # A disk that is full can take a part of a line: the next one must not be glued to it.
        text = b"\n" + line if self._torn else line
        self._torn = self._send(text) < len(text)
        return not self._torn

    def _write_long(self, line: bytes) -> bool:
        def has_room() -> bool:
            unread = fcntl.ioctl(self._descriptor, termios.FIONREAD, b"1234")
            (queued,) = struct.unpack("i", unread)
            # A page of a pipe can be half empty, where the next write did not fit into the rest.
            return bool(2 * queued + len(line) + 2 * _PAGE <= self._capacity)

        until = self._deadline(LONG_PATIENCE)
        if not self._wait(lambda: self._alone.acquire(blocking=False), until):
            return False
        try:
            if not self._wait(self._locks_others_out, until):
                return False
            try:
                return self._wait(has_room, until) and self._send_whole(line)
            finally:
                fcntl.lockf(shared.line_lock, fcntl.LOCK_UN)
        finally:
            self._alone.release()

    def _locks_others_out(self) -> bool:
        try:
            fcntl.lockf(shared.line_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give back what was opened here."""
        opened = {self._former, self._descriptor} - {-1, self._given}
        self._descriptor = self._former = -1
        for descriptor in opened:
            os.close(descriptor)
        if self._socket:
            self._socket.close()

    def _deadline(self, patience: float) -> float:
        now = time.monotonic()
        return now if now < self._impatient_until else now + patience

    def _wait(self, is_ready: Callable[[], bool], until: float) -> bool:
        while not is_ready():
            if time.monotonic() >= until:
                self._impatient_until = time.monotonic() + 1
                return False
            time.sleep(0.001)
        return True

    def _is_writable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _send_if_writable(self, line: bytes) -> int:
        if not self._is_writable():
            raise BlockingIOError
        return os.write(self._descriptor, line)

    def _use_without_blocking(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = connection = socket.socket(fileno=os.dup(descriptor))
            self._send = lambda line: connection.send(line, socket.MSG_DONTWAIT)
        elif stat.S_ISFIFO(mode) and hasattr(fcntl, "F_GETPIPE_SZ"):
            try:
                # A description of our own: O_NONBLOCK on the inherited one would bind others too.
                self._descriptor = os.open(
                    f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                )
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                # A smaller pipe is better than none, and one that blocks is asked first.
                self._send = self._send_if_writable
            self._capacity = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)

    def _follow(self, file: Path) -> None:
        """Open the file, anew where another has taken its name."""
        with self._alone:
            try:
                there, ours = file.stat(), os.fstat(self._descriptor)
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    self._looked = time.monotonic()
                    return
            except OSError:
                pass
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            # The former one is left open for a moment: another thread may be writing to it.
            opened = os.open(file, flags, 0o640)
            former, self._former, self._descriptor = self._former, self._descriptor, opened
            self._looked = time.monotonic()
            if former >= 0:
                os.close(former)
