"""The systemd unit: systemd takes it, and what it starts is a service that drains."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from test_names import LONGEST_SLUG

from .processes import Output, Program, clean_environment, eventually, free_port, run, without_capabilities
from .programs import program
from .service import Service, request

NAMES = {
    "percent": "100% of 5 %n %",
    "a closing backslash": "orders\\",
    "quotes": """'"`’“”«»'\"""",
    "comment signs": "# orders ; orders",
    "200 emoji": "🚀" * 200,
}
EXPOSURE = 20
"""The most that `systemd-analyze security` may find, in tenths: 0 is shut in, 100 is open."""

# Memory that can be written and run: from 6.3 on the kernel itself can refuse it, as the unit demands.
REFUSE_WRITABLE_CODE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Unit:
    """The unit of a service, as if it were installed where it lies."""

    def __init__(self, service: Service, installed: Service, folder: Path) -> None:
        (lying,) = (service.folder / "deploy/systemd").glob("*.service")
        self.text = lying.read_text().replace(f"/opt/{service.slug}/current", str(installed.folder))
        self.file = folder / lying.name
        self.file.write_text(self.text)

    def values(self, setting: str) -> list[str]:
        return re.findall(rf"(?m)^{setting}=(.*)$", self.text)

    def value(self, setting: str) -> str:
        (value,) = self.values(setting)
        return value

    def verified(self) -> str:
        """What systemd has to say of it."""
        done = self._analyze("info")
        return f"{done.returncode}: {done.stdout}{done.stderr}"

    def description(self) -> str:
        """What systemd reads as the unit's description."""
        told = self._analyze("debug").stdout.partition(f"-> Unit {self.file.name}:")[2]
        return told.partition("Description: ")[2].partition("\n")[0]

    def _analyze(self, level: str) -> CompletedProcess[str]:
        analyze: list[str | Path] = [program("systemd-analyze"), "verify", "--recursive-errors=no"]
        return run([*analyze, self.file], environment=clean_environment(SYSTEMD_LOG_LEVEL=level))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_systemd_takes_the_unit_whatever_the_service_is_called(
    variant: Callable[..., Service], small: Service, tmp_path: Path, name: str
) -> None:
    made = variant(project_name=name, team=name, project_slug=LONGEST_SLUG)
    service = Service(made.folder.parent / LONGEST_SLUG, LONGEST_SLUG, made.tier)
    unit = Unit(service, small, tmp_path)
    assert unit.verified() == "0: "
    # One that would continue the line is doubled.
    assert unit.description() == re.sub(r"\\$", r"\\\\", name)


def test_systemd_refuses_a_unit_that_it_cannot_read(small: Service, tmp_path: Path) -> None:
    unit = Unit(small, small, tmp_path)
    assert unit.verified() == "0: "
    unit.file.write_text(unit.text.replace("ProtectSystem=", "ProtectSystems="))
    assert "Unknown key" in unit.verified()


def test_the_service_is_shut_in(small: Service, tmp_path: Path) -> None:
    unit = Unit(small, small, tmp_path)
    done = run([program("systemd-analyze"), "security", "--offline=true", f"--threshold={EXPOSURE}", unit.file])
    print(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout


def test_the_units_own_command_starts_the_service_in_production_and_drains(small: Service, tmp_path: Path) -> None:
    """Without rights, in the unit's environment; systemd hears when it listens."""
    unit = Unit(small, small, tmp_path)
    log = tmp_path / "log" / f"{small.slug}.log"
    ready = tmp_path / "notify"
    log.parent.mkdir()
    ports = free_port(), free_port()
    # What the owner writes into EnvironmentFile; nothing answers there, and it starts all the same.
    told = {"DATABASE_URL": "postgresql://app@127.0.0.1:1/app", "REDIS_URL": "redis://127.0.0.1:1/0"}
    told |= {"PORT": str(ports[0]), "METRICS_PORT": str(ports[1]), "NOTIFY_SOCKET": str(ready)}
    set_by_unit = dict(value.split("=", 1) for value in unit.values("Environment"))
    set_by_unit["LOG_FILE"] = set_by_unit["LOG_FILE"].replace(f"/var/log/{small.slug}", str(log.parent))
    environment = clean_environment(**set_by_unit, **told)
    lower = [*without_capabilities(), small.tool("python"), "-c", REFUSE_WRITABLE_CODE]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(ready))
        systemd.settimeout(60)
        checked = run([*lower, *shlex.split(unit.value("ExecStartPre"))], folder=small.folder, environment=environment)
        assert checked.returncode == 0, checked.stderr
        output, errors = Output(), Output()
        command = [*lower, *shlex.split(unit.value("ExecStart"))]
        service = Program(command, environment=environment, folder=small.folder, stdout=output, stderr=errors)
        try:
            assert systemd.recv(4096).startswith(b"READY=1")
            assert eventually(lambda: request(ports[0], "/health/live").status, "an answer") == 200
            began = time.monotonic()
            service.send(signal.SIGTERM)
            eventually(lambda: "draining for 5 s" in log.read_text(), "the drain begins")
            assert request(ports[0], "/health/live").status == 200
            assert service.wait(float(unit.value("TimeoutStopSec"))) == 0
            assert time.monotonic() - began > 5
        finally:
            service.stop()
            output.at_end()
            errors.at_end()
        assert not output.text() + errors.text(), "all of it went to LOG_FILE"
