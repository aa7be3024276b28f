"""gunicorn as the thing that is measured: started, read through /proc, and stopped by its process id."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO

START_SECONDS = 30.0
STOP_SECONDS = 10.0


class ServerError(Exception):
    """A server did not start or did not answer; the message holds what it said last."""


class Pipe:
    """The reader of a server's output: reads all, counts lines, keeps the last bytes for error messages."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Begins to read."""
        self.lines = 0
        self.last = b""
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Reads to the end. Call it when the writers are gone."""
        self._thread.join(STOP_SECONDS)
        self._stream.close()

    def _read(self) -> None:
        while data := os.read(self._stream.fileno(), 1024 * 1024):
            self.lines += data.count(b"\n")
            self.last = (self.last + data)[-2000:]


class Server:
    """One gunicorn: its master, its workers, its port."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, metrics_port: int) -> None:
        """Takes a process that was just started with its output in a pipe."""
        assert process.stdout is not None
        self.process = process
        self.port = port
        self.metrics_port = metrics_port
        self.output = Pipe(process.stdout)

    def workers(self) -> list[int]:
        """The process ids of the workers that live."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children]

    def worker(self) -> int:
        """The one worker's process id."""
        (only,) = self.workers()
        return only

    def keep_worker_on_one_processor(self) -> None:
        """Holds the one worker's threads to one processor.

        On several they fight for the interpreter lock when one gives it up, or do not, by chance: for minutes a request
        then costs half as much again, with and without observability. On one processor the figures repeat.
        """
        pid = self.worker()
        processor = max(os.sched_getaffinity(pid))
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {processor})

    def ask(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        connection = HTTPConnection("127.0.0.1", port or self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str, port: int | None = None) -> bytes:
        """The body of an answer with status 200.

        Raises:
            ServerError: the answer has another status
        """
        status, body = self.ask(path, port)
        if status != 200:
            raise ServerError(f"GET {path} is answered {status}: {self.said()}")
        return body

    def wait_until_it_answers(self, path: str) -> None:
        """Returns at the first answer to `path`.

        Raises:
            ServerError: there is none within START_SECONDS, or the server ended
        """
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.get(path)
            except (OSError, HTTPException):
                time.sleep(0.002)
            else:
                return
        raise ServerError(f"gunicorn does not answer {path}: {self.said()}")

    def said(self) -> str:
        """The end of its output."""
        return self.output.last.decode(errors="replace")

    def stop(self) -> None:
        """Ends the master, which ends its workers; what is left of them after STOP_SECONDS is killed by its id."""
        workers = self.workers() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
        self.output.close()


@contextmanager
def running(command: list[str], environment: Mapping[str, str], folder: Path, path: str) -> Iterator[Server]:
    """A gunicorn that answers `path`, until the block ends; PORT and METRICS_PORT are random."""
    port, metrics_port = free_ports(2)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "PORT": str(port), "METRICS_PORT": str(metrics_port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    server = Server(process, port, metrics_port)
    try:
        server.wait_until_it_answers(path)
        yield server
    finally:
        server.stop()


def free_ports(quantity: int) -> list[int]:
    """Ports that nobody used a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(quantity)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all of its threads: utime + stime of /proc/PID/stat, in nanoseconds.

    It is the clock that clock_getcpuclockid(3) names; Linux makes its id of the process's, as here.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory: `Rss` counts shared pages whole, `Pss` each process's part of them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kilobytes) / 1024 for name, kilobytes in re.findall(r"^(Rss|Pss): +(\d+) kB", rollup, re.M)}
