"""What a real Prometheus makes of several workers under load."""

from __future__ import annotations

from . import servers
from .load import Account, order_body, send, under_load
from .processes import eventually
from .service import Gunicorn, Service

SOURCES = ("web", "mobile", "partner")


def _traffic(number: int) -> tuple[str, str, bytes | None]:
    """Orders good and bad, look-ups that find and miss, failures and unknown paths."""
    return (
        ("POST", "/api/v1/orders", order_body(source=SOURCES[number % 3], amount="2.25")),
        ("GET", "/api/v1/orders/1", None),
        ("GET", "/api/v1/orders?limit=3", None),
        ("POST", "/api/v1/orders", order_body(amount="-1")),
        ("GET", f"/nowhere/{number}", None),
        ("GET", "/stage/status/500", None),
        ("GET", "/health/ready", None),
    )[number % 7]


def _metrics_of_a_process(prometheus: servers.Prometheus, service: Gunicorn) -> None:
    memory = prometheus.value("process_resident_memory_bytes")
    assert 20e6 < memory < 2e9
    assert prometheus.value("process_cpu_seconds_total") > 0.1
    assert prometheus.value("process_open_fds") > len(service.workers())
    assert prometheus.value("time() - process_start_time_seconds") < 600
    assert prometheus.value("process_open_fds / process_max_fds") < 1


def test_the_totals_of_prometheus_equal_those_of_the_load(small: Service) -> None:
    """Four workers, one target: every request counted once, with its route and its status."""
    with (
        servers.postgres() as postgres,
        small.migrated(postgres.database("counted")) as url,
        small.serving(DATABASE_URL=url, WEB_CONCURRENCY="4", LOG_LEVEL="WARNING") as service,
        servers.prometheus(small.slug, f"127.0.0.1:{service.metrics_port}") as prometheus,
    ):
        # A rate needs a first value: the series of a route exist only after its first request.
        account = send(service, 70, step=_traffic)
        with under_load(service, step=_traffic, clients=6) as loaded:
            eventually(lambda: len(prometheus.scrapes()) >= 6, "six scrapes under load", 60)
        account.sent += loaded.sent
        assert not account.lost
        _counted(prometheus, account)
        _metrics_of_a_process(prometheus, service)
        assert all(up == 1 for _, up in prometheus.scrapes()), "a scrape failed under load"
        assert len(service.workers()) == 4


def _counted(prometheus: servers.Prometheus, account: Account) -> None:
    """Compare what Prometheus has with what the clients saw."""
    probes = _number(account, "/health/ready")
    total = "sum(http_request_duration_seconds_count)"

    def arrived() -> bool:
        return prometheus.value(total) >= len(account.answered) - probes

    eventually(arrived, "the last scrape knows of all requests")
    assert prometheus.value(total) == len(account.answered) - probes
    for status, number in account.statuses().items():
        expected = number - (probes if status == 200 else 0)
        by_status = f'sum(http_request_duration_seconds_count{{status="{status}"}})'
        assert prometheus.value(by_status) == expected, status
    created = account.statuses()[201]
    assert prometheus.value("sum(orders_created_total)") == created
    assert prometheus.value('sum(order_value_total{currency="EUR"})') == 2.25 * created
    assert len(prometheus.query("sum by (source) (orders_created_total)")) == 3
    unmatched = 'http_request_duration_seconds_count{route="<unmatched>"}'
    assert prometheus.value(f"sum({unmatched})") == _number(account, "/nowhere/")
    assert prometheus.query(f"count({unmatched})")[0][1] == 1
    assert prometheus.value("sum(http_requests_in_progress)") == 0
    assert prometheus.value("sum(http_request_capacity)") == 4 * 4
    assert prometheus.value('dependency_up{dependency="database"}') == 1
    assert prometheus.value('sum(security_events_total{event="input_validation_fail"})') == (account.statuses()[400])
    quantile = "histogram_quantile(0.95, sum by (le) (http_request_duration_seconds_bucket))"
    assert 0 < prometheus.value(quantile) < 10


def _number(account: Account, path: str) -> int:
    return sum(1 for one in account.answered if one.path.startswith(path))
