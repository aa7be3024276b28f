"""What stands behind a service, as its metrics, lines and alerts tell it: a real PostgreSQL and a real Redis."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import yaml

from . import servers
from .load import Step, send, under_load, watched
from .processes import eventually, run
from .service import Gunicorn, Service, request
from .test_routes import alert
from .test_routes import watched as notifying
from .watchers import platform_of

VALUE = "correct-horse"


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="module")
def medium(variant: Callable[..., Service]) -> Service:
    return variant(scale_tier="medium")


def sql(*statements: str) -> Step:
    """Requests that each run the next of some statements."""
    return lambda number: ("POST", "/stage/sql", statements[number % len(statements)].encode())


def queries(service: Gunicorn, operation: str) -> float:
    return service.scrape().total("db_query_duration_seconds_count", operation=operation)


def used(service: Gunicorn) -> float:
    return service.scrape().total("db_connections_used")


@contextmanager
def evaluating(service: Gunicorn, folder: Path, kind: str) -> Iterator[servers.Prometheus]:
    """Evaluate one file of the service's rules with seconds in the place of minutes."""
    rules = service.service.folder / f"monitoring/prometheus/rules/{kind}.yml"
    text = re.sub(r"\[\d+m\]", "[5s]", rules.read_text())
    short = yaml.safe_load(re.sub(r"for: \d+m", "for: 1s", text))
    (folder / "rules.yml").write_text(yaml.safe_dump(short))
    with servers.evaluating(folder / "rules.yml", service.service.slug, f"127.0.0.1:{service.metrics_port}") as server:
        yield server


def firing(prometheus: servers.Prometheus) -> set[str]:
    return {labels["alertname"] for labels, _ in prometheus.query('ALERTS{alertstate="firing"}')}


def test_each_query_is_counted_once_by_several_workers_and_when_they_die(
    medium: Service, postgres: servers.Postgres
) -> None:
    mix = sql("SELECT 1", "INSERT INTO shelf VALUES (1) RETURNING 1", "UPDATE shelf SET n = 2 RETURNING n", "SELEKT")
    url = postgres.database("counted")
    postgres.query("CREATE TABLE shelf (n int)", "counted")
    with medium.serving(DATABASE_URL=url, WEB_CONCURRENCY="2", WEB_THREADS="4") as service:
        eventually(lambda: service.scrape().total("db_connections_max") == 2 * 8, "both workers may open the tier's 8")
        with watched(service) as scraper:
            assert send(service, 120, step=mix).statuses() == {200: 90, 500: 30}
            before = service.workers()
            service.program.send(signal.SIGHUP)
            eventually(lambda: set(service.workers()).isdisjoint(before) and len(service.workers()) == 2, "a reload")
            assert send(service, 40, step=mix).statuses() == {200: 30, 500: 10}
        assert not scraper.fell
        counted = {each: queries(service, each) for each in ("select", "insert", "update", "delete", "other")}
        assert counted == {"select": 40, "insert": 40, "update": 40, "delete": 0, "other": 40}
        eventually(lambda: used(service) == 0, "every connection is given back")
        eventually(lambda: service.scrape().total("db_connections_max") == 2 * 8, "the old workers' are gone")


def test_a_pool_without_a_connection_to_spare_is_seen_and_fires_and_nothing_else_does(
    medium: Service, postgres: servers.Postgres, tmp_path: Path
) -> None:
    """Connections that requests keep while they do something else: the queries are quick."""
    holds: Step = lambda _: ("GET", "/stage/holds/0.5", None)  # noqa: E731
    url = postgres.database("pool")
    with (
        medium.serving(DATABASE_URL=url, WEB_CONCURRENCY="2", WEB_THREADS="8", DATABASE_POOL_SIZE="2") as service,
        evaluating(service, tmp_path, "database") as prometheus,
    ):
        with under_load(service, step=holds, clients=14) as account:
            eventually(lambda: used(service) == 4, "both workers use all that they may")
            eventually(lambda: firing(prometheus) == {"DatabaseConnectionPoolHigh"}, "the alert fires", 40)
            assert {labels["instance"] for labels, _ in prometheus.query("ALERTS")} == {
                f"127.0.0.1:{service.metrics_port}"
            }
        eventually(lambda: not firing(prometheus), "it ends", 40)
        scrape = service.scrape()
        assert (scrape.total("db_connections_used"), scrape.total("db_connections_max")) == (0, 4)
        assert prometheus.value("max_over_time(db_connections_used[1h])") == 4
        assert account.statuses().keys() <= {200, 503}
        assert queries(service, "select") == account.statuses()[200], "who found no connection asked nothing"
        assert not service.lines(message="slow query")


