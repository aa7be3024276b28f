"""Every number of a dashboard is what a known load made, or near it in the way that its description says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from . import servers
from .load import Account, one_path, order_body, send, under_load
from .processes import eventually, run
from .programs import program
from .service import Gunicorn, Service
from .test_dashboards import Shown, dashboards, filled, shown

MINUTE = {"__rate_interval": "1m", "__rate_interval_ms": "60000"}
"""A graph's window that all of a load is within."""

Request = tuple[str, str, bytes | None]
SLOW = "/stage/slow/0.6"
LOAD: list[Request] = [
    *[("POST", "/api/v1/orders", order_body(source="web", amount="12.50"))] * 5,
    *[("POST", "/api/v1/orders", order_body(source="mobile", amount="3.25", currency="CHF"))] * 3,
    ("POST", "/api/v1/orders", order_body(source="partner", amount="0.75", currency="CHF")),
    *[("POST", "/api/v1/orders", order_body(amount="-1"))] * 4,
    *[("GET", "/api/v1/orders/1", None)] * 6,
    *[("GET", "/api/v1/orders/999999", None)] * 2,
    *[("GET", "/stage/boom", None)] * 3,
    ("GET", "/stage/status/503", None),
    *[("GET", "/stage/status/401", None)] * 2,
    ("GET", "/stage/status/403", None),
    *[("GET", "/stage/status/429", None)] * 7,
    *[("GET", "/nowhere", None)] * 5,
    *[("GET", "/stage/ok", None)] * 50,
    *[("GET", SLOW, None)] * 10,
]
ROUTES = {"/api/v1/orders/1": "/api/v1/orders/<int:order_id>", "/api/v1/orders/999999": "/api/v1/orders/<int:order_id>"}
ROUTES |= {SLOW: "/stage/slow/<float:seconds>", "/nowhere": "<unmatched>"}
ROUTES |= {f"/stage/status/{status}": "/stage/status/<int:code>" for status in (503, 401, 403, 429)}
FAILED, ALL = 4, len(LOAD)
NEAR = 0.35
"""How far from the load what is estimated may be: a scrape's interval, of as few as the load lasts."""


def step(number: int) -> Request:
    """The load, request by request."""
    return LOAD[number]


@contextmanager
def scraping(small: Service, service: Gunicorn) -> Iterator[servers.Prometheus]:
    """A Prometheus that has scraped a service once, and goes on every second."""
    settings: dict[str, Any] = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}}
    with servers.prometheus(small.slug, f"127.0.0.1:{service.metrics_port}", **settings) as prometheus:
        eventually(lambda: prometheus.value("up") == 1, "the first scrape")
        yield prometheus


@pytest.fixture(params=["before the first scrape", "between two scrapes"])
def watched(
    request: pytest.FixtureRequest, small: Service
) -> Iterator[tuple[str, Gunicorn, servers.Prometheus, Account]]:
    """A service that has had the load and nothing else, and a Prometheus that has scraped it since."""
    with ExitStack() as stack:
        service = stack.enter_context(small.serving())

        if request.param.startswith("before"):
            account = send(service, ALL, step=step)
        prometheus = stack.enter_context(scraping(small, service))
        if request.param.startswith("between"):
            account = send(service, ALL, step=step)
        assert len(account.answered) == ALL
        every = "sum(http_request_duration_seconds_count)"
        eventually(lambda: prometheus.value(every) == ALL, "a scrape after the load")
        yield request.param, service, prometheus, account


def by_route(status: str = "") -> Counter[str]:
    """How many requests of each method and route there were; those answered with a status, if one is given."""
    return Counter(
        f"{method} {ROUTES.get(path, path)}" for method, path, _ in LOAD if not status or path.endswith(status)
    )


def by_status(account: Account) -> dict[str, float]:
    return {str(status): float(number) for status, number in account.statuses().items()}


def a_minute(panel: Shown, times: float = 1) -> dict[str, float]:
    """What a graph of rates says of its window; what stands at zero is left out."""
    return {name: round(value * times, 6) for name, value in panel.values.items() if value > 0}


