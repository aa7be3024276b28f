"""Starting programs, waiting for what they do, and leaving none of them behind."""

from __future__ import annotations

import atexit
import http.client
import os
import random
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_running: set[Program] = set()
_NOT_YET = (
    OSError,
    LookupError,
    ValueError,
    AssertionError,
    http.client.HTTPException,
    sqlite3.OperationalError,
    subprocess.SubprocessError,
)


def eventually(condition: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """Return the first true answer of `condition`; say what was awaited if none comes.

    An exception counts as "not yet": a server that is starting refuses connections.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except _NOT_YET as exception:
            last = repr(exception)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {last!r:.500})")
        time.sleep(0.03)


def free_port() -> int:
    """Return a port below the range that outgoing connections take theirs from.

    A port that the kernel hands out could be taken by a client of ours before the server binds it.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port in 100 tries")


def clean_environment(**extra: str) -> dict[str, str]:
    """What a program started here inherits: nothing that configures a service by accident."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_CERT", "PIP_FIND_LINKS", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | extra


def without_capabilities() -> list[str | Path]:
    """Return what takes the capabilities of root from a command, as the unit does; others have none."""
    if os.geteuid():
        return []
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


class Output:
    """The reading end of a program's pipe. Holding it still is a log reader that stalls."""

    def __init__(self, *, reading: bool = True) -> None:
        self._read, self.write_end = self._open()
        self._may_read = threading.Event()
        if reading:
            self._may_read.set()
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _open(self) -> tuple[int, int]:
        return os.pipe()

    def _follow(self) -> None:
        while True:
            self._may_read.wait()
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                os.close(self._read)
                return
            self._chunks.append(chunk)

    def resume(self) -> None:
        self._may_read.set()

    def break_off(self) -> None:
        """Go away: whoever writes from now on has a broken pipe. For one that was never read."""
        assert not self._may_read.is_set()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, self._read)
        os.close(nothing)
        self._may_read.set()

    def text(self) -> str:
        return b"".join(self._chunks).decode()

    def lines(self) -> list[str]:
        """Return the whole lines so far; separators other than the newline are data."""
        return self.text().split("\n")[:-1]

    def handed_over(self) -> None:
        """Close our copy of the writing end: the program has its own by now."""
        os.close(self.write_end)

    def at_end(self, seconds: float = 20.0) -> None:
        """Wait until every process that could still write has gone."""
        self._may_read.set()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "something still holds the pipe open"


class Program:
    """A started program in a session of its own, so that stopping it stops its children too."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stdout: Output | Path | None = None,
        stderr: Output | Path | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        out, err = _destination(stdout), _destination(stderr)
        try:
            self._process = subprocess.Popen(
                self.command,
                env=dict(clean_environment() if environment is None else environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        finally:
            for side, descriptor in {stdout: out, stderr: err}.items():  # they may be one
                if isinstance(side, Output):
                    side.handed_over()
                elif isinstance(side, Path):
                    os.close(descriptor)
        self.pid = self._process.pid
        _running.add(self)

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Return the exit code once the program has ended by itself."""
        code = self._process.wait(seconds)
        self._end_group()
        return code

    def freeze(self) -> None:
        """Stop it in its tracks, its children with it: connections open, and nobody answers."""
        self._send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        for pid in self.family():
            with suppress(ProcessLookupError):  # a child that ends meanwhile
                os.kill(pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20.0) -> int | None:
        """Ask it to end, then end whatever is left of it and of its children."""
        if self.alive():
            self.send(number)
            self.send(signal.SIGCONT)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._end_group()
                self._process.wait(seconds)
        self._end_group()
        return self._process.returncode

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        _running.discard(self)

    def children(self) -> list[int]:
        """Return the pids of the living children, oldest first."""
        return children(self.pid)

    def family(self) -> list[int]:
        """Return this program and all that descends from it."""
        found, queue = [self.pid], [self.pid]
        while queue:
            for child in children(queue.pop()):
                found.append(child)
                queue.append(child)
        return found


def _destination(side: Output | Path | None) -> int:
    if side is None:
        return subprocess.DEVNULL
    if isinstance(side, Output):
        return side.write_end
    return os.open(side, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def children(parent: int) -> list[int]:
    """Return the living children of a process, oldest first; those not yet reaped are left out."""
    found = []
    for entry in Path("/proc").iterdir():
        state = _stat(int(entry.name)) if entry.name.isdigit() else None
        if state and state.parent == parent and state.letter != "Z":
            found.append((state.started, int(entry.name)))
    return [pid for _, pid in sorted(found)]


class _State:
    def __init__(self, fields: Sequence[str]) -> None:
        self.letter, self.parent, self.started = fields[0], int(fields[1]), int(fields[19])


def _stat(pid: int) -> _State | None:
    try:
        return _State(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split())
    except OSError:
        return None


def exists(pid: int) -> bool:
    state = _stat(pid)
    return state is not None and state.letter != "Z"


def run(
    command: Sequence[str | Path],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, its children with it, and return what it said."""
    with subprocess.Popen(
        [str(part) for part in command],
        env=dict(clean_environment() if environment is None else environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def again_and_again(action: Callable[[threading.Event], object], seconds: float = 0) -> Iterator[None]:
    """Do it every so often from a thread, whatever comes of it, until the block ends, which sets the event."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            with suppress(OSError, LookupError):
                action(ended)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@atexit.register
def _leave_nothing_behind() -> None:
    for started in list(_running):
        started.stop(signal.SIGKILL, 5)
