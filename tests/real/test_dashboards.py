"""Dashboards: every query of every panel has an answer, on a quiet day and on a bad one."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from . import servers
from .load import order_body, send, under_load
from .processes import eventually, free_port, run
from .programs import built, program
from .servers import running
from .service import Gunicorn, Scrape, Service, request
from .stand_ins import self_signed, website
from .watchers import Alertmanager, Blackbox

HERE = Path(__file__).parent
CHOSEN = {"environment": "staging", "instance": ".*", "route": ".*"}
"""What the variables hold when somebody opens a dashboard."""

ALARM = {
    "alert": "HighErrorRate",
    "expr": 'sum by (service, environment) (http_request_duration_seconds_count{status="500"}) > 0',
    "labels": {"severity": "critical", "team": "platform"},
}
"""The real one waits for two minutes."""


class Asked(NamedTuple):
    """A query as Grafana would send it, and where it stands."""

    where: str
    path: str
    parameters: dict[str, str]


def dashboards(service: Service) -> dict[str, dict[str, Any]]:
    """Return every dashboard of a service, by the name of its file."""
    folder = service.folder / "monitoring/grafana/dashboards"
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def filled(text: str, **chosen: str) -> str:
    """Put values in the place of Grafana's variables; one that is not known is an error."""
    values = CHOSEN | {"__rate_interval": "5s", "__rate_interval_ms": "5000"} | chosen
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], text)