def test_every_number_is_what_a_known_load_made(
    small: Service, watched: tuple[str, Gunicorn, servers.Prometheus, Account]
) -> None:
    when, service, prometheus, account = watched
    panels = shown(prometheus, small, **MINUTE)
    service_panel = {name.removeprefix("service.json: "): each for name, each in panels.items()}
    orders_panel = {name.removeprefix("orders.json: "): each for name, each in panels.items()}

    assert orders_panel["Orders, 24 h A"].values == {"": 9}
    assert orders_panel["Value, 24 h A"].values == {"EUR": 62.5, "CHF": 10.5, "GBP": 0, "USD": 0}
    assert orders_panel["Refused orders, 24 h A"].values == {"": 4}

    of = {name.removesuffix(" A"): each for name, each in service_panel.items()}
    assert of["Instances that answer"].values == {"": 1}
    assert of["Failed requests, 5 min"].values == {"": pytest.approx(FAILED / ALL)}
    assert of["Availability, 24 h"].values == {"": pytest.approx(1 - FAILED / ALL)}
    assert of["Error budget left, 24 h"].values == {"": pytest.approx(1 - FAILED / ALL / 0.01)}
    slowest = max(sent.seconds for sent in account.sent if sent.path == SLOW)
    edges = [0.5, 0.75, 1.0, 2.5, 5.0, 10.0]
    assert edges[0] < of["Latency p95, 5 min"].total <= min(edge for edge in edges if edge >= slowest)

    assert a_minute(of["Traffic"], 60) == dict(by_route())
    assert a_minute(of["Answers by status"], 60) == by_status(account)
    assert {name: value for name, value in of["Failed requests"].values.items() if value} == {
        "GET /stage/boom": 1,
        "GET /stage/status/<int:code>": pytest.approx(1 / 11),
    }
    assert a_minute(of["Refused requests"]) == {
        "POST /api/v1/orders 400": 4,
        "GET /stage/status/<int:code> 401": 2,
        "GET /stage/status/<int:code> 403": 1,
        "GET /stage/status/<int:code> 429": 7,
    }
    assert of["What runs"].total == 1
    assert of["Dependencies"].values == {"database": 1}
    assert of["Starts, 15 min"].total == 1
    assert of["Workers"].total == len(service.workers())
    assert 0 < of["Time since start"].total < 600
    assert of["Requests in progress"].total == 0
    assert service_panel["Requests in progress B"].total == 8
    if when.startswith("between"):
        _near(service, orders_panel, service_panel)


def _near(service: Gunicorn, orders: dict[str, Shown], panels: dict[str, Shown]) -> None:
    """What is a rate from one scrape to the next: an estimate of what came between two."""

    def near(panel: Shown, per: float) -> dict[str, Any]:
        return {name: pytest.approx(value * per, rel=NEAR) for name, value in panel.values.items() if value}

    assert near(orders["Orders A"], 1) == {"web": 5, "mobile": 3, "partner": 1}
    assert near(orders["Value A"], 1 / 60) == {"EUR": 62.5, "CHF": 10.5}
    assert near(orders["Look-ups A"], 1) == {"200": 6, "404": 2}
    assert near(panels["Security events A"], 1) == {
        "input_validation_fail": 4,
        "authn_login_fail": 2,
        "authz_fail": 1,
        "excess_rate_limit_exceeded": 7,
    }
    levels = Counter(line["level"] for line in service.records())
    assert near(panels["Errors and warnings logged A"], 1) == {
        level: levels[level] for level in ("WARNING", "ERROR") if levels[level]
    }
    assert "ERROR" in levels


def test_the_first_requests_of_a_kind_are_in_the_graphs_of_a_process_that_runs(small: Service) -> None:
    """A series that begins long after its process did, in a window of some scrapes."""
    window = {"__rate_interval": "4s", "__rate_interval_ms": "4000"}
    with small.serving() as service, scraping(small, service) as prometheus:
        eventually(lambda: len(prometheus.scrapes()) > 6, "more scrapes than a window has")
        send(service, 7, step=lambda _: ("GET", "/stage/status/502", None))

        def both() -> bool:
            panels = shown(prometheus, small, **window)
            answers = panels["service.json: Answers by status A"].values
            failed = panels["service.json: Failed requests A"].values
            return 4 * answers["502"] == pytest.approx(7) and failed == {"GET /stage/status/<int:code>": 1}

        eventually(both, "seven answers of 502 within the window", 10)


