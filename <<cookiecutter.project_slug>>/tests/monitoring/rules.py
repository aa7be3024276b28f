"""The alerts, and what their unit tests expect of them, as the files say."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULES = sorted(PROMETHEUS.glob("rules/*.yml"))
UNIT_TESTS = sorted(PROMETHEUS.glob("tests/*_test.yml"))


@dataclass(frozen=True)
class Alert:
    name: str
    expression: str
    severity: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def threshold(self) -> str:
        """The comparison that the expression ends with."""
        found = re.search(r"[<>]=? [0-9.]+$", self.expression.strip())
        assert found, f"{self.name}: the threshold comes last in an expression"
        return found[0]


def alerts() -> list[Alert]:
    return [
        Alert(
            rule["alert"],
            rule["expr"],
            rule["labels"].get("severity", ""),
            rule["labels"],
            rule["annotations"],
        )
        for file in RULES
        for group in read(file)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]


def expected() -> list[tuple[str, list[dict[str, dict[str, str]]]]]:
    """Each alert that a unit test asks for at a moment, and what it expects to fire then."""
    return [
        (moment["alertname"], moment.get("exp_alerts") or [])
        for file in UNIT_TESTS
        for case in read(file)["tests"]
        for moment in case.get("alert_rule_test", ())
    ]


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
