"""Three services, each in two environments, on the platform of one of them: each breaks in turn.

The rules wait seconds where they wait minutes. Whom they are for, what they say nothing of and what keeps them silent
is as it was generated.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import pytest
import yaml
from two_services import add, seen_by_prometheus

from .processes import again_and_again, eventually, free_port
from .servers import Prometheus, running
from .service import Gunicorn, Service, generate
from .stand_ins import Webhook, listening, website
from .watchers import Blackbox, Notified, Notifying, changed, hurried, notified, platform_of

COMMON = "refunds-and-payments-of-the-whole"
EAST, WEST, BILLING = f"{COMMON}-east", f"{COMMON}-west", "billing"
ANSWERS = {
    EAST: {"scale_tier": "small", "team": "east"},
    WEST: {"scale_tier": "medium", "team": "west"},
    BILLING: {"scale_tier": "large", "team": "money"},
}
ENVIRONMENTS = ("production", "staging")
SETTLED_SECONDS = 5
"""Longer than a rule in a hurry and Alertmanager wait together."""


class Shared(Prometheus):
    """A Prometheus with the configuration of one service's platform, to which its README's lines add the others."""

    def __init__(self, folder: Path, services: dict[str, Service], alertmanager: int, blackbox: int) -> None:
        port = free_port()
        side_by_side = folder / "side-by-side"
        for slug, service in services.items():
            shutil.copytree(service.folder / "monitoring", side_by_side / slug / "monitoring")
            self._expect(side_by_side / slug / "monitoring/prometheus/rules/environments.yml")
        platform = Path(shutil.copytree(services[WEST].folder / "platform", side_by_side / WEST / "platform"))
        for slug in services:
            if slug != WEST:
                add(platform, WEST, slug)
        self.file = seen_by_prometheus(folder, platform)
        self.services = folder / "services"
        for rules in (*folder.glob("platform/watchers/*.yml"), *self.services.glob("*/rules/*.yml")):
            rules.write_text(hurried(rules.read_text()))
        here = {
            "localhost:9090": f"127.0.0.1:{port}",
            "alertmanager:9093": f"127.0.0.1:{alertmanager}",
            "blackbox:9115": f"127.0.0.1:{blackbox}",
            # No log agent runs here: another that answers is scraped in its place.
            "fluent-bit:2020": f"127.0.0.1:{alertmanager}",
            "/api/v2/metrics/prometheus": "/metrics",
            ": 15s": ": 1s",
        }
        self.file.write_text(changed(self.file.read_text(), here))
        super().__init__(folder, self.file, port)

    @staticmethod
    def _expect(file: Path) -> None:
        """Write down both environments, where the page says to."""
        rules = yaml.safe_load(file.read_text())
        (group,) = rules["groups"]
        (entry,) = [rule for rule in group["rules"] if rule.get("record") == "service:environment_expected:info"]
        others = [rule for rule in group["rules"] if rule is not entry]
        expected = [entry | {"labels": entry["labels"] | {"environment": name}} for name in ENVIRONMENTS]
        file.write_text(yaml.safe_dump({"groups": [group | {"rules": expected + others}]}))


class Dependency:
    """What a service cannot do without; it can be stopped, and started again at its address."""

    def __init__(self) -> None:
        self.port = free_port()
        self._stack = ExitStack()
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/200"

    def start(self) -> None:
        self._stack.enter_context(website(port=self.port))

    def stop(self) -> None:
        self._stack.close()


class Platform:
    """All of it, running; what a receiver got is in `notified`."""

    def __init__(self, stack: ExitStack, services: dict[str, Service], folder: Callable[[str], Path]) -> None:
        self._webhook = Webhook()
        stack.enter_context(listening(self._webhook))
        of_all = platform_of(services[WEST])
        self.services = services
        self.alertmanager = Notifying(folder("alertmanager"), of_all, self._webhook)
        blackbox = Blackbox(folder("blackbox"), of_all)
        for server in (self.alertmanager, blackbox):
            stack.enter_context(running(server))
        self.dependencies = {each: Dependency() for each in product(services, ENVIRONMENTS)}
        for dependency in self.dependencies.values():
            stack.callback(dependency.stop)
        self.instances = {
            (slug, environment): stack.enter_context(self._serving(services[slug], dependency.address))
            for (slug, environment), dependency in self.dependencies.items()
        }
        self.prometheus = Shared(folder("prometheus"), services, self.alertmanager.port, blackbox.port)
        for slug in services:
            self.watch(slug, ENVIRONMENTS)
        stack.enter_context(running(self.prometheus))

    @contextmanager
    def _serving(self, service: Service, dependency: str) -> Iterator[Gunicorn]:
        with service.serving(
            APP_VERSION="1.0",
            DATABASE_URL=f"sqlite:///{service.folder / 'own.db'}",
            HEALTH_DEPENDENCIES=f"!ledger={dependency}",
        ) as running_service:
            yield running_service

    def watch(self, slug: str, environments: tuple[str, ...]) -> None:
        """Write the addresses of a service's instances where Prometheus finds them."""
        for kind, port in (("service", "metrics_port"), ("uptime", "port")):
            found = [
                {
                    "targets": [f"127.0.0.1:{getattr(self.instances[slug, name], port)}"],
                    "labels": {"service": slug, "environment": name},
                }
                for name in environments
            ]
            (self.prometheus.services / slug / "targets" / f"{kind}.yml").write_text(yaml.safe_dump(found))

    def notified(self, since: int = 0) -> list[Notified]:
        """Return every alert of every notification but the heartbeats, from a number of notifications on."""
        return notified(self._webhook.posted[since:])

    def notifications(self) -> int:
        return len(self._webhook.posted)

    def firing(self) -> set[str]:
        """Return the alerts that fire, but for those that notify nobody."""
        found = self.prometheus.query('ALERTS{alertstate="firing", severity!="info"}')
        return {labels["alertname"] for labels, _ in found}

    def quiet(self) -> bool:
        """Whether all is seen and nothing fires, nor is about to."""
        if self.prometheus.value("count(up == 1)") < len(self.instances) * 2 + 2:
            return False
        return not self.prometheus.query('ALERTS{severity!="info"}') and not self.alertmanager.alerts()

    def settle(self) -> None:
        """Wait until all is well, and was so for long enough that no notification is on its way."""
        eventually(self.quiet, "nothing fires", 90)
        time.sleep(SETTLED_SECONDS)