def test_saturation_is_the_share_of_threads_that_are_busy(small: Service) -> None:
    busy = one_path("/stage/slow/6.0")
    with small.serving() as service, scraping(small, service) as prometheus, under_load(service, step=busy, clients=4):

        def half() -> bool:
            panels = shown(prometheus, small, __rate_interval="3s", __rate_interval_ms="3000")
            busy, capacity = (panels[f"service.json: Requests in progress {part}"].total for part in "AB")
            return (busy, capacity, panels["service.json: Saturation by instance A"].total) == (4, 8, 0.5)

        eventually(half, "four of eight threads are busy")


# --- days, which no server here can run: promtool's clock ------------------------------------------------------------

MINUTES = 24 * 60
SERIES = 'job="proof-service", service="proof-service", environment="staging"'


@dataclass
class Days:
    """Series by the minute, queries at some minute, and what each gives."""

    series: dict[str, str] = field(default_factory=dict)
    expected: list[tuple[str, int, float]] = field(default_factory=list)

    def instance(self, name: str, began: int, values: str, *, up: str = "1x3000") -> None:
        """A process that began at some minute, and all that its counter of orders ever said."""
        where = f'{SERIES}, instance="{name}"'
        self.series[f'orders_created_total{{{where}, source="web"}}'] = values
        self.series[f"process_start_time_seconds{{{where}}}"] = f"{began * 60}x3000"
        self.series[f"up{{{where}}}"] = up

    def expect(self, query: str, minute: int, value: float) -> None:
        """A value that a query gives, within half a percent."""
        self.expected.append((query, minute, value))


def hold(promtool: str, folder: Path, *days: Days) -> None:
    """Let promtool try what is expected of them."""
    groups = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in each.series.items()],
            "promql_expr_test": [
                {
                    "expr": f"abs(sum({query}) - {value}) <= bool {0.005 * abs(value)}",
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
                for query, minute, value in each.expected
            ],
        }
        for each in days
    ]
    (folder / "days.yml").write_text(json.dumps({"evaluation_interval": "1m", "tests": groups}))
    done = run([program(promtool), "test", "rules", folder / "days.yml"])
    assert done.returncode == 0, done.stdout + done.stderr


def query_of(service: Service, file: str, title: str) -> str:
    (found,) = (
        target["expr"]
        for panel in dashboards(service)[file]["panels"]
        if panel["title"] == title
        for target in panel.get("targets", [])
    )
    return filled(found)


each_promtool = pytest.mark.parametrize("promtool", ["promtool", "promtool-3"])


@each_promtool
def test_a_day_has_what_was_counted_within_it(small: Service, tmp_path: Path, promtool: str) -> None:
    orders = query_of(small, "orders.json", "Orders, 24 h")
    now = 2 * MINUTES
    stories = []
    for began, values, up, counted in (
        # It has run for days: what it counted in the last day alone.
        (0, "0+1x2880", "1x2880", MINUTES),
        # It began ten minutes ago with all its orders.
        (now - 10, "_x2871 40x9", "_x2871 1x9", 40),
        # Its first order came today, though it has run since long before.
        (0, "_x2500 3x380", "1x2880", 3),
        # Prometheus has only just begun to watch what has run for long: nobody knows when these came.
        (0, "_x2800 1000000x80", "_x2800 1x80", 0),
        # The same, and Prometheus saw nothing for an hour, just a day ago.
        (0, "1000000x1400 _x60 1000000x500 1000010x920", "1x1400 _x60 1x1421", 10),
        # It did not answer for an hour, just a day ago.
        (0, "1000000x1400 stale _x59 1000000x500 1000010x920", "1x1400 0x60 1x1421", 10),
        # It began today and began anew: what it counted before, and since.
        (now - 30, "_x2700 0 50x99 7x79", "_x2700 1x180", 57),
        # It is gone: what it had counted when it was last seen.
        (now - 300, "_x2600 0+1x200 stale", "_x2600 1x201 stale", 200),
    ):
        days = Days()
        days.instance("a", began, values, up=up)
        days.expect(orders, now, counted)
        stories.append(days)
    hold(promtool, tmp_path, *stories)


