"""The rules of a service, held by Prometheus itself: its checks, its unit tests, and a running server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_names import LONGEST_SLUG, NAMES, quoted

from .processes import eventually, run
from .programs import program
from .servers import Prometheus, running
from .service import Gunicorn, Service, generate
from .watchers import Blackbox, Watcher

TIERS = ("small", "medium", "large")
PROMTOOLS = ("promtool", "promtool-3")


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a service that is generated and not installed."""

    def made(**answers: str) -> Path:
        service = generate(tmp_path_factory.mktemp("rules"), **answers)
        return service.folder.parent / answers.get("project_slug", service.slug)

    return made


def _passes(*command: str | Path) -> None:
    done = run(command, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr


def _all_pass(promtool: Path, service: Path) -> None:
    """Check the configuration and the rules, and run the unit tests, as the owner would."""
    folders = [
        folder for folder in (service / "monitoring/prometheus", service / "platform/prometheus") if folder.exists()
    ]
    rules = sorted(
        file for folder in folders for kind in ("rules", "watchers") for file in folder.glob(f"{kind}/*.yml")
    )
    tests = sorted(file for folder in folders for file in folder.rglob("tests/*_test.yml"))
    assert len(tests) > len(rules) > 8
    _passes(promtool, "check", "config", folders[-1] / "prometheus.yml")
    _passes(promtool, "check", "rules", "--lint-fatal", *rules)
    _passes(promtool, "test", "rules", *tests)


@pytest.mark.parametrize("tier", TIERS)
def test_both_major_versions_accept_the_rules_and_pass_their_tests(generated: Callable[..., Path], tier: str) -> None:
    service = generated(scale_tier=tier)
    for name in PROMTOOLS:
        _all_pass(program(name), service)


def test_the_job_for_kubernetes_is_accepted(generated: Callable[..., Path]) -> None:
    """By the current version: Debian's is built without Kubernetes."""
    _passes(program("promtool-3"), "check", "config", generated() / "monitoring/prometheus/kubernetes.yml")


def test_rules_hold_for_the_longest_slug_and_a_hostile_team(generated: Callable[..., Path]) -> None:
    team = NAMES["interpolations"] + NAMES["braces"] + NAMES["all quotes"] + NAMES["a closing backslash"]
    folder = generated(team=team, project_name=team, project_slug=LONGEST_SLUG)
    for name in PROMTOOLS:
        _all_pass(program(name), folder)


def test_prometheus_tells_any_team_by_its_name(tmp_path: Path) -> None:
    """Every name as a team's label, through the templates that Prometheus makes of labels."""
    alert = "alert: A{number}\n        expr: vector(1)\n        labels:\n          team: {team}"
    rules = [
        alert.format(number=number, team=quoted("go_template", name)) for number, name in enumerate(NAMES.values())
    ]
    text = "groups:\n  - name: teams\n    rules:\n" + "".join(f"      - {rule}\n" for rule in rules)
    (tmp_path / "rules.yml").write_text(text, encoding="utf-8")
    expected = [
        {"eval_time": "1m", "alertname": f"A{number}", "exp_alerts": [{"exp_labels": {"team": name}}]}
        for number, name in enumerate(NAMES.values())
    ]
    case = {"interval": "1m", "input_series": [], "alert_rule_test": expected}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    for name in PROMTOOLS:
        _passes(program(name), "test", "rules", tmp_path / "test.yml")


SLOW_BY_DESIGN = """
rule_files: [../rules/latency.yml]
evaluation_interval: 15s
tests:
  - name: long polling
    interval: 15s
    input_series:
{series}
    promql_expr_test:
      - expr: count(count_over_time(ALERTS{{alertstate="firing"}}[20m]))
        eval_time: 20m
        exp_samples: {expected}
"""


def test_a_route_that_is_slow_by_design_is_left_out_as_the_page_says(generated: Callable[..., Path]) -> None:
    service = generated()
    rules = service / "monitoring/prometheus/rules/latency.yml"
    labels = f'route="/events", method="GET", job="{service.name}", service="{service.name}", environment="e"'
    series = "\n".join(
        f"      - series: 'http_request_duration_seconds_bucket{{le=\"{edge}\", {labels}}}'\n"
        f"        values: 0+{count}x80"
        for edge, count in {"1.0": 0, "5.0": 0, "10.0": 9, "+Inf": 9}.items()
    )
    case = rules.parent.parent / "tests/events_test.yml"
    case.write_text(SLOW_BY_DESIGN.format(series=series, expected="[{value: 1}]"), encoding="utf-8")
    _passes(program("promtool"), "test", "rules", case)

    told = re.findall(r"`(route!~\"[^`]+)`", (service / "docs/monitoring.md").read_text(encoding="utf-8"))
    selector = f'http_request_duration_seconds_bucket{{service="{service.name}"'
    before = rules.read_text(encoding="utf-8")
    assert told
    assert before.count(selector) == 2
    rules.write_text(before.replace(selector, f"{selector}, {told[0]}"), encoding="utf-8")
    case.write_text(SLOW_BY_DESIGN.format(series=series, expected="[]"), encoding="utf-8")
    _passes(program("promtool"), "test", "rules", case)


# --- against a running service ---------------------------------------------------------------------------------------


@contextmanager
def _watched(service: Gunicorn, folder: Path) -> Iterator[Watcher]:
    """Run a Prometheus with the rules as they are, and the exporter that asks from outside."""
    monitoring = service.service.folder / "monitoring"
    with running(Blackbox(folder, monitoring)) as blackbox:
        here = {
            "prometheus.yml": {"blackbox:9115": f"127.0.0.1:{blackbox.port}"},
            "targets/service.yml": {"service:9464": f"127.0.0.1:{service.metrics_port}"},
            "targets/uptime.yml": {"service:8000": f"127.0.0.1:{service.port}"},
        }
        with running(Watcher(folder, monitoring, here)) as prometheus:
            yield prometheus


def _rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    """Return every rule as Prometheus sees it."""
    return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]