@pytest.fixture(scope="module")
def platform(small: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Run three services of three tiers twice each, and what watches them."""
    services = {}
    for slug, answers_ in ANSWERS.items():
        folder = generate(tmp_path_factory.mktemp("many"), project_name=slug, project_slug=slug, **answers_).folder
        services[slug] = Service(folder.parent / slug, slug, answers_["scale_tier"], answers_, borrowed=small)
    with ExitStack() as stack:
        made = Platform(stack, services, tmp_path_factory.mktemp)
        made.settle()
        yield made


@contextmanager
def _hung(platform: Platform, slug: str) -> Iterator[None]:
    """Its process hangs: nothing answers."""
    process = platform.instances[slug, "production"].program
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


@contextmanager
def _failing(platform: Platform, slug: str, environment: str = "production") -> Iterator[None]:
    """Whatever it is asked, it fails."""
    with again_and_again(lambda _: platform.instances[slug, environment].get("/stage/status/500"), 0.1):
        yield


@contextmanager
def _without_its_dependency(platform: Platform, slug: str) -> Iterator[None]:
    dependency = platform.dependencies[slug, "production"]
    dependency.stop()
    try:
        yield
    finally:
        dependency.start()


@contextmanager
def _losing_workers(platform: Platform, slug: str) -> Iterator[None]:
    """Its workers are killed again and again, as where memory runs out; the master lives."""
    with again_and_again(lambda _: os.kill(platform.instances[slug, "production"].workers()[0], signal.SIGKILL), 0.5):
        yield


@contextmanager
def _gone(platform: Platform, slug: str) -> Iterator[None]:
    """Production is found nowhere, staging is."""
    platform.watch(slug, ("staging",))
    try:
        yield
    finally:
        platform.watch(slug, ENVIRONMENTS)


OUTAGES = {
    (EAST, "ServiceDown"): _hung,
    (WEST, "HighErrorRate"): _failing,
    (BILLING, "HealthCheckFailing"): _without_its_dependency,
    (BILLING, "TargetMissing"): _gone,
}


@pytest.mark.parametrize(("slug", "alert"), OUTAGES, ids=lambda part: part.removeprefix(COMMON))
def test_an_outage_pages_the_team_of_the_service_once_and_nobody_else(
    platform: Platform, slug: str, alert: str
) -> None:
    before = platform.notifications()

    def notified(status: str) -> set[str]:
        return {one.alert for one in platform.notified(before) if one.status == status and one.pages}

    with OUTAGES[slug, alert](platform, slug):
        eventually(lambda: alert in notified("firing"), f"{alert} pages", 90)
        time.sleep(SETTLED_SECONDS)
    eventually(lambda: alert in notified("resolved"), f"{alert} is over", 90)
    platform.settle()
    of_it = platform.notified(before)
    assert {(one.service, one.environment, one.team) for one in of_it} == {(slug, "production", ANSWERS[slug]["team"])}
    # One group of alerts is one incident, however many routes it names.
    assert {one.alert for one in of_it if one.pages} == {alert}


def test_what_fails_in_staging_pages_nobody_and_its_team_gets_a_message(platform: Platform) -> None:
    before = platform.notifications()
    with _failing(platform, EAST, "staging"):
        eventually(lambda: platform.notified(before), "somebody is notified", 90)
        time.sleep(SETTLED_SECONDS)
    platform.settle()
    of_it = platform.notified(before)
    assert {(one.service, one.environment, one.team) for one in of_it} == {(EAST, "staging", "east")}
    assert not [one for one in of_it if one.pages]


def test_a_service_that_loses_workers_is_reported_to_its_team_alone(platform: Platform) -> None:
    before = platform.notifications()
    with _losing_workers(platform, EAST):
        eventually(lambda: "WorkersDying" in {one.alert for one in platform.notified(before)}, "it is reported", 90)
    platform.settle()
    of_it = platform.notified(before)
    assert {(one.service, one.environment, one.team) for one in of_it} == {(EAST, "production", "east")}


def test_a_refused_configuration_is_a_message_and_the_one_before_it_goes_on(platform: Platform) -> None:
    before = platform.notifications()
    file = platform.prometheus.file
    text = file.read_text()
    file.write_text("scrape_configs: [{job_name: }]\n")
    platform.prometheus.program.send(signal.SIGHUP)
    eventually(lambda: platform.notified(before), "somebody is notified", 90)
    file.write_text(text)
    platform.prometheus.program.send(signal.SIGHUP)
    platform.settle()
    assert {(one.alert, one.receiver) for one in platform.notified(before)} == {("ConfigurationRefused", "message")}


def test_an_alertmanager_that_is_gone_is_an_alert_that_only_prometheus_shows(platform: Platform) -> None:
    """Nobody can be notified of it: docs/monitoring.md says what notices that from outside."""
    platform.alertmanager.stop()
    try:
        eventually(lambda: "AlertmanagerDown" in platform.firing(), "Prometheus shows it", 90)
    finally:
        platform.alertmanager.restart()
    platform.settle()
