"""What Alertmanager's own tool makes of the configuration and of the texts that people get."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from .processes import run
from .programs import program
from .service import generate

PAGING = ("pagerduty", "slack")
AMTOOLS = ("amtool", "amtool-current")
HOSTILE = 'Käse & "Wein" {{ .x }} <!channel> ${HOME} %n \'; </p> 👩‍👩‍👧'

Monitoring = Callable[..., Path]


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Monitoring:
    """Returns the monitoring folder of a service with these answers."""

    @cache
    def made(**answers: str) -> Path:
        return generate(tmp_path_factory.mktemp("monitoring"), **answers).folder / "monitoring"

    return made


def amtool(*arguments: str | Path, tool: str = "amtool") -> str:
    """Run it and return what it said."""
    done = run([program(tool), *arguments], seconds=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("tool", AMTOOLS)
@pytest.mark.parametrize("paging", PAGING)
def test_an_older_and_a_current_alertmanager_accept_the_configuration(
    monitoring: Monitoring, paging: str, tool: str
) -> None:
    said = amtool("check-config", monitoring(paging=paging) / "alertmanager/alertmanager.yml", tool=tool)
    assert "FAILED" not in said
    assert "1 templates" in said


@pytest.mark.parametrize("tool", AMTOOLS)
@pytest.mark.parametrize("paging", PAGING)
def test_what_is_critical_in_production_pages_and_nothing_is_lost(
    monitoring: Monitoring, paging: str, tool: str
) -> None:
    configuration = monitoring(paging=paging) / "alertmanager/alertmanager.yml"
    for labels, receiver in {
        ("severity=critical", "environment=production"): "page",
        ("severity=warning", "environment=production"): "message",
        ("severity=critical", "environment=staging"): "message",
        ("severity=critical", "environment=unheard-of"): "page",
        ("severity=warning", "environment=unheard-of"): "page",
        ("alertname=WithoutSeverity", "environment=production"): "message",
        ("alertname=WithoutEnvironment", "severity=critical"): "page",
        ("severity=info", "environment=production"): "nobody",
    }.items():
        said = amtool("config", "routes", "test", f"--config.file={configuration}", *labels, tool=tool)
        assert said.split() == [receiver], labels


def an_alert(name: str, *, status: str = "firing", runbook: str = "https://example.com/r.md") -> dict[str, Any]:
    """An alert of a label and a team that hold what every format treats in its own way."""
    return {
        "status": status,
        "labels": {"alertname": "HighLatency", "severity": "critical", "team": HOSTILE},
        "annotations": {
            "summary": f"{name} is slow",
            "description": f"1 in 20 requests to {name} takes 2.31 s & more",
            "dashboard_url": "https://grafana.example.com/d/x",
            "runbook_url": runbook,
        },
        "startsAt": "2026-01-31T09:26:53Z",
        "endsAt": "2026-01-31T10:00:00Z" if status == "resolved" else "0001-01-01T00:00:00Z",
    }


def rendered(
    monitoring: Path, template: str, *alerts: dict[str, Any], kind: str = "text", receiver: str = "page"
) -> str:
    """Return what a template makes of a group of alerts."""
    common = {
        name: value
        for name, value in alerts[0]["annotations"].items()
        if all(alert["annotations"][name] == value for alert in alerts)
    }
    data = {
        "receiver": receiver,
        "status": "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved",
        "alerts": alerts,
        "groupLabels": {
            "alertname": "HighLatency", "service": "proof-service", "environment": "live", "severity": "critical",
        },
        "commonLabels": {"team": HOSTILE},
        "commonAnnotations": common,
    }  # fmt: skip
    file = monitoring / "data.json"
    file.write_text(json.dumps(data))
    return amtool(
        "template",
        "render",
        f"--template.glob={monitoring}/alertmanager/templates/*.tmpl",
        f'--template.text={{{{ template "{template}" . }}}}',
        f"--template.data={file}",
        f"--template.type={kind}",
    )


def test_a_headline_is_one_line_that_says_what_where_and_how_many(monitoring: Monitoring) -> None:
    one, other = an_alert("route <unmatched>"), an_alert("route /api")
    folder = monitoring()
    where = "CRITICAL: HighLatency, proof-service in live"
    assert rendered(folder, "alert.title", one) == where
    assert rendered(folder, "alert.headline", one) == f"{where}: route <unmatched> is slow"
    assert rendered(folder, "alert.headline", one, other) == f"{where}: route <unmatched> is slow, and more"
    over = an_alert("route /api", status="resolved")
    assert rendered(folder, "alert.headline", over).startswith("RESOLVED: HighLatency, proof-service in live")


def test_a_message_lists_all_that_fires_and_apart_what_is_over(monitoring: Monitoring) -> None:
    alerts = (an_alert("/a"), an_alert("/b"), an_alert("/c", status="resolved"))
    folder = monitoring(paging="slack")
    for template, kind in {"slack.text": "text", "email.text": "text", "email.html": "html"}.items():
        text = rendered(folder, template, *alerts, kind=kind)
        before, over, after = re.split("(No longer so:)", text)
        assert over
        assert before.count("Since 2026-01-31 09:26 UTC") == 2
        assert "/a is slow" in before
        assert "/b is slow" in before
        assert "/c" not in before
        assert "From 2026-01-31 09:26 to 10:00 UTC" in after
        assert not re.search(r"\n{4}", text)


def test_no_label_can_call_a_slack_channel_or_break_a_link(monitoring: Monitoring) -> None:
    text = rendered(monitoring(paging="slack"), "slack.text", an_alert("<!channel> <unmatched> &"))
    assert "*&lt;!channel&gt; &lt;unmatched&gt; &amp; is slow*" in text
    assert re.findall("<[^>]*>", text) == [
        "<https://grafana.example.com/d/x|Dashboard>",
        "<https://example.com/r.md|Runbook>",
    ]


def test_a_page_calls_whoever_is_in_the_slack_channel_and_a_message_nobody(monitoring: Monitoring) -> None:
    folder = monitoring(paging="slack")
    assert rendered(folder, "slack.mention", an_alert("/a")) == "<!channel>"
    assert rendered(folder, "slack.mention", an_alert("/a", status="resolved")) == ""
    assert rendered(folder, "slack.mention", an_alert("/a"), receiver="message") == ""


class Elements(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.opened.append(tag)


def test_no_label_can_put_an_element_into_a_mail(monitoring: Monitoring) -> None:
    plain, hostile = Elements(), Elements()
    plain.feed(rendered(monitoring(), "email.html", an_alert("/a"), kind="html"))
    hostile.feed(rendered(monitoring(), "email.html", an_alert("<img src=x> </p><script>"), kind="html"))
    assert plain.opened == hostile.opened
    assert {"h2", "p", "a"} <= set(plain.opened)


def test_what_is_no_address_is_no_link(monitoring: Monitoring) -> None:
    """A runbook's default is a path in the repository: PagerDuty refuses an event with such a link."""
    alert = an_alert("/a", runbook="docs/runbooks/HighLatency.md")
    assert rendered(monitoring(), "pagerduty.runbook", alert) == ""
    assert rendered(monitoring(), "pagerduty.dashboard", alert) == "https://grafana.example.com/d/x"
    assert "Runbook: docs/runbooks/HighLatency.md" in rendered(monitoring(paging="slack"), "slack.text", alert)
    assert "Runbook: docs/runbooks/HighLatency.md" in rendered(monitoring(), "email.html", alert, kind="html")
