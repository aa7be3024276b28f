<% import "places.j2" as places with context %>
"""The rules and what their unit tests expect of them, read from the files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
<% if places.shared %>
PLATFORM = ROOT / "platform"
"""Gone where a team has its own: then nothing of it is found."""
WATCHERS = PLATFORM / "prometheus" / "watchers"
<% else %>
WATCHERS = PROMETHEUS / "watchers"
<% endif %>
<% if places.shared %>
FOLDERS = [PROMETHEUS, PLATFORM / "prometheus"]
RULES = sorted(
    [*WATCHERS.glob("*.yml"), *(one for each in FOLDERS for one in each.glob("rules/*.yml"))]
)
UNIT_TESTS = sorted(one for each in (*FOLDERS, WATCHERS) for one in each.glob("tests/*_test.yml"))
<% else %>
RULES = sorted([*PROMETHEUS.glob("rules/*.yml"), *WATCHERS.glob("*.yml")])
UNIT_TESTS = sorted([*PROMETHEUS.glob("tests/*_test.yml"), *WATCHERS.glob("tests/*_test.yml")])
<% endif %>


def unit_tests_of(file: Path) -> Path:
    """Where the unit tests of a file of rules belong."""
<% if places.shared %>
    home = WATCHERS if file.parent == WATCHERS else file.parents[1]
<% else %>
    home = WATCHERS if file.parent == WATCHERS else PROMETHEUS
<% endif %>
    return home / "tests" / f"{file.stem}_test.yml"


@dataclass(frozen=True)
class Alert:
    where: str
    """Its file, from the repository's root, and its line."""
    name: str
    expression: str
    severity: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def always_fires(self) -> bool:
        """Whether it is there to be missed, as Watchdog is."""
        return self.expression.startswith("vector(")

    @property
    def threshold(self) -> str:
        """The comparison that the expression ends with, or `absent` where there is none."""
        if found := re.search(r"(?:[<>]=?|[=!]=) -?[0-9.]+$", self.expression.strip()):
            return found[0]
        if re.search(r"\babsent(?:_over_time)?\(", self.expression):
            return "absent"
        pytest.fail(
            f"{self.where}: the expression of {self.name} must end in a comparison with a number,"
            " such as `> 0.5` or `== 0`, or use absent(): docs/monitoring.md lists it",
            pytrace=False,
        )


def alerts() -> list[Alert]:
    return [
        Alert(
            where,
            rule["alert"],
            rule["expr"],
            (rule.get("labels") or {}).get("severity", ""),
            rule.get("labels") or {},
            rule.get("annotations") or {},
        )
        for where, rule in rules()
        if "alert" in rule
    ]


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rule, alerts and recordings, after its file and line."""
    for file in RULES:
        for group in read(file)["groups"]:
            for rule in group["rules"]:
                yield f"{file.relative_to(ROOT)}:{rule.pop(LINE)}", rule


def expected() -> list[tuple[str, list[dict[str, dict[str, str]]]]]:
    """Each alert that a unit test asks for at a moment, and what it expects to fire then."""
    return [
        (moment["alertname"], moment.get("exp_alerts") or [])
        for file in UNIT_TESTS
        for case in read(file)["tests"]
        for moment in case.get("alert_rule_test", ())
    ]


LINE = "__line__"


class _Loader(yaml.CSafeLoader):
    """Notes the line of each rule."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if mapping.keys() & {"alert", "record"}:
            mapping[LINE] = node.start_mark.line + 1
        return mapping


def read(file: Path) -> Any:
    """The content of a YAML file; an error of syntax names the file and the line."""
    with file.open(encoding="utf-8") as opened:
        return yaml.load(opened, _Loader)  # noqa: S506 - a CSafeLoader