def _evaluated(prometheus: Prometheus) -> bool:
    return all(not rule["lastEvaluation"].startswith("0001") for rule in _rules(prometheus))


def _healthy(prometheus: Prometheus) -> None:
    unhealthy = [rule for rule in _rules(prometheus) if rule["health"] != "ok"]
    assert not unhealthy, json.dumps(unhealthy, indent=1)


def _empty(prometheus: Prometheus) -> set[str]:
    """Return the recordings without a series, but for those of failures and those that wait for a minute."""
    recorded = {rule["name"] for rule in _rules(prometheus) if rule["type"] == "recording"}
    later = {name for name in recorded if name.endswith((":increase15m", "30m", "6h", "_failed:ratio_rate1m"))}
    later |= {"integration:notifications_lost:ratio15m", "service:instances_in_loop:ratio"}
    return {name for name in recorded - later if not prometheus.query(name)}


def _pending(prometheus: Prometheus) -> set[str]:
    """Return the alerts about the service: no Alertmanager runs here."""
    return {labels["alertname"] for labels, _ in prometheus.query('ALERTS{service!~"prometheus|alertmanager"}')}


def test_every_rule_is_healthy_and_the_alerts_follow_what_the_service_does(small: Service, tmp_path: Path) -> None:
    with small.serving() as service, _watched(service, tmp_path) as prometheus:
        assert service.order(amount="-1").status == 400

        def traffic_is_recorded() -> bool:
            assert service.order().status == 201
            return prometheus.value("service:http_requests:rate5m * 300") > 30

        eventually(traffic_is_recorded, "traffic is recorded", 60)
        eventually(lambda: _evaluated(prometheus), "every rule was evaluated")
        _healthy(prometheus)
        eventually(lambda: not _empty(prometheus), "every recording has a series")
        ((labels, ratio),) = prometheus.query("service:http_requests_failed:ratio_rate5m")
        assert (labels["service"], labels["environment"], ratio) == (small.slug, "local", 0)
        for metric in ("prometheus_notifications_dropped_total", "prometheus_rule_evaluation_failures_total"):
            assert prometheus.query(metric), metric
        # Rules are first evaluated before anything was scraped: then everything is missing.
        eventually(lambda: not _pending(prometheus), "no alert is near")

        def failures_are_noticed() -> bool:
            assert service.get("/stage/status/500").status == 500
            return _pending(prometheus) - {"ErrorBudgetBurn"} == {"HighErrorRate"}

        eventually(failures_are_noticed, "the failures are noticed")
        service.program.stop()
        eventually(lambda: "ServiceDown" in _pending(prometheus), "the end is noticed")
        _healthy(prometheus)
