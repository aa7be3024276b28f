"""What a scrape costs: its time, and the files it opens, when workers have died and when none has."""

import ctypes
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import Load
from servers import START_SECONDS, Server
from services import EVERY_SIGNAL, BenchError, Services

WORKERS = 4
DEATHS = 100
SCRAPES = 20
_IN_OPEN = 0x20
_IN_NONBLOCK = os.O_NONBLOCK
_EVENT_HEAD_BYTES = 16


@dataclass
class Scrape:
    """One scrape: its time and how many files of metric values it opened."""

    milliseconds: float
    files: int


def measure_scrapes(services: Services) -> dict[int, Scrape]:
    """A scrape after so many workers' deaths, with WORKERS alive.

    Raises:
        BenchError: a total fell when workers died
    """
    services.of("small")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 a fresh folder is made in it
    with tempfile.TemporaryDirectory(prefix="bench-metrics-", dir=memory) as values:
        variables = {"WEB_CONCURRENCY": str(WORKERS), "PROMETHEUS_MULTIPROC_DIR": values}
        with services.hello("small", EVERY_SIGNAL, **variables) as server:
            scrapes = {}
            dead = 0
            reach_every_worker(server, Path(values))
            total = requests_total(server)
            scrapes[dead] = scrape(server, Path(values))
            while dead < DEATHS:
                if dead % 20 == 0:
                    print(f"scrape: {dead} of {DEATHS} deaths ...", file=sys.stderr)
                replace_workers(server)
                dead += WORKERS
                reach_every_worker(server, Path(values))
                before, total = total, requests_total(server)
                if total <= before:
                    raise BenchError(f"the requests' total was {before:g}, and {total:g} after workers died")
            scrapes[dead] = scrape(server, Path(values))
    return scrapes


def reach_every_worker(server: Server, values: Path) -> None:
    """Sends requests until every worker has counted one.

    Raises:
        BenchError: some worker gets none
    """
    histograms = [values / f"histogram_{pid}.db" for pid in server.workers()]
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        # Each time over new connections, all at once: one after the other they would reach the same worker.
        with Load(server.port, "/hello") as load:
            load.send(0.02)
        if all(histogram.exists() for histogram in histograms):
            return
    raise BenchError("a worker gets no request")


def replace_workers(server: Server) -> None:
    """Ends every worker by its process id and waits until as many others answer.

    Raises:
        BenchError: they do not come
    """
    gone = server.workers()
    for pid in gone:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        time.sleep(0.02)
        living = server.workers()
        if len(living) == WORKERS and not set(gone) & set(living):
            return
    raise BenchError("gunicorn does not replace its workers")


def requests_total(server: Server) -> float:
    """How many requests were ever counted."""
    lines = server.get("/metrics", server.metrics_port).decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("http_request_duration_seconds_count"))


def scrape(server: Server, values: Path) -> Scrape:
    """The median time of some scrapes, and the files that one of them opens."""
    milliseconds = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        server.get("/metrics", server.metrics_port)
        milliseconds.append((time.perf_counter() - began) * 1000)
    time.sleep(1)  # whoever started lately has opened its own
    with openings(values) as opened:
        server.get("/metrics", server.metrics_port)
        files = opened()
    return Scrape(statistics.median(milliseconds), files)


@contextmanager
def openings(folder: Path) -> Iterator["Openings"]:
    """Counts, by inotify(7), how often files of a folder are opened until the block ends."""
    counter = Openings(folder)
    try:
        yield counter
    finally:
        counter.close()


class Openings:
    """A watch on a folder; calling it tells how many openings there were since the last call."""

    def __init__(self, folder: Path) -> None:
        """Begins to watch.

        Raises:
            OSError: the kernel has no inotify, or not for us
        """
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_IN_NONBLOCK)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot watch", str(folder))

    def __call__(self) -> int:
        """How many files were opened."""
        count = 0
        try:
            while data := os.read(self._descriptor, 65_536):
                while data:
                    named = int.from_bytes(data[12:16], sys.byteorder) > 0  # the folder's own have no name
                    count += named
                    data = data[_EVENT_HEAD_BYTES + int.from_bytes(data[12:16], sys.byteorder) :]
        except BlockingIOError:
            return count
        return count

    def close(self) -> None:
        """Ends the watch."""
        os.close(self._descriptor)
