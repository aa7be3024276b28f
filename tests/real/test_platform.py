"""A platform that two services share, as its programs read it, and a service that has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from two_services import joined, seen_by_prometheus, without_platform

from .processes import run
from .programs import program
from .service import Service, generate

ONE, OTHER = "payments-of-our-customers-in-the-east", "payments-of-our-customers-in-the-north"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a medium and a large service, side by side on the platform of the first."""
    made = [
        generate(tmp_path_factory.mktemp(tier), project_slug=slug, scale_tier=tier).folder.with_name(slug)
        for slug, tier in ((ONE, "medium"), (OTHER, "large"))
    ]
    return joined(tmp_path_factory.mktemp("both"), *made)


@pytest.mark.parametrize("promtool", ["promtool", "promtool-3"])
def test_prometheus_takes_the_rules_and_targets_of_both(both: tuple[Path, Path], tmp_path: Path, promtool: str) -> None:
    configuration = seen_by_prometheus(tmp_path, both[0] / "platform")
    done = run([program(promtool), "check", "config", "--lint=all", "--lint-fatal", configuration], seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = [file for made in both for file in (made / "monitoring/prometheus/rules").iterdir()]
    of_platform = [
        *both[0].glob("platform/prometheus/watchers/*.yml"),
        *both[0].glob("platform/prometheus/rules/*.yml"),
    ]
    assert done.stdout.count("rules found") == len(rules) + len(of_platform)
    assert "does not exist" not in done.stdout + done.stderr


def test_a_service_without_a_platform_of_its_own_passes_its_own_tests(variant: Callable[..., Service]) -> None:
    """But for the unit tests of the rules, which are the same."""
    service = variant(scale_tier="medium")
    without_platform(service.folder)
    (service.folder / service.package).symlink_to(service.folder / "src" / service.package)
    options = ["--deselect=tests/monitoring/test_rules.py::test_alerts_fire_when_they_should_and_only_then", "-q"]
    done = run(
        [service.tool("python"), "-m", "pytest", "tests/deploy", "tests/monitoring", *options],
        folder=service.folder,
        environment=service.environment(),
        seconds=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "platform/ is not here: this team has its own" in done.stdout
