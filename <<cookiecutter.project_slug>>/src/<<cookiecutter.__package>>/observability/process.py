"""CPU, memory, files and start of the service as a whole: gunicorn's master and its workers.

prometheus_client's own collector sees one process, and none in multiprocess mode. The names are
the ones every Prometheus client library uses.
"""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class ServiceProcesses(Collector):
    """Sums over this process and its living children; keeps what the dead ones used."""

    def __init__(self) -> None:
        self._cpu_seconds = 0.0
        self._started = _started(os.getpid())

    def collect(self) -> Iterator[Metric]:
        processes = [os.getpid(), *_children(os.getpid())]
        # A child that dies between the two readings would be missing from both: never go back.
        self._cpu_seconds = max(self._cpu_seconds, _cpu_of_the_dead() + sum(map(_cpu, processes)))
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time of all processes, in seconds.", self._cpu_seconds
        )
        yield _gauge(
            "process_resident_memory_bytes",
            "Memory of all processes; what they share counts once.",
            sum(map(_memory, processes)),
        )
        yield _gauge("process_open_fds", "Open file descriptors.", sum(map(_open_files, processes)))
        yield _gauge(
            "process_max_fds",
            "File descriptors that may be open.",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0] * len(processes),
        )
        yield _gauge("process_start_time_seconds", "When the master started.", self._started)
        yield _gauge("process_workers", "Worker processes.", len(processes) - 1)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in (_PROC / f"{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    # proc(5): the second field is the program's name, which may hold spaces and parentheses.
    return (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu(pid: int) -> float:
    try:
        user, system = _stat(pid)[11:13]
    except (OSError, ValueError):
        return 0.0
    return (int(user) + int(system)) / _TICKS


def _cpu_of_the_dead() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    try:
        rollup = (_PROC / f"{pid}/smaps_rollup").read_text()
        return int(rollup.partition("\nPss:")[2].split(None, 1)[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(_PROC / f"{pid}/fd"))
    except OSError:
        return 0


def _started(pid: int) -> float:
    try:
        since_boot = int(_stat(pid)[19]) / _TICKS
    except (OSError, ValueError):
        return time.time()
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
