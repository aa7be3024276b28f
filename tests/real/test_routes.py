"""Who is notified of what: a real Alertmanager, with the service's configuration, is sent alerts."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .processes import eventually
from .servers import running
from .service import generate
from .stand_ins import MailServer, Webhook, listening
from .watchers import Alertmanager, platform_of

Labels = dict[str, str]
OF_REQUESTS = ("HighErrorRate", "ErrorBudgetBurn", "HighLatency", "EndpointDown", "RequestsWaiting", "SaturationHigh")
FOLLOWS = (*OF_REQUESTS, "InstancesDown", "RestartLoop", "WorkersDying")


def alert(name: str, severity: str = "critical", **labels: str) -> Labels:
    """The labels of an alert of production, unless they say otherwise."""
    return {"alertname": name, "severity": severity, "environment": "production", "team": "platform"} | labels


@dataclass(frozen=True)
class Watched:
    """An Alertmanager, and where it sends what pages and what is a message."""

    alertmanager: Alertmanager
    pager: Webhook
    mail: MailServer

    def tell(self, *alerts: Labels) -> None:
        """Send alerts, as Prometheus does."""
        texts = {"summary": "It is broken", "description": "Look.", "dashboard_url": "/d/x", "runbook_url": "x.md"}
        body = json.dumps([{"labels": labels, "annotations": texts} for labels in alerts]).encode()
        address = f"http://127.0.0.1:{self.alertmanager.port}/api/v2/alerts"
        asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            assert answer.status == 200

    def not_silenced(self, service: str) -> list[tuple[str, str, str]]:
        """The alerts of a service that something is sent of: (name, severity, receiver)."""
        query = urllib.parse.urlencode({"inhibited": "false", "filter": f'service="{service}"'})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.alertmanager.port}/api/v2/alerts?{query}") as answer:
            return sorted(
                (one["labels"]["alertname"], one["labels"]["severity"], receiver["name"])
                for one in json.load(answer)
                for receiver in one["receivers"]
            )

    def paged(self) -> list[str]:
        """What was sent to the pager: service, environment and name of each."""
        events = [one.body["payload"] for one in list(self.pager.posted)]
        return [f"{event['source']} {event['group']} {event['class']}" for event in events]


@contextmanager
def watched(folder: Path, monitoring: Path, changes: dict[str, str]) -> Iterator[Watched]:
    """Run an Alertmanager with stand-ins for PagerDuty and the mail server."""
    with ExitStack() as stack:
        pager, mail = Webhook(), MailServer()
        stack.enter_context(listening(pager))
        stack.enter_context(listening(mail))
        here = {
            "smtp.example.com:587": f"{mail.address}\n  smtp_require_tls: false",
            "global:": f"global:\n  pagerduty_url: {pager.url}/v2/enqueue",
        }
        secrets = {"pagerduty_routing_key": "0" * 32, "smtp_password": "correct horse"}
        alertmanager = stack.enter_context(running(Alertmanager(folder, monitoring, secrets, here | changes)))
        yield Watched(alertmanager, pager, mail)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for every test: each has a service of its own."""
    monitoring = generate(tmp_path_factory.mktemp("generated")).folder / "monitoring"
    with watched(tmp_path_factory.mktemp("alertmanager"), monitoring, {}) as yielded:
        yield yielded


def test_only_what_is_critical_in_production_reaches_the_pager(one: Watched) -> None:
    for environment in ("production", "staging", "local", "of-no-name"):
        one.tell(*(alert("HighErrorRate", "critical", service="routes", environment=environment),))
    one.tell(alert("HighLatency", "warning", service="routes"), alert("Watchdog", "info", service="routes"))
    subjects = [
        "CRITICAL: HighErrorRate, routes in production",
        "CRITICAL: HighErrorRate, routes in staging",
        "CRITICAL: HighErrorRate, routes in local",
        "CRITICAL: HighErrorRate, routes in of-no-name",
        "WARNING: HighLatency, routes in production",
    ]

    def all_arrived() -> bool:
        letters = [letter.subject.partition(": It is")[0] for letter in list(one.mail.letters)]
        return sorted(each for each in letters if " routes " in each) == sorted(subjects)

    eventually(all_arrived, "each is sent by mail, once, and information is not")
    pages = [page for page in one.paged() if page.startswith("routes ")]
    assert sorted(pages) == ["routes of-no-name HighErrorRate", "routes production HighErrorRate"]


