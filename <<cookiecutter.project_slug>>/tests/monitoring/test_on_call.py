"""What docs/on-call.md says of alerts is so: their labels and Alertmanager's routes."""

<% if cookiecutter.paging == 'pagerduty' %>
import re
<% endif %>
from collections import Counter
from itertools import product
from typing import NamedTuple

import pytest
import yaml

from .rules import ROOT, alerts
from .test_alertmanager import CONFIGURATION, receiver_of

PAGE = (ROOT / "docs" / "on-call.md").read_text(encoding="utf-8")
ANY_OTHER = "any other"

routed = pytest.mark.skipif(
    not CONFIGURATION.exists(), reason="platform/ is not here: this team has its own"
)


class Row(NamedTuple):
    """A line of the table: whom alerts of these severities and environments reach."""

    severities: list[str]
    environments: list[str]
    receiver: str


def rows() -> list[Row]:
    section = PAGE.partition("## What an alert demands")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [Row(each[0].split(", "), each[1].split(", "), each[2]) for each in cells[2:]]


def named_environments() -> set[str]:
    """Those that some route names."""
    routes = yaml.safe_load(CONFIGURATION.read_text())["route"]["routes"]
    matchers = [matcher for route in routes for matcher in route["matchers"]]
    texts = [each.partition("=~")[2] for each in matchers if each.startswith("environment=~")]
    return {name for text in texts for name in text.strip('"').split("|")}


@routed
def test_the_table_says_once_what_each_severity_demands_in_each_environment() -> None:
    listed = Counter(pair for row in rows() for pair in product(row.severities, row.environments))
    severities = {alert.severity for alert in alerts()}
    assert set(listed) == set(product(severities, {*named_environments(), ANY_OTHER}))
    assert set(listed.values()) == {1}


@routed
@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.severities} {row.environments}")
def test_an_alert_reaches_whom_the_table_says(row: Row) -> None:
    for severity, environment in product(row.severities, row.environments):
        name = "unheard-of" if environment == ANY_OTHER else environment
        assert receiver_of(severity=severity, environment=name) == row.receiver
<% if cookiecutter.paging == 'pagerduty' %>


def test_the_page_waits_as_long_as_pagerduty_does_before_it_calls_the_next() -> None:
    code = (ROOT / "deploy" / "terraform" / "on-call" / "pagerduty.tf").read_text(encoding="utf-8")
    first, second, _ = re.findall(r"escalation_delay_in_minutes = (\d+)", code)
    assert f"| {first} minutes, at any hour |" in PAGE
    assert f"Nobody acknowledges for {first} minutes:" in PAGE
    assert f"; {second} minutes later" in PAGE
<% endif %>
