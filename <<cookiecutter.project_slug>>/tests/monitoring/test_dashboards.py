<% import "places.j2" as places with context %>
"""The dashboards as files: what an owner can rely on while reading and changing them."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml

from <<cookiecutter.__package>>.settings import SERVICE

from ..support import ROOT
<% if places.shared %>
from .queries import (
    DASHBOARDS,
    Parts,
    dashboards,
    line_of,
    of_exporters,
    of_panels,
    panels,
    path_of,
    read,
)
from .rules import PLATFORM, alerts
<% else %>
from .queries import DASHBOARDS, MONITORING, Parts, dashboards, line_of, of_panels, panels, read
from .rules import alerts
<% endif %>

NAMES = sorted(path.name for path in DASHBOARDS.glob("*.json"))
<% if places.shared %>
of_the_platform = pytest.mark.skipif(
    not PLATFORM.exists(), reason="platform/ is not here: this team has its own"
)
<% endif %>
CHOSEN = {"service": SERVICE, "environment": "$environment", "instance": "$instance"}


def place(panel: dict[str, Any]) -> tuple[int, int, int, int]:
    grid = panel["gridPos"]
    return grid["x"], grid["y"], grid["w"], grid["h"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_stand_in_the_file_as_on_the_screen(name: str) -> None:
    listed = dashboards()[name]["panels"]
    for number, panel in enumerate(listed, 1):
        where = f"{line_of(name, panel['title'])}: the panel {panel['title']!r}"
        assert panel["id"] == number, f"{where} is number {number} of the file: so must its id be"
        x, _, w, _ = place(panel)
        assert 0 <= x < x + w <= 24, f"{where} is not within the 24 columns of the screen"
        for other in listed[: number - 1]:
            assert not overlap(place(panel), place(other)), f"{where} overlaps {other['title']!r}"
    for above, panel in pairwise(listed):
        assert place(above)[1::-1] < place(panel)[1::-1], (
            f"{line_of(name, panel['title'])}: the panel {panel['title']!r} is shown before"
            f" {above['title']!r}: so must it be in the file"
        )


def overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    (x, y, w, h), (a, b, v, g) = one, other
    return x < a + v and a < x + w and y < b + g and b < y + h


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows_and_in_what_unit(name: str) -> None:
    for panel in panels(dashboards()[name]):
        if "targets" not in panel:  # a text, a list of links
            continue
        where = f"{line_of(name, panel['title'])}: the panel {panel['title']!r}"
        assert panel.get("description", "").endswith((".", ".md")), (
            f"{where} needs a description: a sentence, or its runbook"
        )
        assert panel["fieldConfig"]["defaults"].get("unit"), (
            f"{where} needs a unit in fieldConfig.defaults, such as s, reqps, percentunit or short"
        )
        source = {"type": "prometheus", "uid": "${datasource}"}
        assert panel.get("datasource") == source, f"{where} needs the datasource {source}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_a_number_or_a_state_has_a_colour_for_it(name: str) -> None:
    for panel in panels(dashboards()[name]):
        if panel["type"] in ("stat", "state-timeline"):
            thresholds = panel["fieldConfig"]["defaults"].get("thresholds", {})
            assert thresholds.get("steps"), (
                f"{line_of(name, panel['title'])}: the panel {panel['title']!r} needs"
                " fieldConfig.defaults.thresholds with steps, such as"
                ' {"color": "text", "value": null}'
            )


def test_every_panel_shows_the_chosen_instances_of_the_service_alone() -> None:
<% if places.shared %>
    """A recorded series has no instance, unless its name begins with that level.

    An exporter has one of its own, a machine is no service's, and the platform shows all services.
    """
    of_others = of_exporters()
    for query in of_panels():
        if query.where.startswith("platform/"):
            continue
<% else %>
    """A recorded series has no instance, unless its name begins with that level."""
    for query in of_panels():
<% endif %>
        for metric, matched in Parts(query.text).selectors:
<% if places.shared %>
            if metric == "ALERTS" or matched.get("service") == "node":
                continue
            wanted = dict(CHOSEN)
            recorded = ":" in (metric or "") and not str(metric).startswith("instance:")
            if recorded or metric in of_others:
<% else %>
            if metric == "ALERTS":
                continue
            wanted = dict(CHOSEN)
            if ":" in (metric or "") and not str(metric).startswith("instance:"):
<% endif %>
                del wanted["instance"]
            for label, value in wanted.items():
                sign = "=~" if label == "instance" else "="
                assert matched.get(label) == value, (
                    f"{query.where} must select {metric} with {label}{sign}'{value}': else it shows"
                    " more than was chosen at the top"
                )


def test_a_variable_is_there_for_each_that_a_panel_uses() -> None:
    for name, dashboard in dashboards().items():
        made = {variable["name"] for variable in dashboard["templating"]["list"]}
        # The title is the service's own name, whatever is in it.
        text = json.dumps({part: dashboard[part] for part in dashboard if part != "title"})
        used = set(re.findall(r"\$\{?([a-z]\w*)", text))
        place = <% if places.shared %>path_of(name)<% else %>(DASHBOARDS / name)<% endif %>.relative_to(ROOT)
        for variable in sorted(used - made):
            number = next(
                number
                for number, line in enumerate(read(<% if places.shared %>path_of(name)<% else %>DASHBOARDS / name<% endif %>).splitlines(), 1)
                if re.search(rf"\$\{{?{variable}\b", line)
            )
            pytest.fail(f"{place}:{number} uses ${variable}: add it to templating.list")
        unused = ", ".join(sorted(made - used))
        assert not unused, f"{place} makes {unused}, which no panel uses: remove it"


@pytest.mark.parametrize("name", NAMES)
def test_what_every_dashboard_has_is_the_same_in_all(name: str) -> None:
    """Variables of its own it may have besides."""
    of_service, these = dashboards()["service.json"], dashboards()[name]
    for part in ("annotations", "links"):
        assert these[part] == of_service[part], (
            f"{line_of(name, part)}: {part} must be those of service.json: copy them from there"
        )
    common = {variable["name"]: variable for variable in of_service["templating"]["list"]}
    for variable in these["templating"]["list"]:
        assert variable == common.get(variable["name"], variable), (
            f"{line_of(name, variable['name'])}: the variable {variable['name']} must be that of"
            " service.json: copy it from there, or give it another name"
        )


<% if places.shared %>
@of_the_platform
<% endif %>
def test_a_dashboard_opens_on_the_prometheus_that_is_provisioned() -> None:
    sources = {
        source["uid"]: source
        for path in (<% if places.shared %>PLATFORM<% else %>MONITORING<% endif %> / "grafana" / "provisioning" / "datasources").glob("*.yml")
        for source in yaml.safe_load(read(path))["datasources"]
    }
    for dashboard in dashboards().values():
        chosen = dashboard["templating"]["list"][0]
        assert sources[chosen["current"]["value"]]["type"] == chosen["query"] == "prometheus"
        assert sources[chosen["current"]["value"]]["name"] == chosen["current"]["text"]
    for source in sources.values():
        other = source["jsonData"].get("alertmanagerUid")
        assert other is None or sources[other]["type"] == "alertmanager"


def test_no_two_dashboards_are_one_to_grafana() -> None:
    for key in ("uid", "title"):
        names: dict[str, str] = {}
        for name, dashboard in dashboards().items():
            other = names.setdefault(dashboard[key], name)
            assert other == name, f"{line_of(name, dashboard[key])}: {key} is that of {other}"
    for name, dashboard in dashboards().items():
        assert re.fullmatch(r"[a-zA-Z0-9-]{1,40}", dashboard["uid"]), (
            f"{line_of(name, dashboard['uid'])}: uid must be 1 to 40 letters, digits and hyphens"
        )


def test_a_panel_names_a_runbook_that_exists() -> None:
    for name in NAMES:
        for number, line in enumerate(read(DASHBOARDS / name).splitlines(), 1):
            for runbook in re.findall(r"\$\{runbooks_url\}/(\w+\.md)", line):
                assert (ROOT / "docs" / "runbooks" / runbook).exists(), (
                    f"{(DASHBOARDS / name).relative_to(ROOT)}:{number}: there is no"
                    f" docs/runbooks/{runbook}"
                )
<% if places.shared %>


@of_the_platform
def test_a_panel_about_machines_names_a_runbook_of_the_platform() -> None:
    for name in dashboards():
        for runbook in re.findall(r"\$\{platform_runbooks_url\}/(\w+\.md)", read(path_of(name))):
            assert (PLATFORM / "runbooks" / runbook).exists(), f"{name} names {runbook}"
<% endif %>


def test_a_link_of_an_alert_chooses_its_own_environment_and_route() -> None:
    made = {
        dashboard["uid"]: {variable["name"] for variable in dashboard["templating"]["list"]}
        for dashboard in dashboards().values()
    }
    for alert in alerts():
        where = f"{alert.where}: the dashboard_url of {alert.name}"
        link = alert.annotations.get("dashboard_url", "").rpartition("/d/")[2]
        uid, _, parameters = link.partition("?")
        chosen = set(re.findall(r"\bvar-(\w+)=", parameters))
        wanted = {"environment"}
        if "$labels.route" in alert.annotations.get("description", ""):
            wanted.add("route")
        for name in sorted(wanted - chosen):
            pytest.fail(
                f"{where} must have var-{name}={{{{ $labels.{name} | urlquery }}}} after {uid}?,"
                " or after an &: else it opens on whatever was looked at last"
            )
        unknown = chosen - made.get(uid, set())
        assert not unknown, f"{where} sets {unknown}, variables that the dashboard {uid} has not"


<% if places.shared %>
@of_the_platform
def test_runbooks_are_where_the_alerts_say_they_are() -> None:
    configuration = yaml.safe_load(read(PLATFORM / "prometheus" / "prometheus.yml"))
<% else %>
def test_runbooks_are_where_the_alerts_say_they_are() -> None:
    configuration = yaml.safe_load(read(MONITORING / "prometheus" / "prometheus.yml"))
<% endif %>
    (variable,) = (
        variable
        for variable in dashboards()["service.json"]["templating"]["list"]
        if variable["name"] == "runbooks_url"
    )
<% if places.shared %>
    address = configuration["global"]["external_labels"]["runbooks_url"]
    assert variable["query"] == address.replace("SERVICE", SERVICE)
<% else %>
    assert variable["query"] == configuration["global"]["external_labels"]["runbooks_url"]
<% endif %>


<% if places.shared %>
@of_the_platform
def test_the_shortest_rate_spans_four_scrapes() -> None:
    configuration = yaml.safe_load(read(PLATFORM / "prometheus" / "prometheus.yml"))
    provisioned = PLATFORM / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
<% else %>
def test_the_shortest_rate_spans_four_scrapes() -> None:
    configuration = yaml.safe_load(read(MONITORING / "prometheus" / "prometheus.yml"))
    provisioned = MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
<% endif %>
    (source,) = yaml.safe_load(read(provisioned))["datasources"]
    assert source["jsonData"]["timeInterval"] == configuration["global"]["scrape_interval"]


ALARMING = {
    "Failed requests, 5 min": "HighErrorRate",
    "Failed requests": "HighErrorRate",
    "Latency p95, 5 min": "HighLatency",
    "Latency": "HighLatency",
    "Latency p95 by route": "HighLatency",
    "Saturation, 5 min": "SaturationHigh",
    "Saturation by instance": "SaturationHigh",
    "Waiting for a thread": "RequestsWaiting",
}


@pytest.mark.parametrize("title", ALARMING)
def test_a_panel_turns_red_where_its_alert_fires(title: str) -> None:
    found = [each for each in panels(dashboards()["service.json"]) if each["title"] == title]
    assert found, (
        f"service.json has no panel {title!r}, which ALARMING in"
        " tests/monitoring/test_dashboards.py names: rename or remove it there as well"
    )
    steps = found[0]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    red = {f"> {step['value']}" for step in steps if step["color"] == "red"}
    alarming = {alert.threshold for alert in alerts() if alert.name == ALARMING[title]}
    where = f"{line_of('service.json', title)}: the panel {title!r}"
    assert red, f"{where} never turns red: it must at a threshold of {ALARMING[title]}, {alarming}"
    assert red <= alarming, (
        f"{where} turns red at {red}, and {ALARMING[title]} fires at {alarming}: write the same"
        " into both"
    )
