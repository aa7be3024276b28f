"""Lines arrive whole, whoever writes them at the same time and however slowly they are read."""

import errno
import fcntl
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from <<cookiecutter.__package>>.observability import get_logger, shared
from <<cookiecutter.__package>>.observability import logging as logging_module
from <<cookiecutter.__package>>.observability.lines import PATIENCE, LineWriter
from <<cookiecutter.__package>>.observability.logging import Lines

from .conftest import MakeService
from .support import Service, parsed

log = get_logger(__name__)


def line_of(writer: int, number: int, length: int) -> bytes:
    head = f"{writer} {number} {length} ".encode()
    return head + b"x" * (length - len(head) - 1) + b"\n"


def is_whole(line: bytes) -> bool:
    _, _, length, rest = line.split(b" ")
    return len(line) + 1 == int(length) and set(rest) <= {ord("x")}


class Pipe:
    """A pipe, and what a reader took from it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.taken = b""
        self._thread: threading.Thread | None = None

    def begin_to_read(self, pause: float = 0.0) -> None:
        def read() -> None:
            while data := os.read(self.reader, 65_536):
                self.taken += data
                time.sleep(pause)

        self._thread = threading.Thread(target=read)
        self._thread.start()

    def close(self) -> None:
        """No more is written; wait for the reader."""
        os.close(self.writer)
        if self._thread:
            self._thread.join(10)
        os.close(self.reader)


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def in_children(count: int, work: Callable[[int], None]) -> Callable[[], None]:
    """Run `work(number)` in forked processes, as gunicorn forks its workers; returns a wait."""
    children = []
    for number in range(count):
        with warnings.catch_warnings():
            # Python warns of a fork where there are threads; these children use none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                work(number)
            finally:
                os._exit(0)
        children.append(child)

    def wait() -> None:
        for child in children:
            os.waitpid(child, 0)

    return wait


class Work:
    """Writes lines of many lengths from threads of one process, each until it is taken."""

    def __init__(self, descriptor: int, lines: int, threads: int = 1) -> None:
        self._descriptor, self._lines, self._threads = descriptor, lines, threads

    def __call__(self, number: int) -> None:
        writer, lock = LineWriter(self._descriptor), threading.Lock()

        def write(thread: int) -> None:
            for index in range(self._lines):
                length = (40, 4_200, 300, 10_240, 16_384)[index % 5]
                line = line_of(number * 100 + thread, index, length)
                with lock:
                    while not writer.write(line):
                        time.sleep(0.001)

        threads = [
            threading.Thread(target=write, args=(thread,)) for thread in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_long_lines_of_several_processes_come_out_whole(pipe: Pipe) -> None:
    wait = in_children(4, Work(pipe.writer, 75, threads=2))
    pipe.begin_to_read()
    wait()
    pipe.close()
    lines = pipe.taken.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 4 * 2 * 75
    assert all(map(is_whole, lines))


def test_each_writers_lines_keep_their_order(pipe: Pipe) -> None:
    wait = in_children(3, Work(pipe.writer, 100))
    pipe.begin_to_read()
    wait()
    pipe.close()
    numbers: dict[bytes, list[int]] = {}
    for line in pipe.taken.split(b"\n")[:-1]:
        writer, number, *_ = line.split(b" ")
        numbers.setdefault(writer, []).append(int(number))
    assert list(numbers.values()) == [list(range(100))] * 3


@pytest.mark.parametrize(("length", "count"), [(16_384, 400), (1_000, 4_000)])
def test_a_stalled_reader_delays_one_write_and_no_more(pipe: Pipe, length: int, count: int) -> None:
    writer = LineWriter(pipe.writer)
    line = line_of(0, 0, length)
    began = time.monotonic()
    written = [writer.write(line) for _ in range(count)]
    taken = time.monotonic() - began
    assert written[0]
    assert not written[-1]
    assert PATIENCE <= taken < PATIENCE + 2
    pipe.begin_to_read()
    writer.close()
    pipe.close()
    lines = pipe.taken.split(b"\n")
    assert all(map(is_whole, lines[:-1]))


def test_lines_after_a_stall_are_whole(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    written = sum(writer.write(line_of(0, number, 10_240)) for number in range(200))
    assert 0 < written < 200
    pipe.begin_to_read()
    deadline = time.monotonic() + 5
    while not writer.write(line_of(1, 0, 10_240)):
        assert time.monotonic() < deadline
    assert writer.write(line_of(1, 1, 10_240))
    writer.close()
    pipe.close()
    lines = pipe.taken.split(b"\n")
    assert lines.pop() == b""
    assert all(map(is_whole, lines))
    assert sum(line.startswith(b"0 ") for line in lines) == written
    assert sum(line.startswith(b"1 ") for line in lines) == 2


def test_a_reader_that_is_behind_is_waited_for(pipe: Pipe) -> None:
    pipe.begin_to_read(pause=0.001)
    writer = LineWriter(pipe.writer)
    assert all(writer.write(line_of(0, number, 10_240)) for number in range(300))
    assert all(writer.write(line_of(0, number, 200)) for number in range(300))
    writer.close()
    pipe.close()
    lines = pipe.taken.split(b"\n")[:-1]
    assert len(lines) == 600
    assert all(map(is_whole, lines))


def test_a_writer_that_dies_while_it_writes_stops_nobody(pipe: Pipe) -> None:
    ready, died = os.pipe()

    def die(_: int) -> None:
        fcntl.lockf(shared.line_lock, fcntl.LOCK_EX)
        os.write(died, b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    wait = in_children(1, die)
    os.read(ready, 1)
    wait()
    writer = LineWriter(pipe.writer)
    assert writer.write(line_of(0, 0, 10_240))
    writer.close()
    for descriptor in (ready, died, pipe.reader, pipe.writer):
        os.close(descriptor)


def test_a_reader_that_went_away_harms_nobody(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    os.close(pipe.reader)
    assert not writer.write(line_of(0, 0, 100))
    writer.close()
    os.close(pipe.writer)


def test_others_who_hold_the_pipe_still_block(pipe: Pipe) -> None:
    LineWriter(pipe.writer).close()
    assert os.get_blocking(pipe.writer)
    os.close(pipe.writer)
    os.close(pipe.reader)


def test_a_socket_is_written_to_as_well() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = LineWriter(ours.fileno())
        assert writer.write(b"a line\n")
        assert theirs.recv(100) == b"a line\n"
        began = time.monotonic()
        assert not all(writer.write(line_of(0, 0, 16_384)) for _ in range(400))
        assert time.monotonic() - began < PATIENCE + 2
        theirs.setblocking(False)
        taken = _everything(theirs)
        assert writer.write(line_of(1, 0, 100))
        taken += _everything(theirs)
        lines = taken.split(b"\n")
        assert lines.pop() == b""
        assert all(map(is_whole, lines))
        writer.close()


def _everything(connection: socket.socket) -> bytes:
    taken = b""
    with suppress(BlockingIOError):
        while data := connection.recv(65_536):
            taken += data
    return taken


def test_lost_lines_are_counted_and_said_when_lines_flow_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(3):
            log.info("lost")
        assert service.client.get("/").status_code == 200
    monkeypatch.setattr(logging_module, "SAY_LOST_SECONDS", 0)
    assert os.write is whole
    assert service.metric("telemetry_dropped_total", signal="logs", reason="stalled") == 4
    log.info("found")
    assert service.line("log lines lost")["lost"] == 4
    log.info("found")
    assert [line["message"] for line in service.lines()] == ["found", "log lines lost", "found"]


# LOG_FILE


def test_a_rotated_file_loses_no_line(make_service: MakeService) -> None:
    service = make_service()
    rotated = []
    for number in range(30):
        log.info("line", number=number)
        if number % 10 == 9:
            rotated.append(service.log.with_suffix(f".{number}"))
            service.log.rename(rotated[-1])
            _look_again()
    told = [
        line["number"]
        for file in (*rotated, service.log)
        if file.exists()
        for line in parsed(file.read_bytes())
    ]
    assert told == list(range(30))
    log.info("line", number=30)
    assert service.line("line")["number"] == 30


def _look_again() -> None:
    """As if the moment had passed after which the writer looks whether its file was rotated."""
    for handler in logging.root.handlers:
        if isinstance(handler, Lines):
            handler._writer._looked -= 10


def test_several_processes_and_a_rotation_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "service.log"

    def work(number: int) -> None:
        writer = LineWriter(-1, file)
        for index in range(200):
            writer._looked -= 10
            assert writer.write(line_of(number, index, (200, 9_000)[index % 2]))
            if index % 40 == 20 + number:
                with suppress(FileNotFoundError):  # another has just done so
                    file.rename(tmp_path / f"rotated-{number}-{index}")

    in_children(3, work)()
    rotations = list(tmp_path.glob("rotated-*"))
    assert len(rotations) > 2
    files = [*rotations, file] if file.exists() else rotations
    lines = [line for written in files for line in written.read_bytes().split(b"\n")[:-1]]
    assert len(lines) == 3 * 200
    assert all(map(is_whole, lines))


def test_a_file_that_cannot_be_opened_again_harms_nobody(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.info("before")
    service.log.rename(tmp_path / "rotated")
    service.log.mkdir()
    _look_again()
    log.info("meanwhile")
    assert service.client.get("/").status_code == 200
    service.log.rmdir()
    _look_again()
    log.info("after")
    assert "after" in [line["message"] for line in service.lines()]


# Standard output


def test_standard_output_is_whole_lines_of_json_and_nothing_else(process_output: bytes) -> None:
    failure, request, library, *_, failed = parsed(process_output)
    assert failure["exception"]["type"] == "ZeroDivisionError"
    assert request["path"] == "/fails"
    assert library["message"] == "x" * 10_000
    assert (failed["level"], failed["exception"]["message"]) == ("CRITICAL", "at the end")