@each_promtool
def test_a_single_failure_of_a_day_is_in_availability_and_budget(small: Service, tmp_path: Path, promtool: str) -> None:
    days = Days()
    days.instance("a", 0, "0x2880")
    requests = f'http_request_duration_seconds_count{{{SERIES}, instance="a", method="GET", route="/"'
    days.series[f'{requests}, status="200"}}'] = "0+1x2880"
    days.series[f'{requests}, status="503"}}'] = "_x2600 1x280"
    share = 1 / (MINUTES + 1)
    unavailable = f"1 - ({query_of(small, 'service.json', 'Availability, 24 h')})"
    spent = f"1 - ({query_of(small, 'service.json', 'Error budget left, 24 h')})"
    for query, value in ((unavailable, share), (spent, share / 0.01)):
        days.expect(query, 2599, 0)
        days.expect(query, 2880, value)
    hold(promtool, tmp_path, days)


@each_promtool
def test_a_deployment_is_marked_and_an_outage_is_not(small: Service, tmp_path: Path, promtool: str) -> None:
    """How many versions each minute is marked with."""
    (annotation,) = dashboards(small)["service.json"]["annotations"]["list"]
    marked = f"count({filled(annotation['expr'])}) or vector(0)"
    days = Days()
    for version, instance, values in (
        # Two replicas are replaced, one after the other; the old version comes back.
        ("1", "a", "1x100 stale _x40 1x100"),
        ("1", "b", "1x102 stale"),
        ("2", "c", "_x100 1x42 stale"),
        # All is away for ten minutes and comes back, and again; the third time as another version.
        ("1", "a", "1x100 stale _x40 1x58 stale _x9 1x90 stale _x9 1x100 stale"),
        ("3", "a", "_x420 1x200"),
    ):
        days.series[f'app_info{{{SERIES}, instance="{instance}", version="{version}", revision=""}}'] = values
    for minute, number in ((99, 0), (101, 1), (103, 1), (110, 0), (143, 1), (150, 0), (205, 0), (211, 0), (215, 0),
                           (311, 0), (315, 0), (419, 0), (422, 1), (440, 0)):  # fmt: skip
        days.expect(marked, minute, number)
    hold(promtool, tmp_path, days)


@each_promtool
def test_what_fires_is_shown_once_and_nothing_of_others(small: Service, tmp_path: Path, promtool: str) -> None:
    firing = query_of(small, "service.json", "Firing alerts")
    quiet, loud = Days(), Days()
    for days in (quiet, loud):
        for alert in (
            'alertname="Watchdog", severity="info", service="prometheus", environment="local", instance="a"',
            'alertname="HighErrorRate", severity="critical", service="proof-service", environment="production"',
            'alertname="HighErrorRate", severity="critical", service="proof", environment="staging"',
            'alertname="ServiceDown", severity="critical", service="proof-service-2", environment="staging"',
        ):
            days.series[f'ALERTS{{alertstate="firing", {alert}}}'] = "1x10"
        days.series['ALERTS{alertstate="pending", alertname="ServiceDown", service="proof-service"}'] = "1x10"
    for alert in (
        'alertname="HighErrorRate", severity="warning", service="proof-service", environment="staging", route="/a"',
        'alertname="HighErrorRate", severity="warning", service="proof-service", environment="staging", route="/b"',
        'alertname="TargetMissing", severity="critical", service="proof-service"',
        'alertname="AlertmanagerDown", severity="critical", service="prometheus", environment="local", instance="a"',
        'alertname="AlertmanagerDown", severity="critical", service="prometheus", environment="local", instance="b"',
    ):
        loud.series[f'ALERTS{{alertstate="firing", {alert}}}'] = "1x10"
    quiet.expect(firing, 5, 0)
    quiet.expect(f"count({firing})", 5, 1)
    loud.expect(firing, 5, 3)
    loud.expect(f"count({firing})", 5, 3)
    hold(promtool, tmp_path, quiet, loud)
