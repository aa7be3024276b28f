"""What a service runs on: real exporters beside real servers, scraped and judged as the platform does."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml

from . import servers
from .exporters import Exporter, Platform
from .processes import eventually, run
from .programs import program
from .servers import running
from .service import generate
from .test_runbooks import OF_INFRASTRUCTURE

PASSWORD = "of-no-dictionary"  # noqa: S105 - that of a server of this test


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a medium service that is generated and not installed."""
    answers = {"scale_tier": "medium", "uptime_monitor": "pingdom"}
    return generate(tmp_path_factory.mktemp("infrastructure"), **answers).folder


def make_role(service: Path, database: servers.Postgres) -> None:
    """Do as the page says, as a superuser."""
    page = (service / "platform/README.md").read_text()
    (typed,) = re.findall(r"^psql (.+)$", page, re.MULTILINE)
    arguments = [each.replace("$PASSWORD", PASSWORD) for each in shlex.split(typed)]
    address = ["-h", "127.0.0.1", "-p", str(database.port), "-U", "postgres"]
    done = run([program("psql"), *address, *arguments], folder=service, seconds=20)
    assert done.returncode == 0, done.stderr


@dataclass
class Running:
    """All of it, and what Prometheus knows."""

    database: servers.Postgres
    replica: servers.Standby
    cache: servers.Redis
    prometheus: Platform
    name: str

    def firing(self) -> set[str]:
        """Return the alerts of the service that fire: those about this machine are as it is."""
        query = f'ALERTS{{service="{self.name}", alertstate="firing"}}'
        return {f"{labels['alertname']} {labels['severity']}" for labels, _ in self.prometheus.query(query)}

    def await_firing(self, *alerts: str) -> None:
        def alone() -> bool:
            assert (firing := self.firing()) == set(alerts), firing
            return True

        eventually(alone, f"{alerts} fires and nothing else", 40)


@contextmanager
def platform(service: Path, folder: Path) -> Iterator[Running]:
    """Run the servers, their exporters, and the Prometheus of the platform.

    The node exporter stands in for the service itself, which then answers and has no requests.
    """
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres())
        make_role(service, database)
        replica = stack.enter_context(servers.standby(database))
        cache = stack.enter_context(servers.redis())
        compose = yaml.safe_load((service / "platform/exporters/postgres/compose.yaml").read_text())
        role = compose["services"]["proof-service-postgres-exporter"]["environment"]["DATA_SOURCE_USER"]
        node = stack.enter_context(running(Exporter(folder, "prometheus-node-exporter")))
        of_database = Exporter(
            folder,
            "prometheus-postgres-exporter",
            DATA_SOURCE_URI=f"127.0.0.1:{database.port}/postgres?sslmode=disable",
            DATA_SOURCE_USER=role,
            DATA_SOURCE_PASS=PASSWORD,
        )
        stack.enter_context(running(of_database))
        of_cache = Exporter(folder, "prometheus-redis-exporter", REDIS_ADDR=f"redis://127.0.0.1:{cache.port}")
        stack.enter_context(running(of_cache))
        targets = {
            "node-exporter:9100": f"127.0.0.1:{node.port}",
            "proof-service:9464": f"127.0.0.1:{node.port}",
            "proof-service-postgres-exporter:9187": f"127.0.0.1:{of_database.port}",
            "proof-service-redis-exporter:9121": f"127.0.0.1:{of_cache.port}",
        }
        prometheus = stack.enter_context(running(Platform(folder, service, targets)))
        yield Running(database, replica, cache, prometheus, service.name)


def panels(service: Path) -> Iterator[tuple[str, str, str]]:
    """Each query of the panels about machines, servers and Prometheus: its dashboard, its panel and itself."""
    rows = {"Nodes", "Database", "Cache", "Prometheus"}
    for file in ("monitoring/grafana/dashboards/infrastructure.json", "platform/grafana/dashboards/overview.json"):
        row = ""
        for panel in json.loads((service / file).read_text())["panels"]:
            row = panel["title"] if panel["type"] == "row" else row
            for target in panel.get("targets", ()) if row in rows else ():
                query = target["expr"].replace("$__rate_interval", "9s").replace("$environment", "local")
                assert "$" not in query, query
                yield file, panel["title"], query


def lists(service: Path) -> dict[str, list[str]]:
    """What the lists of the exporters that run here say, names and labels."""
    folder = service / "monitoring/prometheus/exporters"
    found: dict[str, list[str]] = {}
    for name in ("node", "postgres", "redis"):
        found |= yaml.safe_load((folder / f"{name}.yml").read_text())
    return found


def runbook_queries(service: Path) -> list[str]:
    """What the runbooks of these alerts have somebody ask Prometheus."""
    pages = [page for page in service.rglob("runbooks/*.md") if page.stem in OF_INFRASTRUCTURE]
    assert len(pages) == len(OF_INFRASTRUCTURE)
    blocks = [block for page in pages for block in re.findall(r"(?s)```promql\n(.*?)```", page.read_text())]
    return [query for block in blocks for query in block.strip().split("\n\n")]


def missing(service: Path, prometheus: Platform) -> list[str]:
    """Return the panels without data, and what a list has and no series."""
    found = [f"{file}: {panel}" for file, panel, query in panels(service) if not prometheus.query(query)]
    for name, labels in lists(service).items():
        if not any(labels_of.keys() >= set(labels) for labels_of, _ in prometheus.query(name)):
            found.append(f"{name} {labels}")
    return found