@pytest.mark.parametrize("reason", ["ServiceDown", "TargetMissing"])
def test_an_outage_is_one_page(one: Watched, reason: str) -> None:
    service = f"outage-{reason.lower()}"
    one.tell(alert(reason, service=service))
    one.tell(*(alert(name, service=service) for name in (*FOLLOWS, "HealthCheckFailing")))
    one.tell(*(alert(name, "warning", service=service) for name in FOLLOWS))
    eventually(lambda: one.not_silenced(service) == [(reason, "critical", "page")], "only the reason is sent")
    eventually(lambda: f"{service} production {reason}" in one.paged(), "it pages")


def test_an_outage_silences_no_other_service_and_no_other_environment(one: Watched) -> None:
    one.tell(alert("ServiceDown", service="here"), alert("HighErrorRate", service="here"))
    one.tell(alert("HighErrorRate", service="there"), alert("HighErrorRate", service="here", environment="staging"))
    expected = [("HighErrorRate", "critical", "message"), ("ServiceDown", "critical", "page")]
    eventually(lambda: one.not_silenced("here") == expected, "staging is not silenced by production")
    assert one.not_silenced("there") == [("HighErrorRate", "critical", "page")]


@pytest.mark.parametrize("reason", ["RestartLoop", "WorkersDying"])
def test_processes_that_end_silence_the_requests_that_fail_with_them(one: Watched, reason: str) -> None:
    service = f"ending-{reason.lower()}"
    one.tell(alert(reason, service=service))
    one.tell(
        *(alert(name, service=service) for name in OF_REQUESTS), alert("TelemetryLoss", "warning", service=service)
    )
    expected = sorted([(reason, "critical", "page"), ("TelemetryLoss", "warning", "message")])
    eventually(lambda: one.not_silenced(service) == expected, "what follows is silenced, and nothing else")


def test_a_dependency_silences_the_requests_that_fail_without_it_and_nothing_else(one: Watched) -> None:
    one.tell(alert("HealthCheckFailing", service="broken", dependency="database"))
    one.tell(*(alert(name, service="broken") for name in OF_REQUESTS))
    one.tell(alert("RestartLoop", service="broken"), alert("SecurityEventSpike", "warning", service="broken"))
    one.tell(alert("HealthCheckFailing", "warning", service="slower", dependency="cache"))
    one.tell(alert("HighErrorRate", service="slower"))
    names = ["HealthCheckFailing", "RestartLoop", "SecurityEventSpike"]
    eventually(lambda: [name for name, _, _ in one.not_silenced("broken")] == names, "what follows is silenced")
    assert [name for name, _, _ in one.not_silenced("slower")] == ["HealthCheckFailing", "HighErrorRate"]


def test_slow_requests_explain_those_that_wait(one: Watched) -> None:
    one.tell(alert("RequestsWaiting", service="busy"), alert("SaturationHigh", "warning", service="busy"))
    eventually(lambda: one.not_silenced("busy") == [("RequestsWaiting", "critical", "page")], "waiting is a page")
    one.tell(alert("HighLatency", service="busy"))
    eventually(lambda: one.not_silenced("busy") == [("HighLatency", "critical", "page")], "unless it is explained")


