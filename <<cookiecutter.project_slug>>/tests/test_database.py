"""The database: its schema is what the models say, and its absence is a 503, not a failure."""

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Column, ForeignKey, Integer, String, Table, inspect, text
from sqlalchemy.exc import OperationalError

from <<cookiecutter.__package>>.database import QUERY_SECONDS, db, is_away
from <<cookiecutter.__package>>.settings import Settings

from .conftest import MakeService
from .support import ROOT, Service, free_port

KUBERNETES = ROOT / "deploy" / "kubernetes"


def flask(service: Service, *command: str) -> str:
    result = service.app.test_cli_runner().invoke(args=command)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """The folder of migrations, with one of this test's own in place of the service's."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=lambda *_: ["versions", "__pycache__"])
    (folder / "versions").mkdir()
    write_migration(folder, 1, 'op.create_table("shelf", sa.Column("name", sa.String(8)))')
    return folder


def write_migration(folder: Path, number: int, *steps: str) -> None:
    lines = [
        "import sqlalchemy as sa",
        "from alembic import op",
        f"revision = '{number}'",
        f"down_revision = {str(number - 1) if number > 1 else None!r}",
        "def upgrade() -> None:",
        *(f"    {step}" for step in steps),
    ]
    (folder / "versions" / f"{number}.py").write_text("\n".join(lines))


WIDER = (
    "with op.batch_alter_table('shelf') as shelf:",
    "    shelf.alter_column('name', type_=sa.String(80), existing_type=sa.String(8))",
)


def schema_of(service: Service) -> dict[str, str]:
    """The columns of the shelf, with their types, and the other tables there are."""
    with service.app.app_context():
        found = inspect(db.engine)
        columns = {str(one["name"]): str(one["type"]) for one in found.get_columns("shelf")}
        return columns | dict.fromkeys(set(found.get_table_names()) - {"shelf"}, "table")


def asked(service: Service, statement: str) -> str:
    with service.app.app_context(), db.engine.begin() as connection:
        return str(connection.execute(text(statement)).scalar())


@pytest.fixture
def wider_shelf() -> Iterator[None]:
    """A model whose column is wider than the migration made it."""
    shelf = Table("shelf", db.metadata, Column("name", String(80)))
    yield
    db.metadata.remove(shelf)


def test_a_migration_that_widens_a_column_keeps_what_is_stored(
    service: Service, migrations: Path, wider_shelf: None
) -> None:
    flask(service, "db", "upgrade")
    asked(service, "INSERT INTO shelf VALUES ('a book') RETURNING 1")
    flask(service, "db", "migrate", "--message", "wider shelf")
    flask(service, "db", "upgrade")
    assert schema_of(service)["name"] == "VARCHAR(80)"
    assert asked(service, "SELECT name FROM shelf") == "a book"


def test_a_migration_that_fails_midway_leaves_nothing_of_it(
    service: Service, migrations: Path
) -> None:
    flask(service, "db", "upgrade")
    asked(service, "INSERT INTO shelf VALUES ('a book') RETURNING 1")
    write_migration(migrations, 2, "op.add_column('shelf', sa.Column('row', sa.Integer))")
    added = "op.create_table('lamp', sa.Column('watts', sa.Integer))"
    emptied = "op.execute('UPDATE shelf SET name = NULL')"
    write_migration(migrations, 3, added, emptied, *WIDER, "op.execute('SELECT absent')")
    result = service.app.test_cli_runner().invoke(args=("db", "upgrade"))
    assert "no such column: absent" in str(result.exception)
    assert schema_of(service) == {
        "name": "VARCHAR(8)",
        "row": "INTEGER",
        "alembic_version": "table",
    }
    assert asked(service, "SELECT version_num FROM alembic_version") == "2"
    assert asked(service, "SELECT name FROM shelf") == "a book"
    write_migration(migrations, 3, *WIDER)
    flask(service, "db", "upgrade")
    assert asked(service, "SELECT version_num FROM alembic_version") == "3"


@pytest.fixture
def new_models() -> Iterator[None]:
    """Two tables that no migration makes yet, one with a key to the other."""
    book = Table("book", db.metadata, Column("id", Integer, primary_key=True))
    loan = Table(
        "loan",
        db.metadata,
        Column("id", Integer, primary_key=True),
        Column("book_id", ForeignKey("book.id"), unique=True),
        Column("note", String(32), server_default="a long text, " * 9),
    )
    yield
    db.metadata.remove(loan)
    db.metadata.remove(book)


def test_what_db_migrate_writes_passes_lint_whatever_it_is_called(
    service: Service, migrations: Path, new_models: None
) -> None:
    flask(service, "db", "upgrade")
    message = 'a "loan" isn\'t a \\ gift, costs $1 and `ends`' + " in time" * 20 + '"'
    flask(service, "db", "migrate", "--message", message)
    flask(service, "db", "upgrade")
    with service.app.app_context():
        assert {"book", "loan"} <= set(inspect(db.engine).get_table_names())
    (written,) = set((migrations / "versions").glob("*.py")) - {migrations / "versions" / "1.py"}
    names: dict[str, str] = {}
    exec(compile(written.read_text(), written, "exec"), names)  # noqa: S102 - written by us
    assert names["__doc__"] == message
    for check in (["ruff", "format", "--check"], ["ruff", "check"], ["mypy", "--strict"]):
        done = subprocess.run(  # noqa: S603 - the tools of make lint
            [sys.executable, "-m", *check, written], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + written.read_text()


def test_a_later_migration_can_change_every_constraint(
    service: Service, migrations: Path, new_models: None
) -> None:
    flask(service, "db", "upgrade")
    flask(service, "db", "migrate", "--message", "loans")
    flask(service, "db", "upgrade")
    loan = db.metadata.tables["loan"]
    db.metadata.remove(loan)
    Table("loan", db.metadata, Column("id", Integer, primary_key=True), Column("book_id", Integer))
    flask(service, "db", "migrate", "--message", "free loans")
    flask(service, "db", "upgrade")
    with service.app.app_context():
        found = inspect(db.engine)
        assert not found.get_foreign_keys("loan")
        assert not found.get_unique_constraints("loan")


def test_migrations_make_what_the_models_say(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    flask(service, "db", "upgrade")
    flask(service, "db", "check")


def test_migrations_can_be_taken_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flask(service, "db", "upgrade")
    flask(service, "db", "downgrade", "base")
    flask(service, "db", "upgrade")


def test_the_database_is_critical(service: Service) -> None:
    checks = service.client.get("/health").get_json()["checks"]
    assert checks["database"]["status"] == "healthy"
    assert checks["database"]["critical"] is True


def without_a_server(make_service: MakeService, **settings: object) -> Service:
    url = f"postgresql://app:hunter2@127.0.0.1:{free_port()}/parcels"
    service = make_service(database_url=url, **settings)

    @service.app.get("/asks")
    def asks() -> str:
        return str(db.session.execute(text("SELECT 1")).scalar())

    return service


def test_a_database_that_is_away_is_a_503_to_try_again(make_service: MakeService) -> None:
    service = without_a_server(make_service)
    answer = service.client.get("/asks")
    assert answer.status_code == 503
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Retry-After"] == "5"
    assert "127.0.0.1" not in answer.text
    (line,) = [line for line in service.lines() if "exception" in line]
    assert (line["message"], line["level"]) == ("the database does not answer", "WARNING")
    assert "hunter2" not in service.written()


def test_a_database_that_is_away_is_no_error_where_warnings_are_not_logged(
    make_service: MakeService,
) -> None:
    service = without_a_server(make_service, log_level="ERROR")
    assert service.client.get("/asks").status_code == 503
    assert [line for line in service.lines() if "exception" in line] == []


@pytest.mark.parametrize(
    "statement", ["SELECT 1 FROM absent", "SELECT absent", "INSERT INTO t (absent) VALUES (1)"]
)
def test_a_missing_table_or_column_is_our_error_and_says_to_migrate(
    service: Service, statement: str
) -> None:
    @service.app.get("/asks")
    def asks() -> str:
        db.session.execute(text("CREATE TABLE t (id INTEGER)"))
        return str(db.session.execute(text(statement)))

    answer = service.client.get("/asks")
    assert answer.status_code == 500
    assert "make migrate" in answer.get_json()["detail"]
    line = service.line("request failed")
    assert line["level"] == "ERROR"
    assert "make migrate" in line["exception"]["stacktrace"]


def test_another_wrong_statement_is_our_error_too(service: Service) -> None:
    service.app.get("/asks")(lambda: str(db.session.execute(text("SELEKT"))))
    assert service.client.get("/asks").status_code == 500
    assert service.line("request failed")["level"] == "ERROR"


def test_a_database_that_is_away_makes_the_service_unready_but_alive(
    make_service: MakeService,
) -> None:
    service = without_a_server(make_service)
    assert service.client.get("/health/ready").status_code == 503
    assert service.client.get("/health/live").status_code == 200
    picture = service.client.get("/health")
    assert picture.get_json()["checks"]["database"]["status"] == "unhealthy"
    for secret in ("hunter2", "127.0.0.1", "refused"):
        assert secret not in picture.text
    assert service.client.get("/").status_code == 200


def test_sessions_end_with_their_request(service: Service) -> None:
    @service.app.get("/asks")
    def asks() -> str:
        return str(db.session.execute(text("SELECT 1")).scalar())

    for _ in range(30):
        assert service.client.get("/asks").text == "1"
    with service.app.app_context():
        status = db.engine.pool.status()
    assert "Checked out connections: 0" in status or "Current Checked out" not in status


def test_every_process_of_a_release_fits_postgresqls_default_of_connections() -> None:
    """100, of which 3 are kept for superusers. Pods that end are none of those maxSurge counts."""
    manifests = [yaml.safe_load(path.read_text()) for path in KUBERNETES.glob("**/*.yaml")]
    specs = [found.get("spec", {}) for found in manifests]
    pods = max(spec.get(key, 0) for spec in specs for key in ("replicas", "maxReplicas"))
    box = Settings.model_fields["web_concurrency"].default
    each = Settings.model_fields["database_pool_size"].default + 1  # the health check's own
    migration, exporter_and_people = 2, 5
    assert 2 * max(pods, box) * each + migration + exporter_and_people <= 97


def test_a_migration_gives_a_lock_up_before_requests_do_and_ends_before_its_job() -> None:
    env = (ROOT / "migrations" / "env.py").read_text()
    limits = {name: int(value) for name, value in re.findall(r"(?m)^(\w+_SECONDS) = (\d+)$", env)}
    assert limits["LOCK_SECONDS"] < QUERY_SECONDS
    job = yaml.safe_load((KUBERNETES / "migration" / "job.yaml").read_text())
    assert job["spec"]["activeDeadlineSeconds"] >= limits["DEADLINE_SECONDS"] + 60


def test_a_file_that_another_writes_is_away_in_whatever_way_it_is_busy(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "x.db", 0, isolation_level=None)) as one,
        closing(sqlite3.connect(tmp_path / "x.db", 0, isolation_level=None)) as other,
    ):
        one.execute("PRAGMA journal_mode=WAL")
        one.execute("CREATE TABLE shelf (name TEXT)")
        one.execute("BEGIN")
        one.execute("SELECT * FROM shelf").fetchall()
        other.execute("INSERT INTO shelf VALUES ('a')")
        with pytest.raises(sqlite3.OperationalError) as stale:
            one.execute("INSERT INTO shelf VALUES ('b')")
    assert stale.value.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"
    assert is_away(OperationalError("INSERT", {}, stale.value))