def queries(service: Service, **chosen: str) -> Iterator[Asked]:
    """Every query of every panel, annotation and variable."""

    def of_a_span(where: str, text: str) -> Asked:
        now = time.time()
        span = {"start": str(now - 10), "end": str(now), "step": "1"}
        return Asked(where, "query_range", {"query": filled(text, **chosen)} | span)

    for name, dashboard in dashboards(service).items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                where = f"{name}: {panel['title']} {target['refId']}"
                if target.get("instant"):
                    yield Asked(where, "query", {"query": filled(target["expr"], **chosen)})
                else:
                    yield of_a_span(where, target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            yield of_a_span(f"{name}: annotation {annotation['name']}", annotation["expr"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert asked, variable
                where = f"{name}: variable {variable['name']}"
                yield Asked(where, f"label/{asked[2]}/values", {"match[]": filled(asked[1], **chosen)})


class Shown(NamedTuple):
    """What a panel shows: of each series its name and its last value."""

    values: dict[str, float]

    @property
    def total(self) -> float:
        """The sum over all series."""
        return sum(self.values.values())


def shown(prometheus: servers.Prometheus, service: Service, **chosen: str) -> dict[str, Shown]:
    """Ask every query, and return what has an answer; what is no number is none."""
    found = {}
    for where, path, parameters in queries(service, **chosen):
        data = prometheus.ask(path, **parameters)
        if path.startswith("label/"):
            values = dict.fromkeys(data, 1.0)
        else:
            values = {
                " ".join(label for name, label in sorted(series["metric"].items())): number
                for series in data["result"]
                for _, text in series.get("values", [series.get("value")])
                if math.isfinite(number := float(text))
            }
        if values:
            found[where] = Shown(values)
    return found


def _empty(prometheus: servers.Prometheus, service: Service) -> list[str]:
    answered = shown(prometheus, service)
    return [asked.where for asked in queries(service) if asked.where not in answered]


def _bad_day(number: int) -> tuple[str, str, bytes | None]:
    """Good requests, and each of the bad ones that a panel shows."""
    return (
        ("POST", "/api/v1/orders", order_body(source=("web", "mobile", "partner")[number % 3])),
        ("GET", "/api/v1/orders/1", None),
        ("POST", "/api/v1/orders", order_body(amount="-1")),
        ("GET", f"/nowhere/{number}", None),
        ("GET", "/stage/boom", None),
        ("GET", "/stage/status/401", None),
        ("GET", "/stage/status/429", None),
        ("GET", "/stage/slow/0.2", None),
    )[number % 8]


@contextmanager
def watched(service: Service, folder: Path) -> Iterator[tuple[Gunicorn, servers.Prometheus]]:
    """Run a service and a Prometheus that knows it by two names, as if it were two pods."""
    with service.serving(SENTRY_DSN=f"http://key@127.0.0.1:{free_port()}/1") as running:
        port = running.metrics_port
        labels = {"service": service.slug, "environment": "staging"}
        targets = [{"targets": [f"127.0.0.1:{port}", f"localhost:{port}"], "labels": labels}]
        settings: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": service.slug, "static_configs": targets}],
            "rule_files": [str(path) for path in _rules(service, folder)],
        }
        with servers.prometheus(service.slug, "", **settings) as prometheus:
            yield running, prometheus


def _rules(service: Service, folder: Path) -> Iterator[Path]:
    """The service's rules, evaluated every second, and an alert that does not wait."""
    files = {"alarm.yml": {"groups": [{"name": "alarm", "rules": [ALARM]}]}}
    for path in (service.folder / "monitoring/prometheus/rules").glob("*.yml"):
        files[path.name] = yaml.safe_load(path.read_text())
    for name, content in files.items():
        for group in content["groups"]:
            group["interval"] = "1s"
        (folder / name).write_text(yaml.safe_dump(content))
        yield folder / name


def test_every_panel_has_data_on_a_quiet_day_and_on_a_bad_one(small: Service, tmp_path: Path) -> None:
    with watched(small, tmp_path) as (service, prometheus):

        def complete() -> bool:
            assert not (empty := _empty(prometheus, small)), empty
            return True

        with under_load(service, step=lambda _: ("GET", "/", None), clients=1, pause=0.05):
            eventually(complete, "every panel has data while nothing happens", 40)
            _quiet(shown(prometheus, small))
        send(service, 16, step=_bad_day)
        with under_load(service, step=_bad_day, clients=4, pause=0.01):
            eventually(lambda: _bad(shown(prometheus, small)), "the panels show what happens", 40)
            assert not _empty(prometheus, small)
            _one_instance(prometheus, small, service)


def _quiet(panels: dict[str, Shown]) -> None:
    """Nothing is wrong, and the panels say so: with a zero, not with a gap."""
    for title in (
        "Failed requests, 5 min",
        "Failed requests",
        "Firing alerts",
        "Security events",
        "Refused requests",
        "Errors and warnings logged",
        "Telemetry lost",
    ):
        assert panels[f"service.json: {title} A"].total == 0, title
    for title in ("Instances that answer", "Availability, 24 h", "Error budget left, 24 h"):
        assert panels[f"service.json: {title} A"].values == {"": 1}, title
    assert panels["service.json: Firing alerts A"].values == {"no alert": 0}
    assert panels["orders.json: Orders, 24 h A"].values == {"": 0}


def _bad(panels: dict[str, Shown]) -> bool:
    """Each panel shows what it is for."""
    of = {where.removeprefix("service.json: ").removesuffix(" A"): each for where, each in panels.items()}
    assert 0.05 < of["Failed requests, 5 min"].total < 0.2
    assert 0.8 < of["Availability, 24 h"].total < 0.95
    assert of["Error budget left, 24 h"].total < 0
    assert of["Failed requests"].values["GET /stage/boom"] == 1
    assert of["Failed requests"].values["POST /api/v1/orders"] == 0
    assert 0.2 < of["Latency p95 by route"].values["GET /stage/slow/<float:seconds>"] < 1
    assert {"500", "401", "429", "404", "201"} <= of["Answers by status"].values.keys()
    assert of["Firing alerts"].values["HighErrorRate critical"] == 1
    for event in ("authn_login_fail", "excess_rate_limit_exceeded", "input_validation_fail"):
        assert of["Security events"].values[event] > 0
    assert of["Refused requests"].values["GET /stage/status/<int:code> 401"] > 0
    assert of["Errors and warnings logged"].values["ERROR"] > 0
    assert of["Telemetry lost"].total > 0
    assert of["orders.json: Orders"].values.keys() == {"web", "mobile", "partner"}
    assert of["orders.json: Value, 24 h"].values["EUR"] > of["orders.json: Orders, 24 h"].total > 0
    assert of["orders.json: Refused orders, 24 h"].total > 0
    assert of["orders.json: Look-ups"].values["200"] > 0
    return True


def _one_instance(prometheus: servers.Prometheus, small: Service, service: Gunicorn) -> None:
    """Whoever chooses one of several pods sees that one alone."""
    name = f"localhost:{service.metrics_port}"
    every, one = shown(prometheus, small), shown(prometheus, small, instance=name)
    capacity = "service.json: Requests in progress B"
    assert every[capacity].total == 2 * one[capacity].total
    cpu = "service.json: CPU A"
    assert len(every[cpu].values) == 2
    assert one[cpu].values.keys() == {name}
    assert prometheus.ask("label/instance/values") == sorted(every[cpu].values)


@pytest.mark.parametrize("tier", ["small", "medium", "large"])
def test_grafana_knows_every_field_of_a_dashboard(tier: str, small: Service, variant: Callable[..., Service]) -> None:
    """Decoded by Grafana's own types: what is missing, unknown or of another type is an error."""
    service = small if tier == "small" else variant(scale_tier=tier)
    files = sorted(service.folder.glob("*/grafana/dashboards/*.json"))
    assert files
    done = run([built(HERE / "grafana_schema"), *files])
    assert done.returncode == 0, done.stdout


def test_a_field_that_grafana_does_not_know_is_found(small: Service, tmp_path: Path) -> None:
    dashboard = dashboards(small)["service.json"]
    dashboard["panels"][1]["options"]["colourMode"] = dashboard["panels"][1]["options"].pop("colorMode")
    dashboard["panels"][2]["fieldConfig"]["defaults"]["decimals"] = "2"
    (tmp_path / "wrong.json").write_text(json.dumps(dashboard))
    done = run([built(HERE / "grafana_schema"), tmp_path / "wrong.json"])
    assert done.returncode == 1
    assert "unexpected field 'colourMode'" in done.stdout
    assert "FieldConfig.defaults.decimals" in done.stdout


@pytest.mark.parametrize("promtool", ["promtool", "promtool-3"])
def test_both_major_versions_of_prometheus_read_every_query(small: Service, tmp_path: Path, promtool: str) -> None:
    """As the expressions of recording rules, which promtool parses and types."""
    asked = [each.parameters["query"] for each in queries(small) if "query" in each.parameters]
    rules = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(asked)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = run([program(promtool), "check", "rules", tmp_path / "queries.yml"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout


@pytest.fixture
def alertmanager(small: Service, tmp_path: Path) -> Iterator[Alertmanager]:
    """One that cannot deliver: it has no secrets, and nobody takes its mail."""
    nowhere = {
        "smtp.example.com:587": f"127.0.0.1:{free_port()}",
        "global:": f"global:\n  pagerduty_url: http://127.0.0.1:{free_port()}",
    }
    with running(Alertmanager(tmp_path, small.folder / "monitoring", {}, nowhere)) as server:
        yield server


def _scrape(server: servers.Server, path: str = "/metrics") -> Scrape:
    return Scrape(request(server.port, path).text)


def _differs(listed: dict[str, list[str]], scrape: Scrape) -> list[str]:
    """Return what a list has and a scrape has not, names and labels."""
    made = {name: {label for labels in series for label, _ in labels} for name, series in scrape.series.items()}
    return [name for name, labels in listed.items() if name not in made or not set(labels) <= made[name]]


def test_the_lists_of_metrics_are_what_the_exporters_make(
    small: Service, tmp_path: Path, alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rules may name of Prometheus, Alertmanager and the blackbox exporter, they really have."""
    lists = small.folder / "monitoring/prometheus/exporters"
    listed = {path.stem: yaml.safe_load(path.read_text()) for path in lists.glob("*.yml")}
    assert listed.keys() == {"prometheus", "alertmanager", "blackbox"}
    alarm = ALARM | {"expr": "up", "labels": {"severity": "critical", "team": "platform", "scope": "route"}}
    (tmp_path / "alarm.yml").write_text(json.dumps({"groups": [{"name": "alarm", "interval": "1s", "rules": [alarm]}]}))
    settings = {
        "rule_files": [str(tmp_path / "alarm.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]}]},
    }
    trusted = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with (
        website(trusted) as address,
        running(Blackbox(tmp_path, small.folder / "monitoring")) as blackbox,
        servers.prometheus("watchers", f"127.0.0.1:{alertmanager.port}", **settings) as prometheus,
    ):

        def of_prometheus() -> bool:
            own = _scrape(prometheus)
            for one in ("up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added",
                        "scrape_samples_post_metric_relabeling", "ALERTS", "ALERTS_FOR_STATE"):  # fmt: skip
                own.series[one] = {frozenset(labels.items()): value for labels, value in prometheus.query(one)}
                assert own.series[one], one
            assert not (wrong := _differs(listed["prometheus"], own)), wrong
            return True

        def of_alertmanager() -> bool:
            assert not (wrong := _differs(listed["alertmanager"], _scrape(alertmanager))), wrong
            return True

        def of_blackbox() -> bool:
            probe = _scrape(blackbox, f"/probe?module=http_2xx&target={address}/200")
            assert not (wrong := _differs(listed["blackbox"], probe)), wrong
            return True

        eventually(of_prometheus, "Prometheus makes all that its list says")
        eventually(of_alertmanager, "Alertmanager makes all that its list says")
        eventually(of_blackbox, "the blackbox exporter makes all that its list says")


def _own_tests(service: Service) -> tuple[int, str]:
    """Run what a service itself promises of its dashboards and of the names in them."""
    tests = [f"tests/monitoring/{name}.py" for name in ("test_contract", "test_dashboards")]
    # The processes that they start look here before they look at what is installed.
    (service.folder / service.package).symlink_to(service.folder / "src" / service.package)
    done = run(
        [service.tool("python"), "-m", "pytest", *tests],
        folder=service.folder,
        environment=service.environment(),
    )
    return done.returncode, done.stdout


def test_a_name_that_nobody_makes_fails_the_services_own_tests(variant: Callable[..., Service]) -> None:
    service = variant(database="none", cache="none")
    for file, old, new in (
        ("grafana/dashboards/service.json", "process_workers{", "process_worker{"),
        ("prometheus/rules/latency.yml", "http_request_duration_seconds_bucket", "http_request_latency_bucket"),
    ):
        path = service.folder / "monitoring" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    code, said = _own_tests(service)
    assert code == 1
    refusal = "which nothing makes: "
    assert re.search(rf"service.json:\d+: Workers names process_worker, {refusal}", said)
    assert re.search(rf"rules/latency.yml:\d+: \S+ names http_request_latency_bucket, {refusal}", said)