def test_the_worse_of_one_name_is_enough(one: Watched) -> None:
    a_route = {"scope": "route", "method": "GET"}
    one.tell(
        alert("HighLatency", service="slow"), alert("HighLatency", "warning", service="slow", route="/a", **a_route)
    )
    for severity, dependency in (("critical", "database"), ("warning", "database"), ("warning", "cache")):
        one.tell(alert("HealthCheckFailing", severity, service="slow-2", dependency=dependency))
    eventually(lambda: one.not_silenced("slow") == [("HighLatency", "critical", "page")], "the warning is silenced")
    severities = [severity for _, severity, _ in one.not_silenced("slow-2")]
    assert severities == ["critical", "warning"], "another dependency is another matter"
    for severity, route in (("critical", "/a"), ("warning", "/a"), ("warning", "/b")):
        one.tell(alert("HighErrorRate", severity, service="slow-3", route=route, **a_route))
    severities = [severity for _, severity, _ in one.not_silenced("slow-3")]
    assert severities == ["critical", "warning"], "another route is another matter"
    one.tell(alert("HighErrorRate", service="slow-3"))
    whole = [("HighErrorRate", "critical", "page")]
    eventually(lambda: one.not_silenced("slow-3") == whole, "the service as a whole is enough")


def test_nothing_silences_the_alerts_about_the_watchers(one: Watched) -> None:
    for service in ("prometheus", "alertmanager"):
        alerts = [
            alert(name, severity, service=service)
            for name in ("ServiceDown", "TargetMissing", "NotificationsFailing", "AlertmanagerDown")
            for severity in ("critical", "warning")
        ]
        one.tell(*alerts)
        assert len(one.not_silenced(service)) == len(alerts)


def test_probes_that_are_missing_silence_nothing(one: Watched) -> None:
    one.tell(alert("TargetMissing", service="unasked", job="uptime"), alert("HighErrorRate", service="unasked"))
    names = [name for name, _, _ in one.not_silenced("unasked")]
    assert names == ["HighErrorRate", "TargetMissing"]


def of_teams(monitoring: dict[str, Path]) -> dict[str, Any]:
    """One configuration of several services', put together as docs/monitoring.md says."""
    whole: dict[str, Any] = {}
    for team, folder in monitoring.items():
        own = yaml.safe_load((folder / "alertmanager/alertmanager.yml").read_text())
        text = json.dumps([own["receivers"], own["route"]["routes"]])
        for each in own["receivers"]:
            text = text.replace(f'"name": "{each["name"]}"', f'"name": "{team}-{each["name"]}"')
            text = text.replace(f'"receiver": "{each["name"]}"', f'"receiver": "{team}-{each["name"]}"')
            for mail in each.get("email_configs", ()):
                text = text.replace(mail["to"], f"{team}@example.com")
        receivers, routes = json.loads(text)
        if not whole:
            whole = own | {"receivers": [], "route": own["route"] | {"receiver": f"{team}-page", "routes": []}}
        whole["receivers"] += receivers
        route = {"matchers": [f"team={json.dumps(team)}"], "receiver": f"{team}-page", "routes": routes}
        whole["route"]["routes"].append(route)
    return whole


def test_each_team_hears_of_its_own_service_alone(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Three services, three tiers, two environments, one Alertmanager: each is broken in turn."""
    tiers = {"billing": "small", "checkout": "medium", "search": "large"}
    made = {
        team: platform_of(generate(tmp_path_factory.mktemp(team), scale_tier=tier, team=team))
        for team, tier in tiers.items()
    }
    first = made["billing"]
    configuration = yaml.safe_dump(of_teams(made), sort_keys=False)
    (first / "alertmanager/alertmanager.yml").write_text(configuration)
    with watched(tmp_path, first, {}) as shared:
        for team in tiers:
            service = f"{team}-service"
            one_outage = [alert(name, service=service, team=team) for name in ("ServiceDown", *FOLLOWS)]
            elsewhere = alert("ServiceDown", service=service, team=team, environment="staging")
            shared.tell(*one_outage, elsewhere)

        def addressed() -> list[tuple[str, str]]:
            return sorted((letter.to, letter.subject.partition(": It")[0]) for letter in list(shared.mail.letters))

        expected = sorted(
            (f"{team}@example.com", f"CRITICAL: ServiceDown, {team}-service in {environment}")
            for team in tiers
            for environment in ("production", "staging")
        )
        eventually(lambda: addressed() == expected, "each team has one page and one message")
        assert sorted(shared.paged()) == [f"{team}-service production ServiceDown" for team in sorted(tiers)]
