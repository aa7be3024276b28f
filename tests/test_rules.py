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
    for file, alert, size in (
        ("errors", "HighErrorRate", "error_ratio"),
        ("latency", "HighLatency", "latency_seconds"),
        ("saturation", "SaturationHigh", "saturation_ratio"),
    ):
        found = expressions((rules / f"{file}.yml").read_text(encoding="utf-8"), alert)
        assert found
        assert all(expression.endswith(f"> {thresholds[size]}") for expression in found), found


@pytest.mark.parametrize("tier", TIERS)
def test_one_failure_is_never_over_the_threshold_of_errors(service: Generate, tier: str) -> None:
    text = (service(scale_tier=tier) / "monitoring/prometheus/rules/errors.yml").read_text(encoding="utf-8")
    (expression,) = expressions(text, "HighErrorRate")
    (floor,) = re.findall(r"\* 300 > (\d+)", expression)
    assert 1 / int(floor) <= DEFINITION["_tiers"][tier]["thresholds"]["error_ratio"]


@pytest.mark.parametrize("tier", TIERS)
def test_retention_is_that_of_the_tier_wherever_it_is_named(service: Generate, tier: str) -> None:
    made = service(scale_tier=tier)
    days = DEFINITION["_tiers"][tier]["retention_days"]
    for name in ("monitoring/prometheus/prometheus.yml", "docs/monitoring.md"):
        text = (made / name).read_text(encoding="utf-8")
        assert re.findall(r"--storage\.tsdb\.retention\.time=(\w+)", text) == [f"{days}d"], name
