"""The workflows that those run who host the template, or a service, on GitHub."""

import os
from pathlib import Path

import pytest
from template_checkout import ROOT, TIERS, Generate, required, run

ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"


@pytest.mark.real
def test_actionlint_finds_nothing(service: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    go = required("go", "install Go, which builds actionlint")
    folder = ROOT / ".cache" / "go"
    actionlint = folder / "actionlint"
    if not actionlint.exists():
        monkeypatch.setenv("GOBIN", str(folder))
        run(go, "install", ACTIONLINT, cwd=ROOT)
    shellcheck = ROOT / ".cache" / "dev" / "bin" / "shellcheck"
    for place in (ROOT, *(service(scale_tier=tier) for tier in TIERS)):
        workflows: list[str | Path] = sorted((place / ".github" / "workflows").glob("*.yml"))
        if workflows:
            said = run(actionlint, "-no-color", f"-shellcheck={shellcheck}", *workflows, cwd=place, check=False)
            assert said.returncode == 0, said.stdout + said.stderr


def test_the_workflow_runs_what_ci_runs() -> None:
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
