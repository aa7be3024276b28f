"""The watch from outside: its rules pass their own tests, whatever the service and the team are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import run
from .programs import program
from .service import generate

NAMES = {
    "the defaults": {},
    "a team that is a Go template": {"team": "{{ $value }} {{ end }} {{{ `}}"},
    "a team of quotes and signs": {"team": "Käse \"Wein\" 'n' \\ ${HOME} %s # : - 👩‍👩‍👧"},
    "a team of 200 characters": {"team": "'\"{{\\" * 40},
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_the_rules_fire_stay_silent_and_recover_for_every_team(tmp_path: Path, names: dict[str, str]) -> None:
    folder = generate(tmp_path, **names).folder / "monitoring/prometheus"
    promtool = program("prometheus").with_name("promtool")
    for arguments in (["check", "rules", "rules/uptime.yml"], ["test", "rules", "tests/uptime_test.yml"]):
        done = run([promtool, *arguments], folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout


def test_the_blackbox_exporter_accepts_its_configuration(tmp_path: Path) -> None:
    configuration = generate(tmp_path).folder / "monitoring/blackbox/blackbox.yml"
    done = run([program("prometheus-blackbox-exporter"), "--config.check", f"--config.file={configuration}"])
    assert done.returncode == 0, done.stderr
