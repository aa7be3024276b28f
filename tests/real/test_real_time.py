"""What fails for minutes or hours is reported within the time that its runbook says, by the rules as generated.

Nothing here is in a hurry: samples come every 15 seconds, and the longest test lasts for 90 minutes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from .processes import again_and_again, eventually, free_port
from .servers import Server, running
from .service import Gunicorn, Service, request
from .stand_ins import Webhook, listening
from .watchers import Blackbox, Notified, Notifying, Watcher, notified

pytestmark = pytest.mark.hours

MINUTE = 60
NOTICED_SECONDS = 75
"""A scrape, an evaluation, and the half minute for which Alertmanager gathers what fails together; with a margin."""

OVER_SECONDS = 6 * MINUTE
"""Alertmanager's `group_interval`, after which it says that something is over, and what it takes to notice."""


class Watched:
    """One service in production and staging, a Prometheus and Alertmanagers."""

    def __init__(self, stack: ExitStack, service: Service, folder: Path, alertmanagers: int) -> None:
        self._stack, self.service = stack, service
        self._webhook = Webhook()
        stack.enter_context(listening(self._webhook))
        self._folder, monitoring = folder, service.folder / "monitoring"
        self.alertmanagers = [
            Notifying(self._made(folder / f"alertmanager-{n}"), monitoring, self._webhook, hurry=False)
            for n in range(alertmanagers)
        ]
        self._blackbox = Blackbox(self._made(folder / "blackbox"), monitoring)
        self.instances: dict[str, list[tuple[int, int]]] = {"staging": [self._serving()]}
        for server in (*self.alertmanagers, self._blackbox):
            stack.enter_context(running(server))
        self.broken = 0.0

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir()
        return folder

    def _serving(self) -> tuple[int, int]:
        """Run an instance until the test ends; returns its port and the one of its metrics."""
        instance = self._stack.enter_context(self.service.serving(staged=False))
        return instance.port, instance.metrics_port

    def _targets(self, environments: tuple[str, ...]) -> dict[str, str]:
        """Return, by file, the addresses of these environments' instances as Prometheus is given them."""
        return {
            f"targets/{file}.yml": yaml.safe_dump(
                [
                    {
                        "targets": [f"127.0.0.1:{ports[port]}"],
                        "labels": {"service": self.service.slug, "environment": environment},
                    }
                    for environment in environments
                    for ports in self.instances[environment]
                ]
            )
            for file, port in (("uptime", 0), ("service", 1))
        }

    def watch(self, *environments: str) -> None:
        """Let Prometheus find these environments and no other."""
        for file, text in self._targets(environments).items():
            (self.prometheus.folder / "prometheus" / file).write_text(text)

    def start(self, *production: tuple[int, int]) -> None:
        """Watch both environments for as long as any page looks back, and find nothing to report."""
        self.instances["production"] = list(production)
        monitoring = self.service.folder / "monitoring"
        addresses = ", ".join(f"127.0.0.1:{each.port}" for each in self.alertmanagers)
        changes = {
            "prometheus.yml": {"alertmanager:9093": addresses, "blackbox:9115": f"127.0.0.1:{self._blackbox.port}"},
            "rules/environments.yml": {"environment: local": "environment: production"},
        } | {
            file: {(monitoring / "prometheus" / file).read_text(): text}
            for file, text in self._targets(("production", "staging")).items()
        }
        self.prometheus = Watcher(self._made(self._folder / "prometheus"), monitoring, changes, every="15s")
        self._stack.enter_context(running(self.prometheus))
        looks_back = time.monotonic() + 11 * MINUTE
        eventually(lambda: time.monotonic() > looks_back, "there is a history", 12 * MINUTE)
        assert self.heard == []
        self.broken = time.monotonic()

    @property
    def heard(self) -> list[Notified]:
        """Return all that a receiver got, but for the heartbeats."""
        return [one for one in notified(self._webhook.posted) if one.alert != "Watchdog"]

    def hears(self, alert: str, severity: str, status: str, within: float, since: float | None = None) -> None:
        """Wait until a receiver got this alert, for at most so many seconds since the failure began, or a moment."""
        since = since or self.broken

        def got() -> list[Notified]:
            return [
                one
                for one in self.heard
                if (one.alert, one.severity, one.status) == (alert, severity, status) and one.at > since
            ]

        left = max(1.0, since + within - time.monotonic())
        (one, *_) = eventually(got, f"{alert} ({severity}) is {status} within {within:.0f} s: {self.heard}", left)
        print(f"{alert} ({severity}) {status} after {one.at - since:.0f} s")

    def only(self, *alerts: str) -> None:
        """All that was heard is these, of production or the watchers, each beginning once for a severity."""
        assert {one.alert for one in self.heard} <= set(alerts)
        assert not [one for one in self.heard if one.environment == "staging"]
        began = [(one.alert, one.severity, one.service) for one in self.heard if one.status == "firing"]
        assert sorted(began) == sorted(set(began)), self.heard


