"""CPU, memory, files and start of the service as a whole: gunicorn's master and its workers.

prometheus_client's own collector sees one process, and none in multiprocess mode. The names are
the ones every Prometheus client library uses.
"""

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
