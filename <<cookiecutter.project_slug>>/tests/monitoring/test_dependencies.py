"""What the rules, the dashboard and the histogram of what stands behind the service share."""

import pytest

<% if cookiecutter.database == 'postgresql' %>
from <<cookiecutter.__package>>.database_metrics import QUERY_BUCKETS
from <<cookiecutter.__package>>.settings import Settings

<% endif %>
from .queries import dashboards, line_of, panels
from .rules import alerts

ALARMING = {
<% if cookiecutter.database == 'postgresql' %>
    "Connections in use, 5 min": "DatabaseConnectionPoolHigh",
    "Connections": "DatabaseConnectionPoolHigh",
    "Query time p95, 5 min": "SlowQueries",
    "Query time": "SlowQueries",
<% endif %>
<% if cookiecutter.cache == 'redis' %>
    "Reads that hit, 10 min": "CacheHitRateLow",
<% endif %>
}


@pytest.mark.parametrize("title", ALARMING)
def test_a_panel_turns_red_where_its_alert_fires(title: str) -> None:
    found = [each for each in panels(dashboards()["dependencies.json"]) if each["title"] == title]
    assert found, (
        f"dependencies.json has no panel {title!r}, which ALARMING in"
        " tests/monitoring/test_dependencies.py names: rename or remove it there as well"
    )
    steps = found[0]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    # The last step begins where the colour changes: to red, or away from it.
    sign = ">" if steps[-1]["color"] == "red" else "<"
    alarming = {alert.threshold for alert in alerts() if alert.name == ALARMING[title]}
    assert alarming == {f"{sign} {steps[-1]['value']}"}, (
        f"{line_of('dependencies.json', title)}: the panel {title!r} turns red at"
        f" {sign} {steps[-1]['value']}, and {ALARMING[title]} fires at {alarming}: write the same"
        " into both"
    )
<% if cookiecutter.database == 'postgresql' %>


def test_the_threshold_of_slow_queries_is_an_edge_of_the_histogram_and_what_a_line_is_for() -> None:
    (threshold,) = {alert.threshold for alert in alerts() if alert.name == "SlowQueries"}
    slow = float(threshold.removeprefix("> "))
    assert slow in QUERY_BUCKETS
    assert slow == Settings.model_fields["slow_query_seconds"].default
<% endif %>
