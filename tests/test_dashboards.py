"""Dashboards as they are generated: any name, any slug and each tier's numbers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from template_checkout import DEFINITION, TIERS, Generate
from test_names import NAMES, SLUGS


def dashboards(service: Path) -> dict[str, dict[str, Any]]:
    """Every dashboard of a service, by the name of its file."""
    folder = service / "monitoring/grafana/dashboards"
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_heads_its_dashboards_and_stands_nowhere_that_grafana_interpolates(service: Generate, name: str) -> None:
    hostile = dashboards(service(project_name=name, team=name, project_slug="ledger", scale_tier="large"))
    plain = dashboards(service(project_slug="ledger", scale_tier="large"))
    for file, dashboard in hostile.items():
        # A title is shown as it stands; Grafana's databases take 189 characters of it.
        assert dashboard["title"].startswith(name[:170])
        assert len(dashboard["title"]) <= 189
        assert {**dashboard, "title": ""} == {**plain[file], "title": ""}


@pytest.mark.parametrize("slug", SLUGS)
def test_what_grafana_keeps_of_a_slug_is_short_enough(service: Generate, slug: str) -> None:
    for name, dashboard in dashboards(service(project_slug=slug, scale_tier="large")).items():
        uid = dashboard["uid"]
        assert re.fullmatch(rf"[a-z0-9-]*[a-z0-9]-{name}", uid)
        assert len(uid) <= 40
        assert uid == f"{slug}-{name}" or len(slug) + len(name) > 39
        assert all(len(tag) <= 50 for tag in dashboard["tags"])


def found_in(made: Path) -> str:
    """The folder in which Grafana shows a service's dashboards: its provider's, or the one that holds the files."""
    platform = made / "platform" if (made / "platform").exists() else made
    (file,) = platform.glob("**/provisioning/dashboards/*.yml")
    (provider,) = yaml.safe_load(file.read_text(encoding="utf-8"))["providers"]
    volumes = yaml.safe_load((platform / "compose.yaml").read_text(encoding="utf-8"))["services"]["grafana"]["volumes"]
    (mounted,) = [volume.split(":")[1] for volume in volumes if "monitoring/grafana/dashboards:" in volume]
    if provider["options"].get("foldersFromFilesStructure"):
        assert mounted.startswith(provider["options"]["path"] + "/")
        return str(mounted.rpartition("/")[2])
    assert (provider["options"]["path"], provider["name"], file.stem) == (mounted, made.name, made.name)
    return str(provider["folder"])


def grafana(*services: Path) -> dict[str, list[Any]]:
    """What Grafana would have of each kind that it knows by one name, with the files of all services in it."""
    found: dict[str, list[Any]] = {"folder": [], "uid": [], "title": []}
    for made in services:
        folder = found_in(made)
        found["folder"].append(folder)
        for dashboard in dashboards(made).values():
            found["uid"].append(dashboard["uid"])
            found["title"].append((folder, dashboard["title"]))
    return found


def test_services_of_one_name_disturb_each_other_in_no_grafana(service: Generate) -> None:
    """Of three tiers, two with slugs that share their first 33 letters."""
    begin = "payments-of-our-customers-in-the-"
    slugs = {"small": f"{begin}east", "medium": f"{begin}north", "large": "payments"}
    made = [service(project_name="Payments", project_slug=slug, scale_tier=tier) for tier, slug in slugs.items()]
    for kind, names in grafana(*made).items():
        assert len(set(names)) == len(names) >= len(made), kind
    for one in made:
        rules = "".join(file.read_text(encoding="utf-8") for file in (one / "monitoring/prometheus").rglob("*.yml"))
        linked = set(re.findall(r"/d/([a-z0-9-]+)", rules))
        assert linked
        assert linked <= {dashboard["uid"] for dashboard in dashboards(one).values()}


@pytest.mark.parametrize("tier", TIERS)
def test_panels_turn_red_at_the_thresholds_of_the_tier(service: Generate, tier: str) -> None:
    panels = dashboards(service(scale_tier=tier))["service"]["panels"]
    red = {
        panel["title"]: step["value"]
        for panel in panels
        for step in panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])
        if step["color"] == "red"
    }
    thresholds = DEFINITION["_tiers"][tier]["thresholds"]
    for title, threshold in {
        "Failed requests, 5 min": "error_ratio",
        "Failed requests": "error_ratio",
        "Latency p95, 5 min": "latency_seconds",
        "Latency": "latency_seconds",
        "Latency p95 by route": "latency_seconds",
        "Saturation, 5 min": "saturation_ratio",
        "Saturation by instance": "saturation_ratio",
    }.items():
        assert red[title] == thresholds[threshold], title
    (budget,) = (panel for panel in panels if panel["title"] == "Error budget left, 24 h")
    assert budget["targets"][0]["expr"].endswith(f"/ {thresholds['error_budget']}")
    assert f" {thresholds['error_budget'] * 100:g} % of the last 24 hours' requests may fail" in budget["description"]
    (available,) = (panel for panel in panels if panel["title"] == "Availability, 24 h")
    green = available["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
    assert green == pytest.approx(1 - thresholds["error_budget"])
