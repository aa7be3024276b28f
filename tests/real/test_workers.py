"""Workers die: each is counted by its cause, no total falls, and a scrape costs no more than before."""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from . import servers
from .load import counted, send, under_load, watched
from .processes import eventually, exists
from .service import Gunicorn, Service, request

WORKERS = 6
FEW = 3
IN_OPEN = 0x20


def _kill_oldest(service: Gunicorn, number: signal.Signals) -> int:
    """Kill all workers but the youngest, and wait until those who follow them count, too."""
    doomed = service.workers()[: WORKERS - 1]
    for pid in doomed:
        os.kill(pid, number)
    eventually(
        lambda: not any(map(exists, doomed)) and _counting(service) == WORKERS,
        f"new workers in place of {doomed}",
        90,
    )
    eventually(lambda: int(service.get("/stage/pid").text) not in doomed, "an answer of who is left")
    return len(doomed)


def _counting(service: Gunicorn) -> int:
    """Count the workers that have got as far as making a file for their values."""
    return sum(any(service.metrics_folder.glob(f"*_{pid}.db")) for pid in service.workers())


def _opened_by_a_scrape(service: Gunicorn) -> int:
    """Count the files of values that one scrape opens, as the kernel reports them (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert watch >= 0, os.strerror(ctypes.get_errno())
    try:
        folder = os.fsencode(service.metrics_folder)
        assert libc.inotify_add_watch(watch, folder, IN_OPEN) >= 0
        service.scrape()
        return sum(1 for name in _events(watch) if name.endswith(b".db"))
    finally:
        os.close(watch)


def _events(watch: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(watch, 1 << 16)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            *_, length = struct.unpack_from("iIII", data, offset)
            yield data[offset + 16 : offset + 16 + length].rstrip(b"\0")
            offset += 16 + length


@contextmanager
def _settled(service: Service) -> Iterator[Gunicorn]:
    with service.serving(WEB_CONCURRENCY=str(WORKERS), LOG_LEVEL="WARNING") as running:
        _every_worker_answers(running)
        yield running


def _every_worker_answers(service: Gunicorn) -> None:
    """Wait until each worker has answered once, so that its files are there."""
    seen: set[int] = set()

    def condition() -> bool:
        seen.add(int(service.get("/stage/pid").text))
        return seen.issuperset(service.workers()) and len(service.workers()) == WORKERS

    eventually(condition, "an answer of each worker", 60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_total_falls_when_workers_die(small: Service, deaths_on_demand: int, number: signal.Signals) -> None:
    """A hundred deaths of each kind under load, scraped all the while."""
    with _settled(small) as service:
        opened = _opened_by_a_scrape(service)
        deaths = 0
        with watched(service) as watcher, under_load(service, clients=2, pause=0.01) as account:
            while deaths < deaths_on_demand / 2:
                deaths += _kill_oldest(service, number)
        assert not watcher.fell
        assert not watcher.failed
        assert watcher.scrapes > deaths / 4, "the scrapes did not keep up"
        _every_worker_answers(service)
        counted_now = eventually(lambda: _load_counted(service), "nothing in progress")
        answered, lost = len(account.answered), len(account.lost)
        assert answered > 100
        assert answered <= counted_now <= answered + lost, account.lost[:5]
        if number == signal.SIGTERM:
            assert not account.lost
        assert _opened_by_a_scrape(service) <= opened + 3, "a scrape opens files of exited workers"
        assert watcher.most_files <= 6 * (WORKERS + 3), "files of exited workers accumulate"
        eventually(
            lambda: service.scrape().total("http_request_capacity") == WORKERS * 4,
            "the capacity is that of the running workers",
        )


def _load_counted(service: Gunicorn) -> float:
    scrape = service.scrape()
    assert scrape.total("http_requests_in_progress") == 0
    return counted(scrape) - counted(scrape, route="/stage/pid")


def _exits(service: Gunicorn) -> dict[str, float]:
    return {dict(labels)["cause"]: count for labels, count in service.scrape().series["worker_exits_total"].items()}


def _counted_as(service: Gunicorn, expected: dict[str, float], former: set[int], what: str) -> None:
    """Wait until as many other workers follow those that ended, and compare the counts."""

    def condition() -> bool:
        now = service.workers()
        return len(now) == FEW and not former & set(now) and _counting(service) == FEW

    eventually(condition, f"others than {former} after {what}", 60)
    assert _exits(service) == expected, what


def test_workers_that_end_unasked_are_counted_by_cause(small: Service) -> None:
    """All at once by a signal, one by an exit code, one that hangs; a reload keeps the counts."""
    expected = {"crashed": 0.0, "killed": 0.0, "timeout": 0.0}
    with small.serving(WEB_CONCURRENCY=str(FEW), LOG_LEVEL="WARNING", GUNICORN_CMD_ARGS="--timeout=12") as service:
        _counted_as(service, expected, set(), "the start")
        with watched(service) as watcher:
            for number, cause in (
                (signal.SIGKILL, "killed"),
                (signal.SIGSEGV, "crashed"),
                (signal.SIGKILL, "killed"),
                (signal.SIGABRT, "crashed"),
            ):
                doomed = service.workers()
                for pid in doomed:
                    os.kill(pid, number)
                expected[cause] += FEW
                _counted_as(service, expected, set(doomed), number.name)
            for path, cause in (("/stage/exit/7", "crashed"), ("/stage/hang", "timeout")):
                (ended,) = _leaves_unanswered(service, path)
                expected[cause] += 1
                _counted_as(service, expected, {ended}, path)
            former = set(service.workers())
            service.program.send(signal.SIGHUP)
            _counted_as(service, expected, former, "a reload")
        assert not watcher.fell
        assert not watcher.failed


def _leaves_unanswered(service: Gunicorn, path: str) -> set[int]:
    """Ask for what ends a worker; return that one."""
    former = set(service.workers())
    with pytest.raises((http.client.HTTPException, OSError)):
        request(service.port, path, seconds=60)
    return eventually(lambda: former - set(service.workers()), f"an end by {path}")


def test_workers_that_end_when_asked_are_not_counted(small: Service) -> None:
    """Reloads, also of workers that have only begun; max_requests; fewer workers; a stop."""
    none = {"crashed": 0.0, "killed": 0.0, "timeout": 0.0}
    limited = "--max-requests=20"
    with small.serving(WEB_CONCURRENCY=str(FEW), DRAIN_SECONDS="1", GUNICORN_CMD_ARGS=limited) as service:
        former = set(service.workers())
        for _ in range(3):
            service.program.send(signal.SIGHUP)
        _counted_as(service, none, former, "reloads")
        former = set(service.workers())
        assert not send(service, 150).lost
        _counted_as(service, none, former, "20 requests each")
        service.program.send(signal.SIGTTOU)
        eventually(lambda: len(service.workers()) == FEW - 1, "one fewer")
        for pid in (former := set(service.workers())):
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: not former & set(service.workers()), "others after SIGTERM")
        with watched(service) as watcher:
            service.program.send(signal.SIGTERM)
            eventually(lambda: watcher.failed, "an end")
        assert watcher.last.total("worker_exits_total") == 0


def test_a_worker_that_is_killed_again_and_again_is_reported_while_the_master_lives(small: Service) -> None:
    """A warning at once; the page waits for its five minutes, which promtool's clock has."""
    rules = small.folder / "monitoring/prometheus/rules/workers.yml"
    with (
        small.serving(WEB_CONCURRENCY="2", LOG_LEVEL="ERROR") as service,
        servers.evaluating(rules, small.slug, f"127.0.0.1:{service.metrics_port}") as prometheus,
    ):
        eventually(lambda: prometheus.value("sum(worker_exits_total)") == 0, "the counts begin at zero")
        assert not prometheus.states("WorkersDying")

        def reported() -> bool:
            os.kill(service.workers()[0], signal.SIGKILL)
            return prometheus.states("WorkersDying") == {"warning": "firing", "critical": "pending"}

        eventually(reported, "WorkersDying")
        assert prometheus.value("up") == 1
        (alert,) = (each for each in prometheus.ask("alerts")["alerts"] if each["state"] == "firing")
    assert "The most frequent cause: killed." in alert["annotations"]["description"]