class Filling:
    """A client that stores more than a Redis may hold, until it is told to stop."""

    def __init__(self, cache: servers.Redis) -> None:
        self._stop = Event()
        self._connection = socket.create_connection(("127.0.0.1", cache.port), 10)
        self._command("CONFIG", "SET", "maxmemory", "3mb")
        self._command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        self._thread = Thread(target=self._fill)
        self._thread.start()

    def _command(self, *words: str) -> None:
        text = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self._connection.sendall(f"*{len(words)}\r\n{text}".encode())
        answer = self._connection.recv(64)
        assert answer.startswith(b"+OK"), answer

    def _fill(self) -> None:
        numbers = count()
        while not self._stop.wait(0.005):
            for number in islice(numbers, 20):
                self._command("SET", f"key-{number}", "v" * 1000)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        self._connection.close()


def test_every_panel_has_data_and_each_outage_makes_its_own_alert_fire(service: Path, tmp_path: Path) -> None:
    with platform(service, tmp_path) as all_of_it:
        eventually(lambda: not missing(service, all_of_it.prometheus), "every panel and every list has a series", 40)
        rules = [rule for group in all_of_it.prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert not [rule for rule in rules if rule["health"] == "err"]
        all_of_it.await_firing()
        for query in runbook_queries(service):
            all_of_it.prometheus.query(query)

        all_of_it.database.stop()
        all_of_it.await_firing("DatabaseDown critical")
        all_of_it.database.restart()
        all_of_it.await_firing()

        filling = Filling(all_of_it.cache)
        try:
            all_of_it.await_firing("CacheEvicting warning")
        finally:
            filling.stop()
        all_of_it.await_firing()

        all_of_it.cache.stop()
        all_of_it.await_firing("CacheDown warning")
        all_of_it.cache.restart()
        all_of_it.await_firing()

        all_of_it.replica.query("SELECT pg_wal_replay_pause()")
        all_of_it.database.query(
            "CREATE TABLE large AS SELECT repeat(n::text, 200) AS text FROM generate_series(1, 150000) AS n"
        )
        all_of_it.await_firing("ReplicationLag warning")
        all_of_it.replica.query("SELECT pg_wal_replay_resume()")
        all_of_it.await_firing()


def test_the_exporters_role_reads_what_the_server_counts_and_no_table(service: Path) -> None:
    with servers.postgres() as database:
        database.query("CREATE TABLE secrets AS SELECT 1 AS secret")
        for _ in range(2):
            make_role(service, database)
        assert database.query("SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = 'exporter'") == "t"

        def as_exporter(statement: str) -> str:
            address = ["-h", "127.0.0.1", "-p", str(database.port), "-U", "exporter"]
            done = run([program("psql"), *address, "-Atqc", statement, "postgres"], seconds=20)
            return done.stdout.strip() or done.stderr

        assert as_exporter("SELECT count(query) > 0 FROM pg_stat_activity WHERE usename = 'postgres'") in ("t", "f")
        assert as_exporter("SELECT pg_has_role('pg_read_all_stats', 'USAGE')") == "t"
        assert "permission denied for table secrets" in as_exporter("SELECT * FROM secrets")
        for statement in ("CREATE TABLE mine (n int)", "CREATE ROLE other", "SELECT pg_read_file('/etc/passwd')"):
            assert "ERROR" in as_exporter(statement), statement


def test_the_runbooks_statements_are_taken_by_the_servers(service: Path) -> None:
    runbooks = service / "docs/runbooks"
    text = "".join((runbooks / f"{name}.md").read_text() for name in ("DatabaseDown", "ReplicationLag"))
    statements = re.findall(r"```sql\n(.+?)```", text, re.DOTALL)
    statements += re.findall(r'--command "(.+)"', text)
    statements += [each.replace("PID", "0").replace("'NAME'", "'none'") for each in re.findall(r"`(SELECT .+?)`", text)]
    assert len(statements) == 6
    with servers.postgres() as database:
        for statement in statements:
            if "'none'" in statement:
                with pytest.raises(ValueError, match='replication slot "none" does not exist'):
                    database.query(statement)
            else:
                database.query(statement)
    text = "".join((runbooks / f"{name}.md").read_text() for name in ("CacheDown", "CacheEvicting"))
    commands = re.findall(r'^redis-cli -u "\$REDIS_URL" (.+)$', text, re.MULTILINE)
    assert len(commands) == 3
    with servers.redis() as cache:
        for command in commands:
            done = run([program("redis-cli"), "-u", cache.url, *command.split()], seconds=20)
            assert done.returncode == 0
            assert "ERR" not in done.stdout + done.stderr, command


@pytest.mark.parametrize("chosen", [{}, {"database": "none", "cache": "none"}], ids=["all", "neither"])
def test_the_jobs_for_kubernetes_are_accepted(tmp_path: Path, chosen: dict[str, str]) -> None:
    """By the current version: Debian's is built without Kubernetes."""
    made = generate(tmp_path, scale_tier="large", **chosen).folder
    file = made / "platform/prometheus/kubernetes.yml"
    done = run([program("promtool-3"), "check", "config", "--syntax-only", file])
    assert done.returncode == 0, done.stdout + done.stderr
    jobs: list[dict[str, Any]] = yaml.safe_load(file.read_text())["scrape_configs"]
    assert {job["job_name"] for job in jobs} >= {"node", "cadvisor", "kube-state-metrics"}
