"""The folder of the workers' values: named, full, or read-only."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .load import send
from .processes import eventually, exists, run
from .programs import unavailable
from .service import Gunicorn, Service


@contextmanager
def _file_system(size: str) -> Iterator[Path]:
    """Mount a small file system of its own."""
    if os.geteuid():
        unavailable("mount", "run as root, who may mount a small file system")
    folder = Path(tempfile.mkdtemp(prefix="proof-mount-"))
    try:
        done = run(["mount", "-t", "tmpfs", "-o", f"size={size}", "proof", folder])
        if done.returncode:
            unavailable("mount", f"tmpfs cannot be mounted: {done.stderr}")
        try:
            yield folder
        finally:
            run(["umount", "-l", folder])
    finally:
        folder.rmdir()


def _goes_on(service: Gunicorn) -> None:
    """Requests are answered, workers live, the loss is counted and said once."""
    workers = service.workers()
    account = send(service, 200)
    assert not account.lost
    assert set(account.statuses()) == {200, 404, 500}
    assert service.ready()
    lost = eventually(
        lambda: service.scrape().total("telemetry_dropped_total", signal="metrics"),
        "lost values are counted",
    )
    assert lost > 0
    for _ in range(5):
        service.scrape()
    assert service.workers() == workers, "workers died"
    said = [r for r in service.records() if "metrics" in r["message"] and "lost" in r["message"]]
    assert len(said) == 1, said


@pytest.mark.parametrize("size", ["4k", "100k", "400k"])
def test_a_folder_that_is_full_fails_no_request(small: Service, size: str) -> None:
    """No room for any file, for one, for some: writing to a sparse file would kill the worker."""
    with (
        _file_system(size) as folder,
        small.serving(WEB_CONCURRENCY="2", metrics_folder=folder) as service,
    ):
        _goes_on(service)


def test_a_folder_that_is_read_only_fails_no_request(small: Service) -> None:
    """As under a root file system that nobody may write to."""
    with _file_system("1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with small.serving(WEB_CONCURRENCY="2", metrics_folder=folder) as service:
            _goes_on(service)


def test_a_folder_that_fills_up_later_fails_no_request(small: Service) -> None:
    """Workers that start when no space is left serve like the others."""
    with (
        _file_system("2m") as folder,
        small.serving(WEB_CONCURRENCY="2", metrics_folder=folder) as service,
    ):
        send(service, 50)
        before = service.scrape().total("http_request_duration_seconds_count")
        assert before == 50
        _fill(folder)
        doomed = service.workers()
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(exists, doomed)) and len(service.workers()) == 2, "new workers")
        eventually(service.ready, "ready again")
        _goes_on(service)
        assert service.scrape().total("http_request_duration_seconds_count") >= before


def _fill(folder: Path) -> None:
    """Leave not a byte free."""
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    assert os.statvfs(folder).f_bavail == 0


@pytest.mark.parametrize("named", [None, ""])
def test_without_a_name_the_folder_is_the_services_own_and_goes_with_it(small: Service, named: str | None) -> None:
    """Nothing is left behind after a stop, and nothing of anybody else's is touched."""
    decoy = small.folder / "somebodys.db"
    decoy.write_text("precious")
    try:
        with small.serving(PROMETHEUS_MULTIPROC_DIR=named) as service:
            send(service, 20)
            eventually(
                lambda: service.scrape().total("http_request_duration_seconds_count") == 20,
                "counts",
            )
            folders = _folders_of(service)
            assert folders
            assert small.folder not in folders
            assert service.program.stop(seconds=30) == 0
            assert not any(folder.exists() for folder in folders)
        assert decoy.read_text() == "precious"
    finally:
        decoy.unlink(missing_ok=True)


def test_a_database_in_the_named_folder_is_left_alone(small: Service, tmp_path: Path) -> None:
    """A start empties the folder of values, and of nothing else."""
    decoy = tmp_path / "orders.db"
    decoy.write_text("precious")
    with small.serving(metrics_folder=tmp_path) as service:
        assert service.get("/stage/ok").status == 200
        assert service.scrape().count()
    assert decoy.read_text() == "precious"


def _folders_of(service: Gunicorn) -> set[Path]:
    """The folders in which a worker holds files of values open (mapped)."""
    maps = Path(f"/proc/{service.workers()[0]}/maps").read_text()
    return {Path(line.split()[-1]).parent for line in maps.splitlines() if line.endswith(".db")}


def test_a_folder_that_is_not_there_yet_is_made(small: Service, tmp_path: Path) -> None:
    """PROMETHEUS_MULTIPROC_DIR names the folder; nobody has to make it first."""
    wanted = tmp_path / "not" / "there"
    with small.serving(PROMETHEUS_MULTIPROC_DIR=str(wanted)) as service:
        send(service, 20)
        eventually(lambda: service.scrape().total("http_request_duration_seconds_count") == 20, "counts")
        assert list(wanted.glob("*.db"))


def test_a_restart_begins_from_nothing(small: Service, tmp_path: Path) -> None:
    """Values of an earlier run are no values of this one."""
    for _ in range(2):
        with small.serving(metrics_folder=tmp_path) as service:
            send(service, 10)
            eventually(
                lambda: service.scrape().total("http_request_duration_seconds_count") == 10,
                "the requests of this run alone",
            )
