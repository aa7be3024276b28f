"""Derives what prometheus-operator reads from the files of monitoring/: what `make manifests` runs.

A PrometheusRule is of one file, kustomize cannot read files outside of its folder, and rules have
one source: so it is written here, and a test says when it is stale.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SERVICE = "<< cookiecutter.project_slug >>"
RULES = "monitoring/prometheus/rules"
OUTSIDE = "environments.yml"
"""Where the service runs outside the cluster; within, each overlay says so of itself."""
TARGETS = "deploy/kubernetes/components/monitoring"


class RefusedError(Exception):
    """What cannot be derived, and why."""


class Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def main() -> int:
    """Returns 1, after one line that says why, if there is nothing to derive from."""
    try:
        manifests = derived()
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for name, manifest in manifests.items():
        text = yaml.dump(manifest, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
        (ROOT / name).write_text(f"# Derived by `make manifests`.\n{text}", encoding="utf-8")
    return 0


def derived() -> dict[str, dict[str, Any]]:
    """Each manifest by the file that it belongs in."""
    return {f"{TARGETS}/prometheusrule.yaml": prometheus_rule()}


def prometheus_rule() -> dict[str, Any]:
    """The groups of every file of rules, as they are."""
    groups: list[dict[str, Any]] = []
    homes: dict[str, str] = {}
    for file in sorted((ROOT / RULES).glob("*.yml")):
        if file.name == OUTSIDE:
            continue
        for group in groups_of(file):
            name = group["name"]
            if first := homes.get(name):
                raise RefusedError(
                    f"{RULES}/{file.name}: the group {name!r} is in {RULES}/{first} too, and a"
                    " PrometheusRule takes each name once: call one of them otherwise"
                )
            homes[name] = file.name
            groups.append(group)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": SERVICE},
        "spec": {"groups": groups},
    }


def groups_of(file: Path) -> list[dict[str, Any]]:
    """The groups of a file of rules."""
    place = file.relative_to(ROOT)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RefusedError(f"{place} is no YAML: {' '.join(str(error).split())}") from error
    groups = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(groups, list) or not all(
        isinstance(group, dict) and isinstance(group.get("name"), str) for group in groups
    ):
        raise RefusedError(f"{place} is no file of rules: it needs `groups`, a list of named ones")
    return groups


if __name__ == "__main__":
    sys.exit(main())
