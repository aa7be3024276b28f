"""CPU, memory, files and start of the service as a whole, and how its workers ended.

prometheus_client's own collector sees one process, and none in multiprocess mode. The names are
the ones every Prometheus client library uses.
"""

import os
import signal
from collections.abc import Iterator

import psutil
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class ServiceProcesses(Collector):
    """Sums over this process and its children; CPU time includes children that exited."""

    def __init__(self) -> None:
        self._master = psutil.Process()
        self._cpu_seconds = 0.0

    def collect(self) -> Iterator[Metric]:
        exited = self._master.cpu_times()
        cpu = exited.children_user + exited.children_system
        memory = files = most_files = workers = 0
        for process in (self._master, *self._master.children()):
            try:
                with process.oneshot():
                    used = process.cpu_times()
                    # Proportional set size: shared memory counts once over all processes.
                    memory += process.memory_full_info().pss
                    files += process.num_fds()
                    most_files += process.rlimit(psutil.RLIMIT_NOFILE)[0]
            except psutil.Error:
                continue
            cpu += used.user + used.system
            workers += process.pid != self._master.pid
        # A worker that exits between the two readings is in neither; the total must not fall.
        self._cpu_seconds = max(self._cpu_seconds, cpu)
        yield CounterMetricFamily("process_cpu_seconds", "CPU time, in seconds.", self._cpu_seconds)
        for name, documentation, value in (
            ("process_resident_memory_bytes", "Memory; what is shared counts once.", memory),
            ("process_open_fds", "Open file descriptors.", files),
            ("process_max_fds", "File descriptors that may be open.", most_files),
            ("process_start_time_seconds", "When it started.", self._master.create_time()),
            ("process_workers", "Worker processes.", workers),
        ):
            yield GaugeMetricFamily(name, documentation, value)


class WorkerExits(Collector):
    """Workers that ended although nobody asked them to, by cause. A reload keeps the counts."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("crashed", "killed", "timeout"), 0)

    def count(self, status: int, timed_out: bool) -> None:
        """Count a worker by its status as os.waitpid returns it, unless it was asked to end."""
        code = os.waitstatus_to_exitcode(status)
        if timed_out:
            self._counts["timeout"] += 1
        elif code == -signal.SIGKILL:
            self._counts["killed"] += 1
        elif code not in _ASKED_TO_END:
            self._counts["crashed"] += 1

    def collect(self) -> Iterator[Metric]:
        exits = CounterMetricFamily(
            "worker_exits", "Workers that ended unasked: killed, crashed, hung.", labels=["cause"]
        )
        for cause, count in self._counts.items():
            exits.add_metric([cause], count)
        yield exits


# A worker has no handlers of its own in its first moments: a signal to stop ends it as such.
_ASKED_TO_END = (0, -signal.SIGINT, -signal.SIGQUIT, -signal.SIGTERM)

worker_exits = WorkerExits()