@pytest.fixture
def watched(small: Service, tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    with ExitStack() as stack:
        yield lambda alertmanagers=1: Watched(stack, small, tmp_path, alertmanagers)


@pytest.fixture
def instance(small: Service) -> Iterator[Gunicorn]:
    with small.serving(staged=False) as serving:
        yield serving


def ports(instance: Gunicorn) -> tuple[int, int]:
    return instance.port, instance.metrics_port


def test_a_worker_that_is_killed_every_two_seconds(watched: Callable[..., Watched], instance: Gunicorn) -> None:
    """docs/runbooks/WorkersDying.md: "a warning within two minutes and a page within seven"."""
    it = watched()
    it.start(ports(instance))

    def kill(ended: threading.Event) -> None:
        ended.wait(2)
        os.kill(instance.workers()[0], signal.SIGKILL)

    with again_and_again(kill):
        it.hears("WorkersDying", "warning", "firing", 2 * MINUTE)
        it.hears("WorkersDying", "critical", "firing", 7 * MINUTE)
    over = time.monotonic()
    it.hears("WorkersDying", "critical", "resolved", 5 * MINUTE + OVER_SECONDS, over)
    it.hears("WorkersDying", "warning", "resolved", 15 * MINUTE + OVER_SECONDS, over)
    it.only("WorkersDying")


def test_a_pod_that_is_in_back_off_for_an_hour(watched: Callable[..., Watched], small: Service) -> None:
    """docs/runbooks/RestartLoop.md: "three to ten minutes after a loop begins, and for as long as the loop lasts"."""
    it = watched()
    port, metrics_port = free_port(), free_port()
    back_off = [10.0]

    def run_for(seconds: float, ended: threading.Event) -> None:
        """Let the container live for a while, and Kubernetes wait before the next, twice as long each time."""
        with small.serving(staged=False, wait=False, PORT=str(port), METRICS_PORT=str(metrics_port)):
            ended.wait(seconds)
        ended.wait(back_off[0])
        back_off[0] = min(back_off[0] * 2, 5 * MINUTE)

    with small.serving(staged=False, PORT=str(port), METRICS_PORT=str(metrics_port), wait=False):
        eventually(lambda: request(port, "/health/ready").status == 200, "it is ready", 60)
        it.start((port, metrics_port))
    with again_and_again(lambda ended: run_for(20, ended)):
        it.hears("RestartLoop", "critical", "firing", 10 * MINUTE)
        an_hour = time.monotonic() + 60 * MINUTE
        eventually(lambda: time.monotonic() > an_hour, "an hour is over", 61 * MINUTE)
        assert not [one for one in it.heard if (one.alert, one.status) == ("RestartLoop", "resolved")]
        # Two names for one outage at most: that it restarts, and that for most of the time it is down.
        it.only("RestartLoop", "ServiceDown")
    over = time.monotonic()
    with small.serving(staged=False, wait=False, PORT=str(port), METRICS_PORT=str(metrics_port)):
        it.hears("ServiceDown", "critical", "resolved", 7 * MINUTE + OVER_SECONDS, over)
        it.hears("RestartLoop", "critical", "resolved", 15 * MINUTE + OVER_SECONDS, over)
        it.only("RestartLoop", "ServiceDown")


def test_production_that_vanishes_while_staging_is_there(watched: Callable[..., Watched], instance: Gunicorn) -> None:
    """docs/runbooks/TargetMissing.md: five minutes."""
    it = watched()
    it.start(ports(instance))
    it.watch("staging")
    it.hears("TargetMissing", "critical", "firing", 5 * MINUTE + NOTICED_SECONDS)
    it.watch("production", "staging")
    it.hears("TargetMissing", "critical", "resolved", OVER_SECONDS, time.monotonic())
    it.only("TargetMissing")


def test_an_alertmanager_of_two_that_ends_and_then_the_other(
    watched: Callable[..., Watched], instance: Gunicorn
) -> None:
    """docs/runbooks/AlertmanagerDown.md: two minutes where none answers, 15 where one of several does not."""
    it = watched(alertmanagers=2)
    it.start(ports(instance))
    first, second = it.alertmanagers
    first.stop()
    it.hears("AlertmanagerDown", "warning", "firing", 15 * MINUTE + NOTICED_SECONDS)
    second.stop()
    none = time.monotonic()

    def page() -> bool:
        return it.prometheus.states("AlertmanagerDown").get("critical") == "firing"

    eventually(page, "Prometheus shows it", 2 * MINUTE + NOTICED_SECONDS)
    print(f"AlertmanagerDown (critical) shown after {time.monotonic() - none:.0f} s")
    first.restart()
    second.restart()
    eventually(lambda: it.prometheus.states("AlertmanagerDown") == {}, "it is over", 2 * MINUTE)
    assert {one.alert for one in it.heard} == {"AlertmanagerDown"}


@pytest.mark.parametrize("whose", ["prometheus", "alertmanager"])
def test_a_configuration_that_is_refused(watched: Callable[..., Watched], instance: Gunicorn, whose: str) -> None:
    """docs/runbooks/ConfigurationRefused.md: a minute."""
    it = watched()
    it.start(ports(instance))
    server: Server = it.prometheus if whose == "prometheus" else it.alertmanagers[0]
    (file,) = server.folder.glob(f"{whose}/{whose}.yml")
    text = file.read_text()
    file.write_text(f"{text}\nno_such_option: true\n")
    server.program.send(signal.SIGHUP)
    it.hears("ConfigurationRefused", "warning", "firing", MINUTE + NOTICED_SECONDS)
    file.write_text(text)
    server.program.send(signal.SIGHUP)
    it.hears("ConfigurationRefused", "warning", "resolved", OVER_SECONDS, time.monotonic())
    it.only("ConfigurationRefused")
    assert {one.service for one in it.heard} == {whose}
