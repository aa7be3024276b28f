"""The workflows that those run who host the template, or a service, on GitHub."""

import os
from pathlib import Path

import pytest
from real.programs import program
from template_checkout import ROOT, TIERS, Generate, run


@pytest.mark.real
def test_actionlint_finds_nothing(service: Generate) -> None:
    shellcheck = ROOT / ".cache" / "dev" / "bin" / "shellcheck"
    for place in (ROOT, *(service(scale_tier=tier) for tier in TIERS), service(uptime_monitor="pingdom")):
        workflows: list[str | Path] = sorted((place / ".github" / "workflows").glob("*.yml"))
        said = run(program("actionlint"), "-no-color", f"-shellcheck={shellcheck}", *workflows, cwd=place, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        assert workflows


def test_the_workflow_runs_what_ci_runs() -> None:
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
