"""Each container of Compose, its program run with the arguments, the files and the rights that it has there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from two_services import joined

from .containers import Mount, Plan, compose, container, memory_of, mounts_of
from .processes import Output, eventually
from .programs import program
from .service import generate

NOBODY = "65534:65534"


@dataclass(frozen=True)
class StandIn:
    """Debian's program for an image's, and what checks the configuration that it is told of."""

    program: str
    check: tuple[str, ...]
    user: str = NOBODY
    options: tuple[str, ...] = ()


STAND_INS = {
    "prom/prometheus": StandIn(
        "prometheus",
        ("promtool", "check", "config"),
        # What Prometheus 3 does by itself.
        options=("--enable-feature=expand-external-labels",),
    ),
    "prom/alertmanager": StandIn("prometheus-alertmanager", ("amtool", "check-config")),
    "prom/blackbox-exporter": StandIn(
        "prometheus-blackbox-exporter",
        ("prometheus-blackbox-exporter", "--config.check", "--config.file"),
    ),
}
ELSEWHERE = {
    "grafana/grafana",  # not to be had here: its files are held to its schemas
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Compose makes of the files of a service that has every watcher."""
    return compose(generate(tmp_path_factory.mktemp("compose"), uptime_monitor="blackbox").folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of a medium and a large service on the platform of the first."""
    slugs = {"medium": "ledger", "large": "billing"}
    made = [
        generate(tmp_path_factory.mktemp(tier), project_slug=slug, scale_tier=tier).folder.with_name(slug)
        for tier, slug in slugs.items()
    ]
    one, other = joined(tmp_path_factory.mktemp("shared"), *made)
    (other / ".env").write_text("PORT=8001\n")
    return compose(one), compose(other)


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


def addresses(model: dict[str, Any]) -> dict[str, str]:
    """Where this machine reaches each container that it reaches."""
    return {
        name: f"{port['host_ip']}:{port['published']}"
        for name, one in model["services"].items()
        for port in one.get("ports") or []
    }


def test_two_services_run_on_one_machine_with_a_line_a_port_in_the_second_ones_env(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    ports = {"PORT": "8001", "GRAFANA_PORT": "3001", "PROMETHEUS_PORT": "9091", "ALERTMANAGER_PORT": "9094"}
    second = generate(tmp_path, project_slug="second-service").folder.with_name("second-service")
    (second / ".env").write_text("".join(f"{name}={port}\n" for name, port in ports.items()))
    other = compose(second)
    one, two = addresses(model), addresses(other)
    assert set(one) == set(two) == {"service", "grafana", "prometheus", "alertmanager"}
    assert not set(one.values()) & set(two.values())
    assert set(two.values()) == {f"127.0.0.1:{port}" for port in ports.values()}
    for name in ("name", "networks", "volumes"):
        assert json.dumps(model[name]) != json.dumps(other[name])
    assert model["services"]["service"]["image"] != other["services"]["service"]["image"]
    # What leads to a watcher leads to its own one.
    links = re.findall(r"http://localhost:(\d+)", json.dumps(other))
    assert sorted(links) == sorted([ports["GRAFANA_PORT"], *list(ports.values())[1:]])


def test_every_container_is_tried_here_or_elsewhere(model: dict[str, Any]) -> None:
    images = {one["image"].partition(":")[0] for one in watchers(model).values()}
    assert images == {*STAND_INS, *ELSEWHERE}


def test_two_services_are_in_one_network_and_in_each_others_way_nowhere(
    shared: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    one, other = shared
    assert {"service", "prometheus", "alertmanager", "grafana", "blackbox"} <= one["services"].keys()
    assert other["services"].keys() == {"service", "migration"}
    (network,) = {made["networks"]["default"]["name"] for made in shared}
    assert other["networks"]["default"]["external"]
    hosts = [made["services"]["service"]["networks"]["default"]["aliases"] for made in shared]
    assert hosts == [["ledger"], ["billing"]]
    assert network == "ledger_default"
    assert not set(addresses(one).values()) & set(addresses(other).values())
    assert one["services"]["service"]["image"] != other["services"]["service"]["image"]
    assert not {each["name"] for each in one["volumes"].values()} & {each["name"] for each in other["volumes"].values()}


@pytest.mark.parametrize("image", STAND_INS)
def test_a_program_runs_on_what_is_mounted_into_it(
    model: dict[str, Any], debian: Path, tmp_path: Path, image: str
) -> None:
    runs_on_its_mounts(model, image, debian, tmp_path)


def test_prometheus_loads_the_rules_of_each_service_on_its_platform(
    shared: tuple[dict[str, Any], dict[str, Any]], debian: Path, tmp_path: Path
) -> None:
    slugs = ("ledger", "billing")

    def both_are_watched(answer: Callable[[str], Any]) -> None:
        files = {os.path.normpath(group["file"]) for group in answer("rules")["groups"]}
        assert {f"/etc/prometheus/services/{slug}/rules/availability.yml" for slug in slugs} <= files

        def found() -> set[tuple[str, str]]:
            labels = [each["labels"] for each in answer("targets")["activeTargets"]]
            return {(each["job"], f"{each['service']} {each['instance']}") for each in labels}

        expected = {
            *((slug, f"{slug} {slug}:9464") for slug in slugs),
            *(("uptime", f"{slug} http://{slug}:8000/health/ready") for slug in slugs),
            *(("postgres", f"{slug} {slug}-postgres-exporter:9187") for slug in slugs),
            *(("redis", f"{slug} {slug}-redis-exporter:9121") for slug in slugs),
            ("node", "node node-exporter:9100"),
            ("cadvisor", "cadvisor cadvisor:8080"),
            ("fluent-bit", "fluent-bit fluent-bit:2020"),
            ("prometheus", "prometheus localhost:9090"),
            ("alertmanager", "alertmanager alertmanager:9093"),
        }
        eventually(lambda: found() == expected, f"all targets are found: {found()}", 30)

    runs_on_its_mounts(shared[0], "prom/prometheus", debian, tmp_path, both_are_watched)


def runs_on_its_mounts(
    model: dict[str, Any],
    image: str,
    debian: Path,
    tmp_path: Path,
    look: Callable[[Callable[[str], Any]], None] | None = None,
) -> None:
    """Run the program of an image as Compose would, until it is well; `look` may then ask Prometheus' API."""
    (wanted,) = [one for one in watchers(model).values() if one["image"].startswith(f"{image}:")]
    stand_in = STAND_INS[image]
    mounts = mounts_of(wanted, tmp_path / "volumes")
    for mount in mounts:
        if not mount.read_only:
            shutil.chown(mount.source, *map(int, stand_in.user.split(":")))
    assert wanted["cap_drop"] == ["ALL"]
    plan = Plan(
        root=debian,
        command=[str(program(stand_in.program)), *wanted["command"], *stand_in.options],
        environment={"PATH": "/usr/bin"} | wanted.get("environment", {}),
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
        (configuration_file,) = re.findall(r"--config\.file=(\S+)", " ".join(wanted["command"]))
        checked = started.within([*stand_in.check, configuration_file])
        assert checked.returncode == 0, checked.stdout + checked.stderr
        if image == "prom/prometheus":
            address = "http://127.0.0.1:9090/api/v1/status/config"
            configuration = started.within(["wget", "-q", "-O", "-", address]).stdout
            assert f"grafana_url: {wanted['environment']['GRAFANA_URL']}\\n" in configuration
        if look:
            address = "http://127.0.0.1:9090/api/v1/"
            look(lambda path: json.loads(started.within(["wget", "-q", "-O", "-", address + path]).stdout)["data"])
    said = output.text() + errors.text()
    assert not [line for line in said.splitlines() if "level=error" in line or "level=ERROR" in line]
