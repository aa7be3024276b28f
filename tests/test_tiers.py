"""The table of the tiers: a size or a threshold that cannot be one is refused by name."""

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from template_checkout import DEFINITION, TIERS, Generate, copy_template, generate_with_cookiecutter, run
from test_answers import HOOK

REFUSED = {
    "text": ("thresholds.error_ratio", "five", '_tiers.small.thresholds.error_ratio is "five", which is no number'),
    "a number in quotes": ("thresholds.latency_seconds", "1.0", "type a number from 0.001 to 60"),
    "a percentage": (
        "thresholds.error_ratio",
        5,
        "_tiers.small.thresholds.error_ratio is 5: type a number from 0.0001",
    ),
    "nothing": ("thresholds.saturation_ratio", None, "_tiers.small.thresholds.saturation_ratio is missing"),
    "a truth": ("thresholds.error_ratio", True, "is true, which is no number"),
    "not a number": ("thresholds.latency_seconds", float("nan"), "_tiers.small.thresholds.latency_seconds is nan"),
    "without end": ("thresholds.latency_seconds", float("inf"), "type a number from 0.001 to 60"),
    "half a worker": ("workers", 1.5, "_tiers.small.workers is 1.5, which is no whole number"),
    "no thread": ("threads", 0, "_tiers.small.threads is 0: type a whole number from 1 to 1024"),
    "a list": ("replicas", [1], "_tiers.small.replicas is [1]"),
    "days with a unit": ("retention_days", "7d", '_tiers.small.retention_days is "7d", which is no whole number'),
    "text over two lines": ("workers", "1\n2", '_tiers.small.workers is "1\\n2"'),
    "thresholds that are no table": ("thresholds", 1, "_tiers.small.thresholds.error_ratio is missing"),
}


def changed(name: str, value: object) -> dict[str, Any]:
    """The table with one size of the small tier changed."""
    tiers: dict[str, Any] = copy.deepcopy(DEFINITION["_tiers"])
    *above, last = name.split(".")
    sizes = tiers["small"]
    for key in above:
        sizes = sizes[key]
    sizes[last] = value
    return tiers


@pytest.mark.parametrize(("name", "value", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_a_size_that_cannot_be_one_is_refused_by_name(name: str, value: object, line: str) -> None:
    said = HOOK.tiers_refusal(changed(name, value))
    assert line in said[0]
    assert all(each.isprintable() and "_tiers.small." in each for each in said)


def test_a_table_that_is_none_is_refused() -> None:
    assert HOOK.tiers_refusal("small")[0].startswith('_tiers is "small", which is no table')
    assert "_tiers.small.workers is missing" in HOOK.tiers_refusal({"small": []})[0]


def test_the_table_as_it_is_has_every_size() -> None:
    assert HOOK.tiers_refusal(DEFINITION["_tiers"]) == []
    for tier in TIERS:
        sizes = DEFINITION["_tiers"][tier]
        flat = {*sizes, *(f"thresholds.{name}" for name in sizes["thresholds"])} - {"features", "thresholds"}
        assert flat == set(HOOK.SIZES), tier


@pytest.mark.parametrize("tier", TIERS)
def test_a_tiers_old_and_new_processes_fit_postgresqls_default_of_connections(service: Generate, tier: str) -> None:
    """Of 100, 3 are kept for superusers and 7 left for a migration, an exporter and people."""
    made = service(scale_tier=tier)
    settings = (made / "src/order_service/settings.py").read_text()
    found = re.search(r"database_pool_size: int = Field\(\s*(\d+),", settings)
    assert found
    health_check, sizes = 1, DEFINITION["_tiers"][tier]
    pods = yaml.safe_load((made / "deploy/kubernetes/base/deployment.yaml").read_text())["spec"]["replicas"]
    assert pods == sizes["replicas"]
    assert 2 * max(pods, sizes["workers"]) * (int(found[1]) + health_check) <= 100 - 3 - 7


def test_an_edited_template_says_so_and_makes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    template = copy_template(tmp_path / "template")
    definition = DEFINITION | {"_tiers": changed("thresholds.error_ratio", "five")}
    (template / "cookiecutter.json").write_text(json.dumps(definition))
    with pytest.raises(Exception, match="Hook script failed"):
        generate_with_cookiecutter(template, tmp_path / "out")
    assert '_tiers.small.thresholds.error_ratio is "five", which is no number' in capfd.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_replayed_answer_is_looked_at_too(template: Path, tmp_path: Path) -> None:
    answers = {name: values[0] if isinstance(values, list) else values for name, values in DEFINITION.items()}
    answers |= {"project_slug": "orders", "__package": "orders", "_tiers": changed("workers", "many")}
    (tmp_path / "replay.json").write_text(json.dumps({"cookiecutter": answers}))
    said = run(
        sys.executable, "-m", "cookiecutter", "--replay-file", tmp_path / "replay.json",
        "--output-dir", tmp_path / "out", template, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert said.returncode != 0
    assert '_tiers.small.workers is "many", which is no whole number' in said.stderr
