"""The alert that always fires arrives outside again and again, and stops with its senders: docs/monitoring.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import commands_of

from .processes import eventually, run
from .programs import program
from .servers import running
from .service import Service, generate
from .stand_ins import Webhook, listening
from .watchers import Alertmanager, Watcher, changed


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Generated, and not installed: nothing of it runs."""
    return generate(tmp_path_factory.mktemp("watched"))


def pasted(service: Service) -> dict[str, str]:
    """Put the page's receiver and route where the page says."""
    page = (service.folder / "docs/monitoring.md").read_text()
    receiver, route = (each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "heartbeat" in each)
    return {"receivers:\n": f"receivers:\n{receiver}", "  routes:\n": f"  routes:\n{route}"}


@contextmanager
def watched(service: Service, folder: Path, changes: dict[str, str]) -> Iterator[tuple[Alertmanager, Watcher]]:
    monitoring = service.folder / "monitoring"
    (folder / "alertmanager").mkdir()
    (folder / "prometheus").mkdir()
    with running(Alertmanager(folder / "alertmanager", monitoring, {}, changes)) as alertmanager:
        here = {"prometheus.yml": {"alertmanager:9093": f"127.0.0.1:{alertmanager.port}"}}
        with running(Watcher(folder / "prometheus", monitoring, here, hurry=True)) as prometheus:
            yield alertmanager, prometheus


def test_the_watchdog_arrives_again_and_again_until_prometheus_ends(service: Service, tmp_path: Path) -> None:
    heartbeat = Webhook()
    # Debian's Alertmanager knows no url_file.
    here = {
        "url_file: /etc/alertmanager/secrets/heartbeat_url": f"url: {heartbeat.url}",
        "_interval: 1m": "_interval: 1s",
    }
    changes = pasted(service)
    changes = {
        place: changed(text, {old: new for old, new in here.items() if old in text}) for place, text in changes.items()
    }
    with listening(heartbeat), watched(service, tmp_path, changes) as (alertmanager, prometheus):
        eventually(lambda: len(heartbeat.posted) > 3, "the watchdog arrives again and again", 60)
        assert {one.body["commonLabels"]["alertname"] for one in heartbeat.posted} == {"Watchdog"}
        (asked,) = (each for each in commands_of(service.folder, "docs/monitoring.md") if "ALERTMANAGER" in each.text)
        typed = asked.text.replace("ALERTMANAGER:9093", f"127.0.0.1:{alertmanager.port}")
        assert run(["sh", "-c", typed]).stdout == ""
        prometheus.stop()
        alertmanager.stop()
        assert run(["sh", "-c", typed]).stdout == "Nobody is notified of alerts\n"


@pytest.mark.parametrize("tool", ["amtool-current"])
def test_the_receiver_that_the_page_pastes_is_accepted(service: Service, tmp_path: Path, tool: str) -> None:
    text = (service.folder / "monitoring/alertmanager/alertmanager.yml").read_text()
    file = tmp_path / "alertmanager.yml"
    file.write_text(
        changed(text, pasted(service)).replace("templates: [", f"templates: [{service.folder}/monitoring/alertmanager/")
    )
    done = run([program(tool), "check-config", file])
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(
        [program(tool), "config", "routes", "test", f"--config.file={file}", "alertname=Watchdog", "severity=info"]
    )
    assert done.stdout.split() == ["heartbeat"]
