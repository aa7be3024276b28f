"""Lines arrive whole, whoever writes them at the same time and however slowly they are read."""

import errno
import logging
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from <<cookiecutter.__package>>.observability import get_logger
from <<cookiecutter.__package>>.workers import lines
from <<cookiecutter.__package>>.workers.lines import MOST_WAITING, LineWriter

from .conftest import MakeService
from .support import Service, a_process, eventually, parsed

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

        self._thread = threading.Thread(target=read, daemon=True)
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
            failed = 1
            try:
                work(number)
                failed = 0
            finally:
                os._exit(failed)
        children.append(child)

    def wait() -> None:
        ended = [os.waitpid(child, 0)[1] for child in children]
        assert set(ended) <= {0, signal.SIGKILL}

    return wait


class Writer(LineWriter):
    """A writer that keeps account of what it lost."""

    def __init__(self, descriptor: int, file: Path | None = None) -> None:
        self.lost: dict[str, int] = {}
        super().__init__(descriptor, file, lose=self._account, flows=lambda: None)

    def _account(self, reason: str, count: int) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + count

    def put_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.put(line, at_once=False)


@pytest.fixture
def writer(pipe: Pipe) -> Iterator[Writer]:
    made = Writer(pipe.writer)
    yield made
    made.close()


def mixed_lines(writer: int, count: int) -> list[bytes]:
    return [
        line_of(writer, index, (40, 4_200, 300, 10_240, 16_384)[index % 5])
        for index in range(count)
    ]


def in_threads(descriptor: int, lines: int, threads: int) -> Callable[[int], None]:
    """Work for a process: lines of many lengths, put by several threads."""

    def work(number: int) -> None:
        writer = Writer(descriptor)
        putters = [
            threading.Thread(
                target=writer.put_all, args=(mixed_lines(number * 100 + thread, lines),)
            )
            for thread in range(threads)
        ]
        for thread in putters:
            thread.start()
        for thread in putters:
            thread.join()
        writer.flush(10)
        assert not writer.lost

    return work


def whole_lines(taken: bytes) -> list[bytes]:
    """The lines that were read, none of which is torn."""
    lines = taken.split(b"\n")
    assert lines.pop() == b""
    assert all(map(is_whole, lines))
    return lines


def test_long_lines_of_several_processes_come_out_whole(pipe: Pipe) -> None:
    wait = in_children(4, in_threads(pipe.writer, 75, threads=2))
    pipe.begin_to_read()
    wait()
    pipe.close()
    assert len(whole_lines(pipe.taken)) == 4 * 2 * 75


def test_each_writers_lines_keep_their_order(pipe: Pipe) -> None:
    wait = in_children(3, in_threads(pipe.writer, 100, threads=1))
    pipe.begin_to_read()
    wait()
    pipe.close()
    numbers: dict[bytes, list[int]] = {}
    for line in whole_lines(pipe.taken):
        writer, number, *_ = line.split(b" ")
        numbers.setdefault(writer, []).append(int(number))
    assert list(numbers.values()) == [list(range(100))] * 3


def test_a_stalled_reader_delays_nobody_and_what_it_misses_is_counted(
    pipe: Pipe, writer: Writer
) -> None:
    slowest = 0.0
    for number in range(3 * MOST_WAITING):
        began = time.monotonic()
        writer.put(line_of(0, number, 1_000), at_once=number % 2 == 0)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.5
    assert writer.lost["stalled"] > 0
    pipe.begin_to_read()
    writer.flush(10)
    pipe.close()
    assert len(whole_lines(pipe.taken)) + writer.lost["stalled"] == 3 * MOST_WAITING


def test_lines_after_a_stall_are_whole(pipe: Pipe, writer: Writer) -> None:
    writer.put_all(line_of(0, number, 10_240) for number in range(200))
    pipe.begin_to_read()
    writer.flush(10)
    writer.put_all([line_of(1, 0, 10_240), line_of(1, 1, 10_240)])
    writer.flush(10)
    pipe.close()
    assert len(whole_lines(pipe.taken)) == 202
    assert not writer.lost


def test_the_end_of_the_process_does_not_wait_for_ever(pipe: Pipe, writer: Writer) -> None:
    writer.put_all(line_of(0, number, 10_240) for number in range(200))
    began = time.monotonic()
    writer.flush(0.1)
    assert 0.1 <= time.monotonic() - began < 1
    pipe.begin_to_read()
    writer.flush(10)
    pipe.close()


def test_a_warning_is_written_at_once(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "GATHER_SECONDS", 60)
    writer.put(line_of(0, 0, 100), at_once=False)
    assert not select.select([pipe.reader], [], [], 0.05)[0]
    writer.put(line_of(0, 1, 100), at_once=True)
    eventually(lambda: select.select([pipe.reader], [], [], 0)[0])
    assert len(whole_lines(os.read(pipe.reader, 1_000))) == 2
    pipe.close()