def test_a_slow_query_has_a_line_without_its_values_and_fires(
    medium: Service, postgres: servers.Postgres, tmp_path: Path
) -> None:
    url = postgres.database("slow")
    postgres.query("CREATE TABLE shelf (n int)", "slow")
    slow = f"SELECT pg_sleep(0.25), '{VALUE}', 4711 -- {VALUE}"
    with (
        medium.serving(DATABASE_URL=url, WEB_CONCURRENCY="2", LOG_LEVEL="WARNING") as service,
        evaluating(service, tmp_path, "database") as prometheus,
    ):
        answer = request(service.port, "/stage/sql", method="POST", body=slow.encode())
        line = service.logged(message="slow query")
        assert (line["logger"], line["level"]) == (f"{medium.package}.database", "WARNING")
        assert (line["operation"], line["statement"]) == ("select", "SELECT pg_sleep(?), ?, ?")
        assert line["request_id"] == answer.headers["x-request-id"]
        assert 250 <= line["query_duration_ms"] < answer.seconds * 1000
        with under_load(service, step=sql(slow), clients=3) as account:
            eventually(lambda: firing(prometheus) == {"SlowQueries"}, "the alert fires", 40)
        # One that the server ends, and says which value it ended.
        ended = request(service.port, "/stage/sql", method="POST", body=b"DELETE FROM shelf USING pg_sleep(60)")
        assert (ended.status, ended.seconds > 3) == (500, True)
        scrape = service.scrape()
        within = {
            edge: scrape.total("db_query_duration_seconds_bucket", operation="select", le=edge)
            for edge in ("0.2", "5.0")
        }
        assert within == {"0.2": 0, "5.0": 1 + len(account.sent)}
        assert scrape.total("db_query_duration_seconds_bucket", operation="delete", le="2.0") == 0
        assert queries(service, "delete") == 1
        service.output.handed_over()
        lines = service.lines(message="slow query")
        assert len(lines) == 1 + len(account.sent) + 1
        assert not [line for line in lines if VALUE in str(line) or "4711" in str(line)]
        _typed(medium, tmp_path, "SlowQueries", service.output.text(), "SELECT pg_sleep(?), ?, ?", "DELETE FROM shelf")


def _typed(service: Service, folder: Path, runbook: str, log: str, *shown: str) -> None:
    """Type each command of a runbook where `logs` prints a log; each shows one of these."""
    (folder / "log").write_text(log)
    page = (service.folder / f"docs/runbooks/{runbook}.md").read_text()
    commands = re.findall(r"```sh\n(.+?)\n```", page, re.DOTALL)
    assert commands
    for command in commands:
        done = run(["bash", "-c", f"set -o pipefail; logs() {{ cat {folder}/log; }}\n{command}"])
        assert done.returncode in (0, 141), done.stderr
        assert any(text in done.stdout for text in shown), f"{command}\n{done.stdout}"


def test_reads_of_a_cache_are_hits_misses_and_errors_and_each_is_counted(medium: Service, tmp_path: Path) -> None:
    def reads() -> dict[str, float]:
        scrape = service.scrape()
        return {result: scrape.total("cache_requests_total", result=result) for result in ("hit", "miss", "error")}

    with (
        servers.redis() as redis,
        medium.serving(REDIS_URL=redis.url, WEB_CONCURRENCY="2", WEB_THREADS="4") as service,
    ):
        assert reads() == {"hit": 0, "miss": 0, "error": 0}
        order: Step = lambda _: ("GET", path, None)  # noqa: E731
        path = service.order().headers["location"]
        assert service.get(path).status == 200
        assert send(service, 40, step=order).statuses() == {200: 40}
        assert reads() == {"hit": 40, "miss": 1, "error": 0}
        numbers = count(900_000)
        absent: Step = lambda _: ("GET", f"/api/v1/orders/{next(numbers)}", None)  # noqa: E731
        with evaluating(service, tmp_path, "cache") as prometheus:
            with under_load(service, step=absent, clients=4) as account:
                eventually(lambda: firing(prometheus) == {"CacheHitRateLow"}, "the alert fires", 40)
            assert reads() == {"hit": 40, "miss": 1 + len(account.sent), "error": 0}
            with under_load(service, step=order, clients=4) as hits:
                eventually(lambda: not firing(prometheus), "it ends", 40)
        assert reads()["hit"] == 40 + len(hits.sent)
        redis.stop()
        assert send(service, 60, step=order).statuses() == {200: 60}, "without the cache it reads what is stored"
        assert reads()["error"] == 60
        redis.restart()
        before = reads()
        with under_load(service, step=order, clients=1, pause=0.1) as again:
            eventually(lambda: reads()["hit"] > before["hit"], "it is found again")
        assert sum(reads().values()) == sum(before.values()) + len(again.sent)
        _typed(medium, tmp_path, "CacheHitRateLow", service.output.text(), "cache does not answer")


def test_what_explains_an_alert_of_what_stands_behind_silences_it(medium: Service, tmp_path: Path) -> None:
    """Of its own service alone; and it silences no page."""
    behind = ("DatabaseConnectionPoolHigh", "SlowQueries", "CacheHitRateLow", "LogVolumeSpike")
    with notifying(tmp_path, platform_of(medium), {}) as told:

        def sent(service: str) -> set[str]:
            return {name for name, _, _ in told.not_silenced(service)} - {"HealthCheckFailing", "HighErrorRate"}

        for service in ("database", "cache", "failing", "down", "well"):
            told.tell(*(alert(name, "warning", service=service) for name in (*behind, "LogSilence")))
        told.tell(alert("HealthCheckFailing", service="database", dependency="database"))
        told.tell(alert("HealthCheckFailing", "warning", service="cache", dependency="cache"))
        told.tell(alert("HighErrorRate", service="failing"), alert("ServiceDown", service="down"))
        told.tell(alert("HighLatency", service="database"), alert("SlowQueries", "warning", service="latency"))
        eventually(lambda: sent("database") == {"CacheHitRateLow", "LogSilence"}, "the database explains its own")
        eventually(lambda: sent("cache") == {*behind, "LogSilence"} - {"CacheHitRateLow"}, "the cache explains its own")
        eventually(lambda: sent("failing") == {*behind, "LogSilence"} - {"LogVolumeSpike"}, "failures are logged")
        eventually(lambda: sent("down") == {"ServiceDown"}, "an outage explains all")
        assert sent("well") == {*behind, "LogSilence"}
