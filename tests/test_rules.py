"""What the tiers' sizes make of the rules: thresholds, floors and retention, in every place that names them."""

import re

import pytest
from template_checkout import DEFINITION, TIERS, Generate


def expressions(text: str, alert: str) -> list[str]:
    """The expressions of an alert, each up to its `for`."""
    return re.findall(rf"- alert: {alert}\n +expr: (?:\|\n)?(.+?)\n +for:", text, re.DOTALL)


@pytest.mark.parametrize("tier", TIERS)
def test_thresholds_are_those_of_the_tier(service: Generate, tier: str) -> None:
    rules = service(scale_tier=tier) / "monitoring" / "prometheus" / "rules"
    thresholds = DEFINITION["_tiers"][tier]["thresholds"]
    for file, alert, size, others in (
        ("errors", "HighErrorRate", "error_ratio", {"0.5"}),
        ("error_budget", "ErrorBudgetBurn", "error_budget", set()),
        ("latency", "HighLatency", "latency_seconds", {"5"}),
        ("saturation", "SaturationHigh", "saturation_ratio", set()),
        ("uptime", "EndpointSlow", "probe_seconds", set()),
    ):
        found = expressions((rules / f"{file}.yml").read_text(encoding="utf-8"), alert)
        ends = {expression.rpartition("> ")[2] for expression in found}
        assert ends == {str(thresholds[size])} | others, alert


@pytest.mark.parametrize("tier", TIERS[1:])
def test_connections_are_short_when_threads_are(service: Generate, tier: str) -> None:
    rules = service(scale_tier=tier) / "monitoring" / "prometheus" / "rules" / "database.yml"
    (found,) = expressions(rules.read_text(encoding="utf-8"), "DatabaseConnectionPoolHigh")
    assert found.endswith(f"> {DEFINITION['_tiers'][tier]['thresholds']['saturation_ratio']}")


@pytest.mark.parametrize("tier", TIERS)
def test_less_may_fail_for_good_than_is_a_page(service: Generate, tier: str) -> None:
    thresholds = DEFINITION["_tiers"][tier]["thresholds"]
    assert thresholds["error_budget"] <= thresholds["error_ratio"] / 4
    page = (service(scale_tier=tier) / "docs/monitoring.md").read_text(encoding="utf-8")
    assert f"an availability of {100 - thresholds['error_budget'] * 100:g} %" in page


@pytest.mark.parametrize("tier", TIERS)
def test_retention_is_that_of_the_tier_wherever_it_is_named(service: Generate, tier: str) -> None:
    made = service(scale_tier=tier)
    days = DEFINITION["_tiers"][tier]["retention_days"]
    platform = "platform" if (made / "platform").exists() else "monitoring"
    for name in (f"{platform}/prometheus/prometheus.yml", "docs/monitoring.md"):
        text = (made / name).read_text(encoding="utf-8")
        assert re.findall(r"--storage\.tsdb\.retention\.time=(\w+)", text) == [f"{days}d"], name