def test_what_a_fork_inherits_is_written_once(pipe: Pipe, writer: Writer) -> None:
    pipe.begin_to_read()

    def work(number: int) -> None:
        writer.put(line_of(1 + number, 0, 100), at_once=False)
        writer.flush(10)

    writer.put(line_of(0, 0, 100), at_once=True)
    writer.flush(10)
    with lines._writing:  # as if the fork came while the parent's thread writes
        writer.put(line_of(0, 1, 100), at_once=False)
        in_children(2, work)()
    writer.flush(10)
    pipe.close()
    assert sorted(line[:1] for line in whole_lines(pipe.taken)) == [b"0", b"0", b"1", b"2"]


def test_a_line_can_be_put_where_a_signal_interrupts_another(pipe: Pipe, writer: Writer) -> None:
    pipe.begin_to_read()
    interrupting = line_of(1, 0, 100)
    former = signal.signal(signal.SIGALRM, lambda *_: writer.put(interrupting, at_once=True))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(20_000):
            writer.put(line_of(0, number, 100), at_once=True)
            if number % 500 == 0:
                writer.flush(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    writer.flush(10)
    pipe.close()
    told = sum(line.startswith(b"0 ") for line in whole_lines(pipe.taken))
    assert told + writer.lost.get("stalled", 0) >= 20_000


def test_a_writer_that_dies_within_a_line_spoils_no_other(pipe: Pipe, writer: Writer) -> None:
    pipe.begin_to_read()
    ready, died = os.pipe()

    def die(_: int) -> None:
        def half(descriptor: int, text: memoryview) -> int:
            write(descriptor, text[:50])
            write(died, b"x")
            os.kill(os.getpid(), signal.SIGKILL)
            return 50

        write, os.write = os.write, half  # type: ignore[assignment]
        dying = Writer(pipe.writer)
        dying.put(line_of(9, 0, 100), at_once=True)
        dying.flush(10)

    wait = in_children(1, die)
    os.read(ready, 1)
    wait()
    writer.put(line_of(0, 0, 10_240), at_once=False)
    writer.flush(10)
    pipe.close()
    torn, whole, nothing = pipe.taken.split(b"\n")
    assert (len(torn), nothing) == (50, b"")
    assert is_whole(whole)
    for descriptor in (ready, died):
        os.close(descriptor)


def test_a_full_disk_glues_no_two_lines(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.begin_to_read()
    room, whole = [150], os.write

    def nearly_full(descriptor: int, text: memoryview) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "no space left on device")
        written = whole(descriptor, text[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", nearly_full)
        writer.put_all(line_of(0, number, 100) for number in range(4))
        writer.flush(10)
        writer.put(line_of(0, 4, 100), at_once=True)  # nothing of which is written
        writer.flush(10)
    eventually(lambda: writer.lost.get("unwritable") == 4)
    writer.put(line_of(1, 0, 100), at_once=False)
    writer.flush(10)
    pipe.close()
    first, torn, last, nothing = pipe.taken.split(b"\n")
    assert is_whole(first)
    assert (len(torn), nothing) == (50, b"")
    assert is_whole(last)


def test_a_reader_that_went_away_harms_nobody(pipe: Pipe, writer: Writer) -> None:
    os.close(pipe.reader)
    writer.put(line_of(0, 0, 100), at_once=False)
    eventually(lambda: writer.lost == {"unwritable": 1})
    os.close(pipe.writer)


def test_a_stream_that_others_made_non_blocking_loses_no_line(pipe: Pipe, writer: Writer) -> None:
    os.set_blocking(pipe.writer, False)
    writer.put_all(line_of(0, number, 10_240) for number in range(100))
    eventually(lambda: writer._busy)
    pipe.begin_to_read()
    writer.flush(10)
    pipe.close()
    assert len(whole_lines(pipe.taken)) == 100
    assert not writer.lost


def test_a_closed_writer_leaves_no_thread_and_takes_a_late_line(pipe: Pipe) -> None:
    pipe.begin_to_read()
    writer = Writer(pipe.writer)
    writer.put(line_of(0, 0, 100), at_once=False)
    thread = writer._thread
    assert thread is not None
    writer.flush(10)
    writer.close()
    thread.join(5)
    assert not thread.is_alive()
    writer.put(line_of(0, 1, 100), at_once=False)
    writer.flush(10)
    writer.close()
    pipe.close()
    assert len(whole_lines(pipe.taken)) == 2


def test_a_line_that_is_made_late_keeps_its_place_and_one_that_cannot_be_made_is_counted(
    pipe: Pipe, writer: Writer
) -> None:
    def broken() -> bytes:
        raise ValueError("no line")

    pipe.begin_to_read()
    first, second, third = (line_of(0, number, 100) for number in range(3))
    for line in (first, lambda: second, broken, third):
        writer.put(line, at_once=False)
    writer.flush(10)
    pipe.close()
    assert pipe.taken == first + second + third
    assert writer.lost == {"ValueError": 1}


def test_what_a_stalled_reader_never_takes_is_counted_at_the_end(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    writer.put_all(line_of(0, number, 10_240) for number in range(100))
    eventually(lambda: writer._busy)
    writer.put_all(line_of(0, number, 10_240) for number in range(100))
    writer.flush(0.05)
    writer.close()
    assert writer.lost["stalled"] >= 100
    pipe.begin_to_read()
    pipe.close()


def test_a_line_is_written_where_no_thread_can_be_had(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        writer.put(line_of(0, 0, 100), at_once=False)
        assert is_whole(os.read(pipe.reader, 1_000).rstrip(b"\n"))
    writer.put(line_of(0, 1, 100), at_once=False)
    eventually(lambda: select.select([pipe.reader], [], [], 0)[0])
    os.close(pipe.reader)
    os.close(pipe.writer)


_CHILD = """
import logging, multiprocessing
from <<cookiecutter.__package>>.app import create_app
from <<cookiecutter.__package>>.settings import Settings

def work():
    logging.getLogger("child").info("the last line")

create_app(Settings(_env_file=None, log_format="json"))
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
"""


def test_the_last_line_of_a_child_process_is_written(tmp_path: Path) -> None:
    lines = parsed(a_process(_CHILD, tmp_path).stdout)
    assert [line["message"] for line in lines] == ["the last line"]


def test_lost_lines_are_counted_and_said_when_lines_flow_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    def dropped() -> float:
        return service.metric("telemetry_dropped_total", signal="logs", reason="unwritable")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(3):
            log.info("lost")
        assert service.client.get("/").status_code == 200
        eventually(lambda: dropped() == 4)
    log.info("found")
    assert service.lines("found")
    eventually(lambda: service.lines("log lines lost"))
    assert service.line("log lines lost")["lost"] == 4


# LOG_FILE


def test_a_rotated_file_loses_no_line(make_service: MakeService) -> None:
    service = make_service()
    rotated = []
    for number in range(30):
        log.info("line", number=number)
        if number % 10 == 9:
            assert service.lines("line")
            rotated.append(service.log.with_suffix(f".{number}"))
            service.log.rename(rotated[-1])
    told = [
        line["number"]
        for file in (*rotated, service.log)
        if file.exists()
        for line in parsed(file.read_bytes())
    ]
    assert told == list(range(30))
    log.info("line", number=30)
    eventually(service.log.exists)
    assert service.line("line")["number"] == 30


def test_several_processes_and_a_rotation_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "service.log"

    def work(number: int) -> None:
        writer = Writer(-1, file)
        for index in range(200):
            writer.put(line_of(number, index, (200, 9_000)[index % 2]), at_once=True)
            if index % 40 == 20 + number:
                writer.flush(10)
                with suppress(FileNotFoundError):  # another has just done so
                    file.rename(tmp_path / f"rotated-{number}-{index}")
        writer.flush(10)
        assert not writer.lost

    in_children(3, work)()
    rotations = list(tmp_path.glob("rotated-*"))
    assert len(rotations) > 2
    files = [*rotations, file] if file.exists() else rotations
    lines = [line for written in files for line in whole_lines(written.read_bytes())]
    assert len(lines) == 3 * 200


def test_a_file_that_cannot_be_opened_again_loses_nothing(service: Service, tmp_path: Path) -> None:
    log.info("before")
    assert service.lines("before")
    service.log.rename(tmp_path / "rotated")
    service.log.mkdir()
    log.info("meanwhile")
    for handler in logging.root.handlers:
        handler.flush()
    told = [line["message"] for line in parsed((tmp_path / "rotated").read_bytes())]
    assert told == ["before", "meanwhile"]
    service.log.rmdir()
    log.info("after")
    eventually(service.log.exists)
    assert service.lines("after")


# Standard output


def test_standard_output_is_whole_lines_of_json_and_nothing_else(process_output: bytes) -> None:
    failure, request, library, *_, failed = parsed(process_output)
    assert failure["exception"]["type"] == "ZeroDivisionError"
    assert request["path"] == "/fails"
    assert library["message"] == "x" * 10_000
    assert (failed["level"], failed["exception"]["message"]) == ("CRITICAL", "at the end")


def test_processes_exclude_each_other_on_a_python_without_memfd_create(tmp_path: Path) -> None:
    code = """
import fcntl
import os

del os.memfd_create
from <<cookiecutter.__package>>.workers import memory

with memory.line_lock():
    if not os.fork():
        try:
            fcntl.flock(memory._line_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os._exit(0)
        os._exit(1)
    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
