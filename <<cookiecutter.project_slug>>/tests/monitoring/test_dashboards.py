"""The dashboards as files: what an owner can rely on while reading and changing them."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml

from <<cookiecutter.__package>>.settings import SERVICE

from ..support import ROOT
from .queries import DASHBOARDS, MONITORING, dashboards, line_of, of_dashboards, panels, read
from .rules import alerts

NAMES = sorted(path.name for path in DASHBOARDS.glob("*.json"))
SCOPE = f"service='{SERVICE}', environment='$environment', instance=~'$instance'"


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
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]


def test_every_query_asks_for_the_chosen_instances_of_the_service_alone() -> None:
    for query in of_dashboards():
        if "variable" in query.where or "ALERTS" in query.text:
            assert SERVICE in query.text, query.where
        else:
            selectors = re.findall(r"\{([^}]*)\}", query.text)
            job = f"job='{SERVICE}', "
            scoped = [selector.removeprefix(job).startswith(SCOPE) for selector in selectors]
            assert all(scoped or [False]), f"{query.where} must begin its selectors with {SCOPE}"


def test_a_variable_is_there_for_each_that_a_panel_uses() -> None:
    for name, dashboard in dashboards().items():
        made = {variable["name"] for variable in dashboard["templating"]["list"]}
        # The title is the service's own name, whatever is in it.
        text = json.dumps({part: dashboard[part] for part in dashboard if part != "title"})
        used = set(re.findall(r"\$\{?([a-z]\w*)", text))
        assert used == made, name


@pytest.mark.parametrize("name", NAMES)
def test_every_dashboard_has_the_same_variables_and_the_same_annotations(name: str) -> None:
    all_of_them, these = dashboards()["service.json"], dashboards()[name]
    assert these["annotations"] == all_of_them["annotations"]
    assert these["links"] == all_of_them["links"]
    for variable in these["templating"]["list"]:
        assert variable in all_of_them["templating"]["list"], variable["name"]


def test_a_dashboard_opens_on_the_prometheus_that_is_provisioned() -> None:
    sources = {
        source["uid"]: source
        for path in (MONITORING / "grafana" / "provisioning" / "datasources").glob("*.yml")
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
        assert len({dashboard[key] for dashboard in dashboards().values()}) == len(NAMES)
    assert all(re.fullmatch(r"[a-zA-Z0-9-]{1,40}", each["uid"]) for each in dashboards().values())


def test_a_panel_names_a_runbook_that_exists() -> None:
    for name in NAMES:
        for runbook in re.findall(r"\$\{runbooks_url\}/(\w+\.md)", read(DASHBOARDS / name)):
            assert (ROOT / "docs" / "runbooks" / runbook).exists(), f"{name}: {runbook}"


def test_runbooks_are_where_the_alerts_say_they_are() -> None:
    configuration = yaml.safe_load(read(MONITORING / "prometheus" / "prometheus.yml"))
    (variable,) = (
        variable
        for variable in dashboards()["service.json"]["templating"]["list"]
        if variable["name"] == "runbooks_url"
    )
    assert variable["query"] == configuration["global"]["external_labels"]["runbooks_url"]


def test_the_shortest_rate_spans_four_scrapes() -> None:
    configuration = yaml.safe_load(read(MONITORING / "prometheus" / "prometheus.yml"))
    provisioned = MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
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
}


@pytest.mark.parametrize("title", ALARMING)
def test_a_panel_turns_red_where_its_alert_fires(title: str) -> None:
    (panel,) = (each for each in panels(dashboards()["service.json"]) if each["title"] == title)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    red = [step["value"] for step in steps if step["color"] == "red"]
    alarming = {alert.threshold for alert in alerts() if alert.name == ALARMING[title]}
    assert alarming == {f"> {value}" for value in red}
