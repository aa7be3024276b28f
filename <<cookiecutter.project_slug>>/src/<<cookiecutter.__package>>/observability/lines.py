"""Whole lines to one stream that several processes and threads share.

A pipe keeps only PIPE_BUF (4,096) bytes whole (pipe(7)), and one whose reader stalls blocks its
writers. So writers take turns by a lock that the kernel frees when its holder dies, never wait
for a reader longer than PATIENCE in a second, and finish each other's lines.
"""

import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

from . import shared

PATIENCE = 0.05
_PIPE_BYTES = 1024 * 1024


class LineWriter:
    """Writes to a descriptor, or to a file that may be rotated away under it."""

    def __init__(self, descriptor: int, file: Path | None = None) -> None:
        self._file = file
        self._looked = 0.0
        self._descriptor = descriptor
        self._send = self._open(descriptor) if file is None else self._reopen()

    def write(self, line: bytes) -> bool:
        """Write one line, newline included; False where it is lost. The caller holds a lock."""
        if self._file and time.monotonic() - self._looked > 1:
            self._send = self._reopen()
        fcntl.lockf(shared.line_lock, fcntl.LOCK_EX)
        try:
            torn = shared.torn_line()
            if torn:
                rest = self._push(torn)
                shared.set_torn_line(rest)
                if rest:
                    return False
            rest = self._push(line)
            if rest and len(rest) < len(line):
                shared.set_torn_line(rest)
                return True
            return not rest
        finally:
            fcntl.lockf(shared.line_lock, fcntl.LOCK_UN)

    def _push(self, data: bytes) -> bytes:
        """Send what the reader takes within its patience; what is left over comes back."""
        waited = False
        while data:
            try:
                data = data[self._send(data) :]
            except BlockingIOError:
                if waited or not self._wait():
                    break
                waited = True
            except OSError:
                break
        return data

    def _wait(self) -> bool:
        now = time.monotonic()
        if now < shared.impatient_until():
            return False
        shared.set_impatient_until(now + 1)
        reader = select.poll()
        reader.register(self._descriptor, select.POLLOUT)
        return bool(reader.poll(PATIENCE * 1000))

    def _open(self, descriptor: int) -> Callable[[bytes], int]:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            connection = socket.socket(fileno=os.dup(descriptor))
            return lambda data: connection.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode):
            try:
                # A description of our own: O_NONBLOCK on the inherited one would bind others too.
                self._descriptor = os.open(
                    f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                )
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                pass
        return lambda data: os.write(self._descriptor, data)

    def _reopen(self) -> Callable[[bytes], int]:
        assert self._file is not None
        self._looked = time.monotonic()
        try:
            there, ours = self._file.stat(), os.fstat(self._descriptor)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return self._send
        except (OSError, AttributeError):
            pass
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        previous, self._descriptor = self._descriptor, os.open(self._file, flags, 0o640)
        if previous > 2:
            os.close(previous)
        return lambda data: os.write(self._descriptor, data)
