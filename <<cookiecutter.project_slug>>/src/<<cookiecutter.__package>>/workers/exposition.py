"""Metrics of several workers, served by gunicorn's master on a port of their own.

Each worker writes its values to files of its own in PROMETHEUS_MULTIPROC_DIR; the master reads
them at a scrape. When a worker exits, the master adds its counts to one file and removes the
worker's, so a scrape reads the files of the running workers and one more, however many exited.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ..settings import Settings
from . import memory
from .listener import addresses
from .processes import ServiceProcesses, worker_exits
from .values import AllocatedValues

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_VALUE_FILE = re.compile(r"(?:counter|histogram|summary|gauge_[a-z]+)_\d+\.db")
_EXITED = "0"
"""In place of the process id in a file's name: the file of all workers that exited."""

_files = threading.Lock()


def serves_metrics_from_master() -> bool:
    """Whether this process is one of gunicorn's, whose master serves the metrics."""
    return _VARIABLE in os.environ


def values_directory() -> Path:
    return Path(os.environ[_VARIABLE])


def empty_directory() -> None:
    """Remove an earlier run's values. Once a start: a reload keeps what was counted."""
    directory = values_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in _value_files(directory):
            file.unlink()
    except OSError:
        memory.count_lost_value_file()


def _value_files(directory: Path) -> list[Path]:
    """The files that prometheus_client writes; a database may lie beside them."""
    return [file for file in directory.glob("*.db") if _VALUE_FILE.fullmatch(file.name)]


class Workers(Collector):
    """The merged values of the running workers and of those that exited."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reported = False

    def collect(self) -> Iterable[Metric]:
        with _files:
            # A file is empty until its worker has allocated it.
            files = [str(file) for file in _value_files(self._directory) if file.stat().st_size]
            families = {metric.name: metric for metric in MultiProcessCollector.merge(files)}
        if lost := memory.lost_value_files():
            name = "telemetry_dropped"
            family = families.setdefault(name, CounterMetricFamily(name, "Telemetry lost."))
            labels = {"signal": "metrics", "reason": "directory"}
            family.add_sample(f"{name}_total", labels, lost)
            self._report_once()
        return families.values()

    def _report_once(self) -> None:
        if not self._reported:
            self._reported = True
            logging.getLogger(__name__).warning(
                "metrics lost: their directory takes no files",
                extra={"directory": str(self._directory)},
            )


class Registry(CollectorRegistry):
    """A registry that filters by name although its collectors know their names only at a scrape."""

    def restricted_registry(self, names: Iterable[str]) -> Any:
        """`/metrics?name[]=...`: the samples of these names."""
        wanted = frozenset(names)
        found = (metric._restricted_metric(wanted) for metric in self.collect())
        return SimpleNamespace(collect=lambda: filter(None, found))


class Info(Collector):
    """app_info: the version and revision that run."""

    def __init__(self, settings: Settings) -> None:
        self._labels = [settings.app_version, settings.app_revision or ""]

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("app_info", "What runs.", labels=["version", "revision"])
        info.add_metric(self._labels, 1)
        yield info


def merge_exited_worker(pid: int) -> None:
    """Merge the totals of a worker that exited, and remove its gauges.

    Scrapes wait meanwhile, so no total falls or counts twice. Where the values of a worker cannot
    be merged its files stay, and a scrape reads those.
    """
    directory = values_directory()
    with _files:
        for file in list(directory.glob(f"*_{pid}.db")):
            try:
                kind = file.name.removesuffix(f"_{pid}.db")
                if kind.startswith("gauge") or not file.stat().st_size:
                    file.unlink()
                else:
                    _merge(file, directory / f"{kind}_{_EXITED}.db")
            except OSError:
                logging.getLogger(__name__).exception("metrics of an exited worker not merged")


def _merge(source: Path, target: Path) -> None:
    counted = [(key, value) for key, value, _, _ in MmapedDict.read_all_values_from_file(source)]
    with closing(AllocatedValues(str(target))) as total:
        sums = [(key, value + total.read_value(key)[0]) for key, value in counted]
        source.unlink()
        for key, value in sums:
            total.write_value(key, value, 0.0)


def serve_metrics(settings: Settings) -> None:
    """Answer scrapes from the master, also while every worker is busy.

    Exits with one line where METRICS_PORT is taken.
    """
    registry = Registry()
    workers = Workers(values_directory())
    for collector in (workers, ServiceProcesses(), worker_exits, Info(settings)):
        registry.register(collector)
    for address in addresses(settings.host):
        try:
            server, _ = start_http_server(settings.metrics_port, address, registry)
        except OSError as error:
            sys.exit(
                f"METRICS_PORT: {settings.metrics_port} cannot be used: {error.strerror};"
                " allowed: a free port"
            )
        # Each idle connection would otherwise keep a thread of the master.
        server.RequestHandlerClass.timeout = 5  # type: ignore[attr-defined]
        os.register_at_fork(after_in_child=server.socket.close)
