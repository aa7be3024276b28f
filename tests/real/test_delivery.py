"""A service really breaks, and people are notified: once when it does, once when it has been mended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .processes import eventually
from .servers import running
from .service import Gunicorn, Service
from .stand_ins import Mail, MailServer, Webhook, listening
from .watchers import Alertmanager, Blackbox, Watcher

PASSWORD = "correct horse"  # noqa: S105 - made up
ALERT = "ServiceDown"
UP = 'up{job="proof-service"}'
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
DASHBOARD = "https://grafana.example.com/d/proof-service-service?var-environment=production"
RUNBOOK = "https://git.example.com/docs/runbooks/ServiceDown.md"


@dataclass(frozen=True)
class Notifications:
    """What each channel got of one alert."""

    pagerduty: dict[str, Any]
    slack: dict[str, Any]
    mail: Mail


@dataclass(frozen=True)
class Story:
    """What was seen of a service that hung for a while."""

    probes: dict[str, float]
    pages: list[str]
    """What PagerDuty was told of while the service hung."""
    firing: Notifications
    resolved: Notifications


class Channels:
    """Where notifications end: PagerDuty and Slack, each of a service that chose it, and the mail of both."""

    def __init__(self) -> None:
        self.webhook, self.mail = Webhook(), MailServer()

    def changes(self) -> dict[str, str]:
        """What a configuration needs to find the stand-ins; mail goes unencrypted, on this machine."""
        return {"smtp.example.com:587": f"{self.mail.address}\n  smtp_require_tls: false"}

    def pagerduty(self, folder: Path, monitoring: Path) -> Alertmanager:
        secrets = {"pagerduty_routing_key": ROUTING_KEY, "smtp_password": PASSWORD}
        changes = {"global:": f"global:\n  pagerduty_url: {self.webhook.url}/v2/enqueue"}
        return Alertmanager(folder, monitoring, secrets, self.changes() | changes)

    def slack(self, folder: Path, monitoring: Path) -> Alertmanager:
        secrets = {"slack_webhook_url": f"{self.webhook.url}/services/T0", "smtp_password": PASSWORD}
        return Alertmanager(folder, monitoring, secrets, self.changes())

    def open_pages(self) -> set[str]:
        """What PagerDuty was told of that is not over."""
        newest = {one.body["dedup_key"]: one.body for one in list(self.webhook.posted) if one.path == "/v2/enqueue"}
        return {key for key, body in newest.items() if body["event_action"] == "trigger"}

    def received(self, alert: str, *, resolved: bool) -> Notifications | None:
        """Return the newest of each channel once all have it."""
        word = "RESOLVED" if resolved else "CRITICAL"
        posted = list(self.webhook.posted)
        pagerduty = [one.body for one in posted if one.path == "/v2/enqueue" and one.body["payload"]["class"] == alert]
        slack = [one.body for one in posted if one.path == "/services/T0"]
        mails = [mail for mail in list(self.mail.letters) if mail.subject.startswith(f"{word}: {alert}")]
        pagerduty = [body for body in pagerduty if body["event_action"] == ("resolve" if resolved else "trigger")]
        slack = [body for body in slack if body["attachments"][0]["title"].startswith(f"{word}: {alert}")]
        return Notifications(pagerduty[-1], slack[-1], mails[-1]) if pagerduty and slack and mails else None


def addresses(
    service: Gunicorn, blackbox: Blackbox, alertmanagers: Sequence[Alertmanager]
) -> dict[str, dict[str, str]]:
    """What the service's own Prometheus needs to find them on this machine, as production, and links that lead on."""
    production = {"environment: local": "environment: production"}
    return {
        "prometheus.yml": {
            "alertmanager:9093": ", ".join(f"127.0.0.1:{each.port}" for each in alertmanagers),
            "blackbox:9115": f"127.0.0.1:{blackbox.port}",
            "grafana_url: ${GRAFANA_URL}": "grafana_url: https://grafana.example.com",
            "runbooks_url: docs/runbooks": "runbooks_url: https://git.example.com/docs/runbooks",
            "environment: &environment local": "environment: &environment production",
        },
        "rules/environments.yml": production,
        "targets/service.yml": {"service:9464": f"127.0.0.1:{service.metrics_port}"} | production,
        "targets/uptime.yml": {"http://service:8000": f"http://127.0.0.1:{service.port}"} | production,
    }


