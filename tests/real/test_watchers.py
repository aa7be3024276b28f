"""What breaks among those that watch is reported: a configuration, Alertmanager, Prometheus itself, an environment."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import commands_of

from .processes import eventually, run
from .programs import program
from .servers import Server, running
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
def watched(
    service: Service, folder: Path, changes: dict[str, str], rules: dict[str, dict[str, str]] | None = None
) -> Iterator[tuple[Alertmanager, Watcher]]:
    """Run both in a hurry, with texts of Alertmanager's configuration changed, and of Prometheus' files."""
    monitoring = service.folder / "monitoring"
    (folder / "alertmanager").mkdir()
    (folder / "prometheus").mkdir()
    with running(Alertmanager(folder / "alertmanager", monitoring, {}, changes)) as alertmanager:
        here = {"prometheus.yml": {"alertmanager:9093": f"127.0.0.1:{alertmanager.port}"}} | (rules or {})
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


def told_to_read(server: Server, file: Path, text: str) -> None:
    file.write_text(text)
    server.program.send(signal.SIGHUP)


def fires(prometheus: Watcher, name: str, whose: str) -> bool:
    return bool(prometheus.query(f'ALERTS{{alertname="{name}", alertstate="firing", service="{whose}"}}'))


def test_a_refused_configuration_and_an_alertmanager_that_ends_fire(service: Service, tmp_path: Path) -> None:
    with watched(service, tmp_path, {}) as (alertmanager, prometheus):
        eventually(lambda: fires(prometheus, "Watchdog", "prometheus"), "rules are evaluated")

        def follows(server: Server, whose: str, file: Path) -> None:
            text = file.read_text()
            assert not fires(prometheus, "ConfigurationRefused", whose)
            told_to_read(server, file, f"{text}\nno_such_option: true\n")
            eventually(lambda: fires(prometheus, "ConfigurationRefused", whose), f"{whose} refuses it", 60)
            told_to_read(server, file, text)
            eventually(lambda: not fires(prometheus, "ConfigurationRefused", whose), f"{whose} takes one again", 60)

        follows(prometheus, "prometheus", tmp_path / "prometheus/prometheus/rules/telemetry.yml")
        follows(alertmanager, "alertmanager", tmp_path / "alertmanager/alertmanager/alertmanager.yml")
        assert not fires(prometheus, "AlertmanagerDown", "alertmanager")
        alertmanager.stop()
        eventually(lambda: fires(prometheus, "AlertmanagerDown", "alertmanager"), "its end is noticed", 60)


def test_production_that_vanishes_while_staging_is_there_fires(service: Service, tmp_path: Path) -> None:
    changes = {"rules/environments.yml": {"environment: local": "environment: production"}}
    with watched(service, tmp_path, {}, changes) as (alertmanager, prometheus):
        targets = tmp_path / "prometheus/prometheus/targets/service.yml"
        one = changed(targets.read_text(), {"service:9464": f"127.0.0.1:{alertmanager.port}"})
        both = one.replace("local", "production") + one.replace("local", "staging")

        def missing() -> set[str]:
            asked = f'ALERTS{{alertname="TargetMissing", alertstate="firing", service="{service.slug}", job!="uptime"}}'
            return {labels["environment"] for labels, _ in prometheus.query(asked)}

        targets.write_text(both)
        eventually(lambda: len(prometheus.query(f'up{{job="{service.slug}"}} == 1')) == 2, "both are there")
        eventually(lambda: missing() == set(), "neither is missing")
        targets.write_text(one.replace("local", "staging"))
        eventually(lambda: missing() == {"production"}, "production is missing")
