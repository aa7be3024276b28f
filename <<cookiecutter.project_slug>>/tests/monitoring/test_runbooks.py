"""What a person on call is given: an alert, its labels, its runbook, its dashboard."""

import json
import re

import pytest

from .rules import ROOT, Alert, alerts, expected

ALERTS = alerts()
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = [
    "What users notice",
    "Confirm",
    "Likely causes",
    "What to do",
    "When to escalate",
]
LABELS = {"severity", "team", "service", "environment"}
ANNOTATIONS = {"summary", "description", "dashboard_url", "runbook_url"}

each_alert = pytest.mark.parametrize(
    "alert", ALERTS, ids=[f"{alert.name}-{alert.severity}" for alert in ALERTS]
)


@each_alert
def test_an_alert_says_how_bad_it_is_and_whose(alert: Alert) -> None:
    assert alert.severity in {"critical", "warning", "info"}
    assert alert.labels["team"]
    assert alert.annotations.keys() == ANNOTATIONS
    assert all(alert.annotations.values())


def test_an_alert_that_fires_has_every_label() -> None:
    for name, firing in expected():
        for alert in firing:
            assert alert["exp_labels"].keys() >= LABELS, name
            assert alert["exp_annotations"].keys() == ANNOTATIONS, name


@each_alert
def test_an_alert_leads_to_a_runbook_of_its_name(alert: Alert) -> None:
    assert alert.annotations["runbook_url"].endswith(f"/{alert.name}.md")
    text = (RUNBOOKS / f"{alert.name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {alert.name}\n")
    assert re.findall("^## (.+)$", text, re.MULTILINE) == SECTIONS


@each_alert
def test_an_alert_leads_to_a_dashboard_that_is_there(alert: Alert) -> None:
    dashboards = (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")
    uids = {json.loads(file.read_text(encoding="utf-8"))["uid"] for file in dashboards}
    assert alert.annotations["dashboard_url"].rpartition("/d/")[2] in uids


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == {alert.name for alert in ALERTS}


def test_the_page_lists_every_alert_with_its_threshold_and_severity() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    row = r"\| \[(\w+)\]\(runbooks/\1\.md\) \|.+\| `(.+)` \|.+\| ([\w, ]+) \|"
    told = {
        (name, threshold, severity)
        for name, threshold, severities in re.findall(row, page)
        for severity in severities.split(", ")
    }
    assert told == {(alert.name, alert.threshold, alert.severity) for alert in ALERTS}
