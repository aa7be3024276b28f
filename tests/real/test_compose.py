"""Each container of Compose, its program run with the arguments, the files and the rights that it has there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .containers import Mount, Plan, compose, container, memory_of, mounts_of
from .processes import Output, eventually
from .programs import program
from .service import generate

NOBODY = "65534:65534"


@dataclass(frozen=True)
class StandIn:
    """Debian's program for an image's, and how a file of its is checked."""

    program: str
    check: tuple[str, ...]
    user: str = NOBODY


STAND_INS = {
    "prom/prometheus": StandIn("prometheus", ("promtool", "check", "config", "/etc/prometheus/prometheus.yml")),
    "prom/alertmanager": StandIn(
        "prometheus-alertmanager", ("amtool", "check-config", "/etc/alertmanager/alertmanager.yml")
    ),
    "prom/blackbox-exporter": StandIn(
        "prometheus-blackbox-exporter",
        ("prometheus-blackbox-exporter", "--config.check", "--config.file=/etc/blackbox/blackbox.yml"),
    ),
}
ELSEWHERE = {
    "grafana/grafana",  # not to be had here: its files are held to its schemas
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Compose makes of the files of a service that has every watcher."""
    return compose(generate(tmp_path_factory.mktemp("compose"), uptime_monitor="blackbox").folder)


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Path]:
    """A root that has this machine's programs and nothing else of it."""
    root = tmp_path / "root"
    root.mkdir()
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    yield root
    shutil.rmtree(root)


def watchers(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The containers that are not of the service's own image."""
    return {name: one for name, one in model["services"].items() if not one["image"].endswith(":local")}


@pytest.mark.parametrize("choices", [{}, {"scale_tier": "large", "database": "none", "uptime_monitor": "pingdom"}])
def test_composes_own_loader_accepts_the_files(tmp_path: Path, choices: dict[str, str]) -> None:
    made = compose(generate(tmp_path, **choices).folder)
    assert {"service", "prometheus", "alertmanager", "grafana"} <= set(made["services"])
    assert ("blackbox" in made["services"]) == (choices.get("uptime_monitor", "blackbox") == "blackbox")
    assert ("migration" in made["services"]) == (choices.get("database") != "none")


def test_every_container_is_tried_here_or_elsewhere(model: dict[str, Any]) -> None:
    images = {one["image"].partition(":")[0] for one in watchers(model).values()}
    assert images == {*STAND_INS, *ELSEWHERE}


@pytest.mark.parametrize("image", STAND_INS)
def test_a_program_runs_on_what_is_mounted_into_it(
    model: dict[str, Any], debian: Path, tmp_path: Path, image: str
) -> None:
    (wanted,) = [one for one in watchers(model).values() if one["image"].startswith(f"{image}:")]
    stand_in = STAND_INS[image]
    mounts = mounts_of(wanted, tmp_path / "volumes")
    for mount in mounts:
        if not mount.read_only:
            shutil.chown(mount.source, *map(int, stand_in.user.split(":")))
    assert wanted["cap_drop"] == ["ALL"]
    plan = Plan(
        root=debian,
        command=[str(program(stand_in.program)), *wanted["command"]],
        environment={"PATH": "/usr/bin"},
        user=wanted.get("user", stand_in.user),
        mounts=[Mount(Path("/usr"), "/usr", read_only=True), *mounts],
        memory=memory_of(wanted),
        read_only=wanted["read_only"],
        own_network=True,
    )
    program("wget")
    output, errors = Output(), Output()
    with container(plan, output, errors) as started:

        def well() -> bool:
            assert wanted["healthcheck"]["test"][0] == "CMD"
            check = started.within(wanted["healthcheck"]["test"][1:])
            return check.returncode == 0 or not started.program.alive()

        eventually(well, f"the health check of {image}")
        assert started.program.alive(), output.text() + errors.text()
        checked = started.within(stand_in.check)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    said = output.text() + errors.text()
    assert not [line for line in said.splitlines() if "level=error" in line or "level=ERROR" in line]
