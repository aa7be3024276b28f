"""What the service runs on: its panels turn red where its alerts fire, its pods are its own."""

import re

import pytest

from .queries import dashboards, line_of, panels
from .rules import alerts

PANELS = {
    "Memory of the limit": "MemoryHigh",
    "CPU of the request": "CpuHigh",
<% if cookiecutter.database == 'postgresql' %>
    "Database": "DatabaseDown",
    "Replication lag": "ReplicationLag",
<% endif %>
<% if cookiecutter.cache == 'redis' %>
    "Cache": "CacheDown",
    "Keys thrown away": "CacheEvicting",
<% endif %>
}


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_turns_red_where_its_alert_fires(title: str) -> None:
    name = "infrastructure.json"
    (panel,) = (each for each in panels(dashboards()[name]) if each["title"] == title)
    first, *others = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    # Below the first step, or from the last one on.
    red = f"< {others[0]['value']}" if first["color"] == "red" else f"> {others[-1]['value']}"
    alarming = {alert.threshold for alert in alerts() if alert.name == PANELS[title]}
    assert alarming == {red}, (
        f"{line_of(name, title)}: the panel {title!r} turns red at {red}, and {PANELS[title]}"
        f" fires at {alarming}: write the same into both"
    )


def test_a_panel_leads_to_the_runbook_of_its_alert() -> None:
    for panel in panels(dashboards()["infrastructure.json"]):
        if alert := PANELS.get(panel["title"]):
            assert re.search(rf"/{alert}\.md$", panel["description"]), panel["title"]
