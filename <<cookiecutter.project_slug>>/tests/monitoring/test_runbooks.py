<% import "places.j2" as places with context %>
"""What a notification leads to: labels, a runbook, a dashboard."""

import json
import re
<% if places.shared %>
from pathlib import Path
<% endif %>

import pytest

from .rules import <% if places.shared %>PLATFORM, <% endif %>ROOT, Alert, alerts, expected

ALERTS = alerts()
<% if places.shared %>
PAGES = {ROOT / "docs" / "monitoring.md": ROOT / "docs" / "runbooks"}
"""The pages that list alerts, each with the folder of their runbooks."""
if PLATFORM.exists():
    PAGES[PLATFORM / "README.md"] = PLATFORM / "runbooks"
<% else %>
RUNBOOKS = ROOT / "docs" / "runbooks"
<% endif %>
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


<% if places.shared %>
def page_of(alert: Alert) -> Path:
    """The page that lists an alert: the service's or the platform's."""
    of_platform = (ROOT / alert.where).is_relative_to(PLATFORM)
    return PLATFORM / "README.md" if of_platform else ROOT / "docs" / "monitoring.md"


<% endif %>
@each_alert
def test_an_alert_says_how_bad_it_is_and_whose(alert: Alert) -> None:
    where = f"{alert.where}: {alert.name}"
    severities = {"critical", "warning", "info"}
    assert alert.severity in severities, f"{where} needs a severity, one of {sorted(severities)}"
    assert alert.labels.get("team"), f"{where} needs the label team"
    texts = {name for name, text in alert.annotations.items() if text}
    assert texts == ANNOTATIONS, f"{where} needs the annotations {sorted(ANNOTATIONS)}"


def test_an_alert_that_fires_has_every_label() -> None:
    for name, firing in expected():
        for alert in firing:
            assert alert["exp_labels"].keys() >= LABELS, name
            assert alert["exp_annotations"].keys() == ANNOTATIONS, name


@each_alert
def test_an_alert_leads_to_a_runbook_of_its_name(alert: Alert) -> None:
    where = f"{alert.where}: {alert.name}"
    runbook = <% if places.shared %>PAGES[page_of(alert)]<% else %>RUNBOOKS<% endif %> / f"{alert.name}.md"
    assert alert.annotations.get("runbook_url", "").endswith(f"/{runbook.name}"), (
        f"{where} needs a runbook_url that ends in /{runbook.name}"
    )
    place = runbook.relative_to(ROOT)
    assert runbook.exists(), f"{where} needs a runbook: write {place}, with the headings of another"
    text = runbook.read_text(encoding="utf-8")
    assert text.startswith(f"# {alert.name}\n"), f"{place}:1 must be # {alert.name}"
    headings = re.findall("^## (.+)$", text, re.MULTILINE)
    assert headings == SECTIONS, f"{place} must have the headings {SECTIONS}, and no other"


@each_alert
def test_an_alert_leads_to_a_dashboard_that_is_there(alert: Alert) -> None:
<% if places.shared %>
    homes = (ROOT / "monitoring", PLATFORM)
    dashboards = [file for home in homes for file in home.glob("grafana/dashboards/*.json")]
<% else %>
    dashboards = (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")
<% endif %>
    uids = {json.loads(file.read_text(encoding="utf-8"))["uid"] for file in dashboards}
    dashboard = alert.annotations.get("dashboard_url", "").rpartition("/d/")[2]
    assert dashboard.partition("?")[0] in uids, (
        f"{alert.where}: the dashboard_url of {alert.name} must lead to /d/ and one of"
        f" {sorted(uids)}"
    )


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
<% if places.shared %>
    for page, folder in PAGES.items():
        named = {alert.name for alert in ALERTS if page_of(alert) == page}
        left = sorted({file.stem for file in folder.glob("*.md")} - named)
        place = folder.relative_to(ROOT)
        assert not left, f"{place}/ has runbooks of alerts that no rule has: {left}"
<% else %>
    left = {file.stem for file in RUNBOOKS.glob("*.md")} - {alert.name for alert in ALERTS}
    assert not left, f"docs/runbooks/ has runbooks of alerts that no rule has: {sorted(left)}"
<% endif %>


<% if places.shared %>
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_lists_every_alert_with_its_threshold_and_severity(page: Path) -> None:
    row = r"\| \[(\w+)\]\(runbooks/\1\.md\) \|.+\| `(.+)` \|.+\| ([\w, ]+) \|"
    listed = {
        (name, threshold, severity)
        for name, threshold, severities in re.findall(row, page.read_text(encoding="utf-8"))
        for severity in severities.split(", ")
    }
    place = page.relative_to(ROOT)
    made = [alert for alert in ALERTS if page_of(alert) == page]
    for alert in made:
        line = (alert.name, alert.threshold, alert.severity)
        assert line in listed, (
            f"{alert.where}: the table of alerts in {place} needs a line for"
            f" {alert.name} that says `{alert.threshold}` and {alert.severity}"
        )
    others = listed - {(alert.name, alert.threshold, alert.severity) for alert in made}
    assert not others, f"the table of alerts in {place} lists what no rule has: {others}"
<% else %>
def test_the_page_lists_every_alert_with_its_threshold_and_severity() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    row = r"\| \[(\w+)\]\(runbooks/\1\.md\) \|.+\| `(.+)` \|.+\| ([\w, ]+) \|"
    listed = {
        (name, threshold, severity)
        for name, threshold, severities in re.findall(row, page)
        for severity in severities.split(", ")
    }
    for alert in ALERTS:
        line = (alert.name, alert.threshold, alert.severity)
        assert line in listed, (
            f"{alert.where}: the table of alerts in docs/monitoring.md needs a line for"
            f" {alert.name} that says `{alert.threshold}` and {alert.severity}"
        )
    others = listed - {(alert.name, alert.threshold, alert.severity) for alert in ALERTS}
    assert not others, f"the table of alerts in docs/monitoring.md lists what no rule has: {others}"
<% endif %>