@pytest.fixture(scope="module")
def story(small: Service, variant: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Run a service, watch it, let it hang, mend it; keep what everybody saw and received."""
    monitoring = small.folder / "monitoring"
    made = tmp_path_factory.mktemp

    with ExitStack() as stack:
        channels = Channels()
        stack.enter_context(listening(channels.webhook))
        stack.enter_context(listening(channels.mail))
        alertmanagers = [
            channels.pagerduty(made("pagerduty"), monitoring),
            channels.slack(made("slack"), variant(paging="slack").folder / "monitoring"),
        ]
        blackbox = Blackbox(made("blackbox"), monitoring)
        for server in (*alertmanagers, blackbox):
            stack.enter_context(running(server))
        service = stack.enter_context(small.serving())
        changes = addresses(service, blackbox, alertmanagers)
        watcher = stack.enter_context(running(Watcher(made("prometheus"), monitoring, changes, hurry=True)))

        def probed(value: int) -> Callable[[], bool]:
            return lambda: watcher.value('probe_success{job="uptime"}') == value

        def received(*, resolved: bool) -> Notifications:
            what = f"all channels report that {ALERT} {'is over' if resolved else 'fires'}"
            found = eventually(lambda: channels.received(ALERT, resolved=resolved), what, 60)
            assert found
            return found

        probes = {}
        eventually(probed(1), "the exporter sees the service")
        probes["well"] = watcher.value("probe_http_status_code")
        eventually(lambda: watcher.value(UP) == 1, "Prometheus sees the service")
        assert not channels.received(ALERT, resolved=False), "a healthy service notified somebody"
        # In a hurry everything is missing before it was first scraped.
        eventually(lambda: not watcher.query(f'ALERTS{{service="{small.slug}"}}'), "no alert is near")
        eventually(lambda: channels.open_pages() == set(), "none is open")
        before = len(channels.webhook.posted)
        service.program.freeze()
        try:
            eventually(probed(0), "the exporter misses the service")
            probes["hung"] = watcher.value("probe_http_status_code")
            firing = received(resolved=False)
            eventually(
                lambda: watcher.query('ALERTS{alertname="EndpointDown", alertstate="firing"}'), "users notice too"
            )
            pages = [
                one.body["payload"]["class"] for one in channels.webhook.posted[before:] if one.path == "/v2/enqueue"
            ]
        finally:
            service.program.thaw()
        eventually(probed(1), "the exporter sees the service again")
        probes["mended"] = watcher.value("probe_http_status_code")
        resolved = received(resolved=True)
        yield Story(probes, pages, firing, resolved)


def test_the_blackbox_exporter_sees_the_service_go_and_come_back(story: Story) -> None:
    assert story.probes == {"well": 200, "hung": 0, "mended": 200}


def test_an_outage_is_one_page(story: Story) -> None:
    """EndpointDown fires as well, and follows from it."""
    assert story.pages == ["ServiceDown"]


def assert_says_it_all(text: str) -> None:
    """What is broken, for whom, how badly, since when, where to look first."""
    assert "proof-service is down" in text
    assert "No instance of proof-service in production answers Prometheus" in text
    assert "Users get errors, or no answer." in text
    assert "Look first at" in text
    assert re.search(r"\b20\d\d-\d\d-\d\d \d\d:\d\d\b.* UTC", text)
    assert DASHBOARD in text
    assert RUNBOOK in text


def test_the_stand_in_for_pagerduty_hears_what_is_broken_how_badly_since_when_and_where_to_look(story: Story) -> None:
    event = story.firing.pagerduty
    assert (event["routing_key"], event["event_action"]) == (ROUTING_KEY, "trigger")
    payload = event["payload"]
    headline = "CRITICAL: ServiceDown, proof-service in production: proof-service is down"
    assert payload["summary"] == headline
    assert (payload["severity"], payload["source"], payload["group"]) == ("critical", "proof-service", "production")
    assert_says_it_all(payload["custom_details"]["firing"])
    links = [(link["text"], link["href"]) for link in event["links"]]
    assert links == [("Dashboard", DASHBOARD), ("Runbook", RUNBOOK)]


def test_the_stand_in_for_slack_hears_what_is_broken_how_badly_since_when_and_where_to_look(story: Story) -> None:
    attachment = story.firing.slack["attachments"][0]
    assert attachment["title"] == "CRITICAL: ServiceDown, proof-service in production"
    assert attachment["color"] == "danger"
    assert attachment["pretext"] == "<!channel>"
    assert_says_it_all(attachment["text"])
    assert f"<{DASHBOARD}|Dashboard> · <{RUNBOOK}|Runbook>" in attachment["text"]


def test_the_stand_in_for_mail_hears_what_is_broken_how_badly_since_when_and_where_to_look(story: Story) -> None:
    mail = story.firing.mail
    assert mail.password == PASSWORD
    assert mail.to == "on-call@example.com"
    assert mail.subject == "CRITICAL: ServiceDown, proof-service in production: proof-service is down"
    assert_says_it_all(mail.text)
    assert_says_it_all(mail.html)
    assert f'<a href="{RUNBOOK}">Runbook</a>' in mail.html


def test_every_stand_in_hears_that_the_service_was_mended(story: Story) -> None:
    resolved = story.resolved
    assert resolved.pagerduty["dedup_key"] == story.firing.pagerduty["dedup_key"]
    assert resolved.slack["attachments"][0]["color"] == "good"
    period = r"From 20\d\d-\d\d-\d\d \d\d:\d\d to \d\d:\d\d UTC"
    details = resolved.pagerduty["payload"]["custom_details"]
    for text in (details["resolved"], resolved.slack["attachments"][0]["text"], resolved.mail.text, resolved.mail.html):
        assert re.search(period, text), text
        assert "proof-service is down" in text


def test_no_label_that_only_carries_an_address_reaches_people(story: Story) -> None:
    assert "grafana_url" not in json.dumps([story.firing.pagerduty, story.firing.slack])
