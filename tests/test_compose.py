"""Compose files that Compose accepts, of the size that the tier says."""

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from real.programs import GO
from template_checkout import DEFINITION, TIERS, Generate, run


def compose_files(service: Path) -> list[Path]:
    return sorted(service.rglob("compose.yaml"))


def test_every_compose_file_follows_the_schema(service: Generate, answers: dict[str, str]) -> None:
    made = service(**answers)
    checker = Path(sys.executable).with_name("check-jsonschema")
    run(checker, "--builtin-schema", "vendor.compose-spec", *compose_files(made), cwd=made)


def included(file: Path) -> list[Path]:
    """A Compose file, what it includes, and that in turn."""
    named = yaml.safe_load(file.read_text()).get("include", [])
    return [file, *(each for name in named for each in included(file.parent / name))]


def containers(service: Path) -> dict[str, Any]:
    """Every container that `make up` starts."""
    files = [yaml.safe_load(file.read_text()) for file in included(service / "compose.yaml")]
    return {name: container for file in files for name, container in file["services"].items()}


def test_a_watcher_is_included_if_and_only_if_it_was_chosen(service: Generate, answers: dict[str, str]) -> None:
    made = service(**answers)
    beside_servers = set(made.glob("platform/exporters/*/compose.yaml"))  # whose addresses nobody here knows
    assert sorted(included(made / "compose.yaml")) == sorted({*compose_files(made)} - beside_servers)
    assert ("blackbox" in containers(made)) == (answers["uptime_monitor"] == "blackbox")


def test_prometheus_keeps_samples_as_long_as_the_tier_says(service: Generate) -> None:
    for tier in TIERS:
        days = DEFINITION["_tiers"][tier]["retention_days"]
        command = containers(service(scale_tier=tier))["prometheus"]["command"]
        assert f"--storage.tsdb.retention.time={days}d" in command


def test_the_watchers_that_run_are_those_whose_tools_try_the_rules(service: Generate) -> None:
    """As a Go module Prometheus 3.5.0 is v0.305.0."""
    watchers = containers(service())
    tags = {
        name: watchers[name]["image"].partition("@")[0].rpartition(":v")[2] for name in ("prometheus", "alertmanager")
    }
    major, minor, patch = tags["prometheus"].split(".")
    assert GO["promtool-3"].module.endswith(f"@v0.{major}{minor:0>2}.{patch}")
    assert GO["amtool-current"].module.endswith(f"@v{tags['alertmanager']}")


@pytest.mark.parametrize("tier", ["small", "medium"])
@pytest.mark.parametrize("umask", [0o077, 0o027])
def test_make_up_names_what_containers_cannot_read_after_a_checkout_under_a_narrow_umask(
    service: Generate, tmp_path: Path, umask: int, tier: str
) -> None:
    """Where Compose is only asked for once all can be read: a script stands in for it."""
    compose = tmp_path / "compose"
    compose.write_text('#!/bin/sh\n[ "$1" != port ] || echo 127.0.0.1:1$3\n')
    compose.chmod(0o755)
    checkout = shutil.copytree(service(scale_tier=tier), tmp_path / "checkout")
    for path in (checkout, *checkout.rglob("*")):
        path.chmod(path.stat().st_mode & ~umask)
    refused = run("make", "up", f"COMPOSE={compose}", cwd=checkout, check=False)
    assert refused.returncode != 0
    (line,) = refused.stdout.splitlines()
    problem, _, remedy = line.partition(": ")
    assert "cannot read monitoring" in problem
    run(*shlex.split(remedy), cwd=checkout)
    started = run("make", "up", f"COMPOSE={compose}", cwd=checkout).stdout
    assert "service       http://localhost:18000\n" in started
    assert "alertmanager  http://localhost:19093\n" in started


def test_an_exporter_without_its_servers_address_or_password_is_refused_by_name(service: Generate) -> None:
    made = service(scale_tier="medium")
    for name, settings in {"postgres": {"DATA_SOURCE_URI", "DATA_SOURCE_PASS"}, "redis": {"REDIS_ADDR"}}.items():
        (container,) = yaml.safe_load((made / f"platform/exporters/{name}/compose.yaml").read_text())[
            "services"
        ].values()
        for setting in settings:
            assert re.fullmatch(r"\$\{[A-Z_]+:\?set it in \.env, .+\}", container["environment"][setting])


def test_the_exporters_of_a_server_are_where_prometheus_looks_for_them(service: Generate) -> None:
    """By the names that Compose gives containers."""
    made = service(scale_tier="medium")
    names = {name for file in compose_files(made) for name in yaml.safe_load(file.read_text())["services"]}
    files = [*made.glob("monitoring/prometheus/targets/*.yml"), *made.glob("platform/prometheus/targets/*.yml")]
    targets = {file.stem: yaml.safe_load(file.read_text())[0]["targets"][0] for file in files}
    for name in ("node", "cadvisor", "postgres", "redis"):
        assert targets[name].partition(":")[0] in names, name
