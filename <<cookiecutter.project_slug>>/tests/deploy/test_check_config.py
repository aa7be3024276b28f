<% import "places.j2" as places with context %>
"""`make check-config`: what it looks at exists, and Renovate raises what it installs."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from <<cookiecutter.__package>>.settings import SERVICE

from ..support import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "check_config.py"))
CHECKS: list[Any] = SCRIPT["CHECKS"]
RENOVATE = json.loads((ROOT / "renovate.json").read_text())
<% if places.shared %>
of_the_platform = pytest.mark.skipif(
    not (ROOT / "platform").exists(), reason="platform/ is not here: this team has its own"
)
<% endif %>


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.files)
def test_each_path_that_is_looked_at_exists(check: Any) -> None:
    for pattern in check.files.split():
        assert list(ROOT.glob(pattern)), pattern


def test_each_version_that_is_installed_is_one_that_renovate_finds() -> None:
    source = (ROOT / "scripts" / "check_config.py").read_text()
    patterns = [text for one in RENOVATE["customManagers"] for text in one["matchStrings"]]
    in_python = [pattern.replace("(?<", "(?P<") for pattern in patterns]
    found = {match["currentValue"] for each in in_python for match in re.finditer(each, source)}
    asked = {re.split("==|@", check.get)[-1] for check in CHECKS if re.search("==|@", check.get)}
    assert asked
    assert found == asked


def test_renovate_leaves_the_image_of_the_service_to_its_releases() -> None:
    kustomization = ROOT / "deploy" / "kubernetes" / "release" / "kustomization.yaml"
    (image,) = yaml.safe_load(kustomization.read_text())["images"]
    (left,) = (rule for rule in RENOVATE["packageRules"] if rule.get("enabled") is False)
    assert left["matchPackageNames"] == [image["name"]] == [SERVICE]
    assert {"docker-compose", "kustomize"} <= set(left["matchManagers"])


# --- names that another file must know -----------------------------------------------------------


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of what is looked at, to be changed."""
<% if places.shared %>
    for folder in ("monitoring", "platform", "deploy", "scripts"):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, tmp_path / folder)
<% else %>
    for folder in ("monitoring", "deploy", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
<% endif %>
    return tmp_path


def check(folder: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """Look at a copy, with these programs and no other."""
    here = folder / "bin"
    here.mkdir()
    for program in programs:
        found = shutil.which(program)
        if not found:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{program} is not installed: make check-tools")
            pytest.skip(f"{program} is not installed: make check-tools")
        (here / program).symlink_to(found)
    return subprocess.run(  # noqa: S603 - the script of this repository
        [sys.executable, folder / "scripts" / "check_config.py"],
        capture_output=True,
        text=True,
        env={"PATH": str(here)},
        check=False,
    )


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_what_is_here_is_taken(changed: Path) -> None:
    done = check(changed)
    assert (done.returncode, re.findall("FAILED.*", done.stdout)) == (0, []), done.stderr


<% if places.shared %>
@of_the_platform
<% endif %>
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("monitoring/prometheus/targets/service.yml", "environment: local"),
        ("monitoring/prometheus/rules/environments.yml", "environment: local"),
        ("<< places.platform >>/prometheus/prometheus.yml", "environment: &environment local"),
        ("deploy/kubernetes/release/kustomization.yaml", "environment: production"),
    ],
)
def test_an_environment_that_no_route_knows_is_refused_by_its_name(
    changed: Path, file: str, line: str
) -> None:
    text = (changed / file).read_text(encoding="utf-8")
    number = text.partition(line)[0].count("\n") + 1
    replace(changed / file, line, f"{line.rpartition(' ')[0]} live")
    done = check(changed)
    (failed,) = re.findall("FAILED (.*)", done.stdout)
    assert failed.startswith(f"{file}:{number}: no route of << places.platform >>/alertmanager/")
    assert "knows the environment live" in failed
    assert 'Known are environment=~"production" and environment=~"production|staging|' in failed
    assert done.returncode == 1


<% if places.shared %>
@of_the_platform
<% endif %>
def test_an_environment_that_a_route_knows_is_taken(changed: Path) -> None:
    replace(changed / "<< places.platform >>/alertmanager/alertmanager.yml", '|local"', '|local|live-.+"')
    replace(changed / "monitoring/prometheus/targets/service.yml", ": local", ": live-2")
    assert "FAILED" not in check(changed).stdout


