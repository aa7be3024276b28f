"""A real PostgreSQL: migrations that somebody blocks or that fail, and what is whose fault."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import servers
from .processes import Output, Program, clean_environment, eventually
from .programs import program
from .service import Answer, Gunicorn, Service, generate, request


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    with servers.postgres() as server:
        yield server


@pytest.fixture
def owned(variant: Callable[..., Service]) -> Service:
    """A service to write migrations for, which give up after 9 s rather than 5 minutes."""
    service = variant()
    env = service.folder / "migrations/env.py"
    text, replaced = re.subn(r"(?m)^DEADLINE_SECONDS = \d+$", "DEADLINE_SECONDS = 9", env.read_text())
    assert replaced == 1
    env.write_text(text)
    return service


def _write_migration(service: Service, *steps: str) -> None:
    lines = [
        "import sqlalchemy as sa",
        "from alembic import op",
        "revision = '0002'",
        "down_revision = '0001'",
        "def upgrade() -> None:",
        *(f"    {step}" for step in steps),
    ]
    (service.folder / "migrations/versions/0002_later.py").write_text("\n".join(lines))


WIDER = (
    "with op.batch_alter_table('orders') as orders:",
    "    orders.alter_column('customer', type_=sa.Text, existing_type=sa.String(64))",
)


class Session:
    """Somebody at psql, in a transaction that they forgot."""

    def __init__(self, postgres: servers.Postgres, database: str, statement: str) -> None:
        command: list[str | Path] = [
            program("psql"),
            "-h",
            "127.0.0.1",
            "-p",
            str(postgres.port),
            "-U",
            "postgres",
            "-d",
            database,
        ]
        self._psql = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=clean_environment(PGAPPNAME="reporting"), stdout=subprocess.DEVNULL
        )
        assert self._psql.stdin
        self._psql.stdin.write(f"BEGIN; {statement};\n".encode())
        self._psql.stdin.flush()
        idle = "SELECT pid FROM pg_stat_activity WHERE application_name = 'reporting' AND state = 'idle in transaction'"
        self.pid = int(eventually(lambda: postgres.query(idle), "the transaction is open"))

    def end(self) -> None:
        self._psql.terminate()
        self._psql.wait(10)


@contextmanager
def _migrating(service: Service, url: str) -> Iterator[tuple[Program, Output]]:
    output = Output()
    command: list[str | Path] = [service.tool("flask"), "--app", f"{service.package}.wsgi", "db", "upgrade"]
    environment = service.environment(DATABASE_URL=url, LOG_FORMAT="json")
    migration = Program(command, environment=environment, folder=service.folder, stdout=output)
    try:
        yield migration, output
    finally:
        migration.stop(signal.SIGKILL)


@contextmanager
def _ordering(service: Gunicorn) -> Iterator[list[Answer]]:
    """Somebody orders all the while."""
    answers: list[Answer] = []
    ended = threading.Event()

    def order() -> None:
        while not ended.is_set():
            answers.append(service.order())

    threads = [threading.Thread(target=order) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_transaction_that_stays_open_stops_no_request_and_is_named(
    owned: Service, postgres: servers.Postgres
) -> None:
    """The migration gives way again and again, is refused in one line, and goes through when nothing is in its way."""
    with (
        owned.migrated(postgres.database("blocked")) as url,
        owned.serving(DATABASE_URL=url) as service,
    ):
        assert service.order().status == 201
        _write_migration(owned, *WIDER)
        session = Session(postgres, "blocked", "SELECT count(*) FROM orders")
        named = f"pid {session.pid} (reporting, idle in transaction, since "
        try:
            with _ordering(service) as answers, _migrating(owned, url) as (migration, output):
                assert migration.wait(60) == 1
            (refused,) = [line for line in output.lines() if '"ERROR"' in line or "Traceback" in line]
            assert "Rolled back: ALTER TABLE orders ALTER COLUMN customer TYPE TEXT waits for" in refused
            assert named in refused
            assert {answer.status for answer in answers} == {201}
            assert max(answer.seconds for answer in answers) < 4
            assert any(answer.seconds > 1 for answer in answers), "none waited: this shows nothing"
            assert "ALTER" not in postgres.query(
                "SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            with _migrating(owned, url) as (migration, output):
                eventually(lambda: named in output.text(), "it says what it waits for", 30)
                session.end()
                assert migration.wait(60) == 0, output.text()
        finally:
            session.end()
        assert service.order(customer="c-2").status == 201


def test_a_migration_that_takes_too_long_is_rolled_back_and_says_which_line_to_edit(
    owned: Service, postgres: servers.Postgres
) -> None:
    """Its statements are not those of requests: they may take longer than 3 s, but not for ever."""
    with owned.migrated(postgres.database("slow")) as url:
        _write_migration(owned, *WIDER, "op.execute('SELECT pg_sleep(4)')", "op.execute('SELECT pg_sleep(600)')")
        code, out, err = owned.flask("db", "upgrade", DATABASE_URL=url, LOG_FORMAT="json")
    assert code == 1
    (refused,) = [line for line in out.splitlines() if '"ERROR"' in line]
    assert "Rolled back after 9 s, in: SELECT pg_sleep(600)" in refused
    assert "migrations/env.py" in refused
    assert "Traceback" not in out + err
    assert postgres.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'") == "1"


def test_a_migration_that_fails_midway_leaves_nothing_of_it(owned: Service, postgres: servers.Postgres) -> None:
    with owned.migrated(postgres.database("failing")) as url:
        _write_migration(
            owned, *WIDER, "op.add_column('orders', sa.Column('x', sa.Integer))", "op.execute('SELECT absent')"
        )
        assert owned.flask("db", "upgrade", DATABASE_URL=url)[0] == 1
        assert "0001" in owned.flask("db", "current", DATABASE_URL=url)[1]
        assert owned.flask("db", "check", DATABASE_URL=url)[0] == 1, "a migration is missing"
        (owned.folder / "migrations/versions/0002_later.py").unlink()
        assert owned.flask("db", "check", DATABASE_URL=url)[0] == 0, "the tables are those of 0001"
        _write_migration(owned, *WIDER)
        assert owned.flask("db", "upgrade", DATABASE_URL=url)[0] == 0
        assert "0002" in owned.flask("db", "current", DATABASE_URL=url)[1]


def test_a_database_that_is_away_is_refused_in_one_line(owned: Service, postgres: servers.Postgres) -> None:
    url = postgres.database("gone").replace("postgres@", "postgres:hunter2@")
    postgres.query("ALTER DATABASE gone CONNECTION LIMIT 0")
    postgres.query("ALTER DATABASE gone ALLOW_CONNECTIONS false")
    code, out, _ = owned.flask("db", "upgrade", DATABASE_URL=url, LOG_FORMAT="json")
    assert code == 1
    (line,) = out.splitlines()
    assert "The database does not answer: " in line
    assert "hunter2" not in line


def _sql(service: Gunicorn, statement: str) -> Answer:
    return request(service.port, "/stage/sql", method="POST", body=statement.encode())


def test_only_a_database_that_is_away_is_no_error_of_ours(
    small: Service, postgres: servers.Postgres, bugsink: servers.Bugsink
) -> None:
    """A missing table, a slow query and a wrong statement are 500 and reach Sentry; away is 503 and does not."""
    postgres.query("CREATE ROLE app LOGIN SUPERUSER")
    inbox = bugsink.inbox()
    url = postgres.database("errors").replace("postgres@", "app@")
    with small.migrated(url), small.serving(DATABASE_URL=url, SENTRY_DSN=inbox.dsn) as service:
        for statement in ("SELECT 1 FROM absent", "SELECT absent FROM orders"):
            answer = _sql(service, statement)
            assert answer.status == 500
            assert "make migrate" in answer.json()["detail"]
        slow = _sql(service, "SELECT pg_sleep(60)")
        assert slow.status == 500
        assert slow.seconds < 8
        assert (
            postgres.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)' AND state = 'active'")
            == "0"
        )
        assert _sql(service, "SELEKT").status == 500

        kill = "SELECT pg_terminate_backend({}) FROM pg_stat_activity WHERE datname = 'errors'"
        away = [_sql(service, "SELECT pg_terminate_backend(pg_backend_pid())")]
        postgres.query("ALTER ROLE app NOSUPERUSER CONNECTION LIMIT 0")
        postgres.query(kill.format("pid"))
        away.append(service.order())
        postgres.query("ALTER ROLE app CONNECTION LIMIT -1")
        assert service.get("/api/v1/orders").status == 200
        postgres.stop()
        away.append(service.order())
        postgres.restart()
        assert service.get("/api/v1/orders").status == 200
        assert [(answer.status, answer.headers["retry-after"]) for answer in away] == [(503, "5")] * 3
        said = service.lines(message="the database does not answer")
        assert [(line["level"], line["request_id"]) for line in said] == [
            ("WARNING", answer.headers["x-request-id"]) for answer in away
        ]
    assert service.program.wait(30) == 0
    eventually(lambda: len(inbox.events()) >= 4, "four events", 30)
    texts = [event["exception"]["values"][-1]["value"] for event in inbox.events()]
    assert ["make migrate" in text for text in texts] == [True, True, False, False]


def test_each_process_has_as_many_connections_as_it_says(small: Service, postgres: servers.Postgres) -> None:
    """Requests' and one for the health check, which does not wait for requests."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'pool'"
    with (
        small.migrated(postgres.database("pool")) as url,
        small.serving(DATABASE_URL=url, WEB_CONCURRENCY="2", WEB_THREADS="8", DATABASE_POOL_SIZE="3") as service,
    ):
        threads = [threading.Thread(target=_sql, args=(service, "SELECT pg_sleep(2)")) for _ in range(10)]
        for thread in threads:
            thread.start()
        seen = []
        while any(thread.is_alive() for thread in threads):
            seen.append(int(postgres.query(count)))
            assert service.ready()
        assert 3 < max(seen) <= 2 * (3 + 1)
        for thread in threads:
            thread.join()


def test_a_migration_is_written_and_applied_by_two_commands(tmp_path: Path, postgres: servers.Postgres) -> None:
    """As a newcomer does it: with quotes in the name, and `make lint` passes afterwards."""
    service = generate(tmp_path)
    assert service.make("install", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")[0] == 0
    code, said = service.make("migration")
    assert code != 0
    assert said.splitlines()[0] == 'Say what it does: make migration m="add customer"'
    models = service.folder / "src/proof_service/orders/models.py"
    models.write_text(models.read_text().replace("String(64)", "String(128)"))
    message = """wider "customer", it's $5 & `date` \\ {x} %d"""
    code, said = service.make("migration", f"m={message}")
    assert code == 0, said
    (written,) = set((service.folder / "migrations/versions").glob("*.py")) - {
        service.folder / "migrations/versions/0001_orders.py"
    }
    assert ast.get_docstring(ast.parse(written.read_text())) == message
    for url in ("sqlite:///wider.db", postgres.database("wider")):
        code, said = service.make("migrate", DATABASE_URL=url)
        assert code == 0, said
        code, said = service.make("migration", "m=again", DATABASE_URL=url)
        assert code == 0, said
        assert "nothing to migrate" in said
    code, said = service.make("lint")
    assert code == 0, said