def test_a_team_that_prometheus_reads_as_a_template_is_refused(changed: Path) -> None:
    file = "monitoring/prometheus/rules/telemetry.yml"
    rules = (changed / file).read_text(encoding="utf-8")
    own = re.sub("team: .*", "team: 'Käse {{ .x }}'", rules, count=1)
    (changed / file).write_text(own, encoding="utf-8")
    done = check(changed)
    (failed,) = re.findall("FAILED (.*)", done.stdout)
    number = own.partition("Käse")[0].count("\n") + 1
    assert failed == (
        f"{file}:{number}: Prometheus reads {{{{ in the team 'Käse {{{{ .x }}}}' as"
        " template syntax: write {{`{{`}} for it"
    )
    assert done.returncode == 1


def test_a_rule_that_prometheus_refuses_is_refused_by_its_file(changed: Path) -> None:
    file = "monitoring/prometheus/rules/telemetry.yml"
    replace(changed / file, "expr: ", "expr: sum by ")
    done = check(changed, "promtool")
    assert f"FAILED promtool check rules {file}" in done.stdout
    assert done.returncode == 1


def test_without_promtool_rules_are_named_as_not_checked(changed: Path) -> None:
    replace(changed / "monitoring/prometheus/rules/telemetry.yml", "expr: ", "expr: sum by ")
    said = check(changed).stdout
    (unread,) = re.findall("promtool is not installed, so this is not checked: (.*)", said)
<% if places.shared %>
    assert "monitoring/prometheus/rules/*.yml" in unread
<% else %>
    assert "monitoring/prometheus/rules/*.yml monitoring/prometheus/watchers/*.yml" in unread
<% endif %>
<% if places.shared %>


def test_without_a_platform_of_its_own_nothing_of_it_is_looked_at(changed: Path) -> None:
    shutil.rmtree(changed / "platform", ignore_errors=True)
    replace(changed / "monitoring/prometheus/targets/service.yml", ": local", ": live")
    done = check(changed)
    assert (done.returncode, re.findall("FAILED.*", done.stdout)) == (0, []), done.stderr
    assert "platform" not in done.stdout
<% endif %>
<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>


@pytest.mark.parametrize(
    "file",
    ["overlays/staging/environment/kustomization.yaml", "overlays/staging/expected.yaml"],
)
def test_an_overlay_of_another_environment_is_refused_by_its_name(changed: Path, file: str) -> None:
    """One that a route knows: staging's alerts would page as production's."""
    replace(changed / "deploy/kubernetes" / file, "environment: staging", "environment: production")
    done = check(changed)
    (failed,) = re.findall("FAILED (.*)", done.stdout)
    assert failed.startswith(f"deploy/kubernetes/{file}:")
    assert "the overlay staging says environment: production: write staging, or" in failed
    assert done.returncode == 1


@of_the_platform
def test_an_overlay_that_no_route_knows_is_refused_by_its_name(changed: Path) -> None:
    overlays = changed / "deploy/kubernetes/overlays"
    shutil.copytree(overlays / "staging", overlays / "live")
    file = overlays / "live/environment/kustomization.yaml"
    replace(file, "environment: staging", "environment: live")
    replace(overlays / "live/expected.yaml", "environment: staging", "environment: live")
    failed = re.findall("FAILED (.*)", check(changed).stdout)
    assert len(failed) == 2
    for line in failed:
        assert re.match(r"deploy/kubernetes/overlays/live/.+:\d+: no route of platform/", line)


@pytest.mark.parametrize("tag", ["", "    newTag: latest\n"])
def test_an_image_without_a_version_is_refused_by_its_name(changed: Path, tag: str) -> None:
    file = changed / "deploy/kubernetes/release/kustomization.yaml"
    replace(file, '    newTag: "0.1.0"\n', tag)
    done = check(changed)
    (failed,) = re.findall("FAILED (.*)", done.stdout)
    assert failed.startswith("deploy/kubernetes/release/kustomization.yaml:")
    assert f"the image {SERVICE} has no version: give it a newTag" in failed
    assert done.returncode == 1
<% endif %>
