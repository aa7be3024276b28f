"""`make remove-example` in a living service: databases that ran its migration, an owner's own migrations and rows."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from . import servers
from .processes import run
from .service import Service, generate, request
from .test_smoke import started

PARCELS = """\
\"\"\"Parcels.\"\"\"

from sqlalchemy.orm import Mapped, mapped_column

from .database import Model


class ParcelRecord(Model):
    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
"""

MIGRATION = """\
\"\"\"The owner's own.\"\"\"

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("parcels", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    op.drop_table("parcels")
"""

ORDER = "INSERT INTO orders VALUES (1, 'c-1', 12.5, 'EUR', 'web', '2026-01-01 00:00:00')"

Database = tuple[str, Callable[[str], str]]
"""A database's URL, and what a statement to it gives."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    with servers.postgres() as server:
        yield server


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Database]:
    """Make an empty database of a name, of the kind that the test's parameter says."""

    def of_sqlite(name: str) -> Database:
        file = tmp_path / f"{name}.db"

        def query(statement: str) -> str:
            with closing(sqlite3.connect(file, isolation_level=None)) as database:
                return "\n".join(str(value) for (value,) in database.execute(statement))

        return f"sqlite:///{file}", query

    def of_postgres(name: str) -> Database:
        server: servers.Postgres = request.getfixturevalue("postgres")
        unique = f"{name}_{os.urandom(4).hex()}"
        url = server.database(unique)
        return url, lambda statement: server.query(statement, unique)

    return of_sqlite if request.param == "sqlite" else of_postgres


def flask(service: Service, *arguments: str, url: str) -> None:
    """Run a command of the service, which must succeed."""
    code, out, err = service.flask(*arguments, DATABASE_URL=url)
    assert code == 0, out + err


def remove(service: Service, **environment: str) -> str:
    """Run what `make remove-example` runs once all is installed; return what it said."""
    done = run(
        [service.tool("python"), "scripts/remove_example.py"],
        folder=service.folder,
        environment=service.environment(TMPDIR=str(service.folder.parent), **environment),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def named_in_migrations(service: Service) -> list[str]:
    """Return the lines of the migrations that name the example's table."""
    files = sorted(service.folder.glob("migrations/versions/*.py"))
    return [line.strip() for file in files for line in file.read_text().splitlines() if "orders" in line.lower()]


def tables(database: Database) -> set[str]:
    """Return which of the tables are there."""
    url, query = database
    if url.startswith("sqlite"):
        found = query("SELECT name FROM sqlite_master WHERE type = 'table'")
    else:
        found = query("SELECT tablename FROM pg_tables")
    return set(found.split()) & {"orders", "parcels"}


def test_a_service_without_it_works(tmp_path: Path) -> None:
    """Each of make's targets that looks at the code, on a service that has run once."""
    service = generate(tmp_path)
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    code, said = service.make("install", PATH=beside)
    assert code == 0, said
    code, out, err = service.flask("db", "upgrade")
    assert code == 0, out + err
    code, said = service.make("remove-example", TMPDIR=str(tmp_path))
    assert code == 0, said
    for target in ("lint", "test", "check-config"):
        code, said = service.make(target)
        assert code == 0, f"{target}: {said[-3000:]}"
    with started(service, "run") as (port, _):
        assert request(port, "/health").json()["status"] == "healthy"
        assert request(port, "/api/v1/orders").status == 404
        done = run(
            [service.tool("python"), "scripts/load.py", "--seconds", "1", "--url", f"http://127.0.0.1:{port}"],
            folder=service.folder,
        )
        assert done.returncode == 0, done.stderr
        assert "x 200" in done.stdout
    assert named_in_migrations(service) == []


@pytest.mark.parametrize(
    ("new_database", "changed"), [("sqlite", False), ("postgresql", True)], indirect=["new_database"]
)
def test_an_owners_migrations_and_rows_stay(
    variant: Callable[..., Service], new_database: Callable[[str], Database], changed: bool
) -> None:
    """Of the example one line is left, which drops its table; more only where a later migration needs the table."""
    service = variant()
    database = url, query = new_database("used")
    package = service.folder / "src" / service.package
    app = package / "app.py"
    app.write_text(app.read_text().replace("from .problems", "from . import parcels  # noqa: F401\nfrom .problems"))
    (package / "parcels.py").write_text(PARCELS)
    migration = MIGRATION
    if changed:
        models = package / "orders/models.py"
        models.write_text(models.read_text() + "    note: Mapped[str | None] = mapped_column(String(8))\n")
        migration = (
            migration.replace(
                "    op.create_table(",
                '    op.add_column("orders", sa.Column("note", sa.String(8)))\n    op.create_table(',
            )
            + '    op.drop_column("orders", "note")\n'
        )
    flask(service, "db", "upgrade", url=url)
    query(ORDER)
    (service.folder / "migrations/versions/0002_parcels.py").write_text(migration)
    flask(service, "db", "upgrade", url=url)
    flask(service, "db", "check", url=url)
    query("INSERT INTO parcels VALUES (7)")

    said = remove(service)
    assert "drops its table, with its rows" in said
    left = named_in_migrations(service)
    assert left.count('op.drop_table("orders", if_exists=True)') == 1
    assert (len(left) > 1) is changed

    flask(service, "db", "upgrade", url=url)
    assert tables(database) == {"parcels"}
    assert query("SELECT id FROM parcels") == "7"
    flask(service, "db", "check", url=url)
    flask(service, "db", "downgrade", "0002", url=url)
    flask(service, "db", "upgrade", url=url)
    assert query("SELECT id FROM parcels") == "7"

    new = new_database("new")
    for step in (["upgrade"], ["check"], ["downgrade", "base"], ["upgrade"]):
        flask(service, "db", *step, url=new[0])
    assert tables(new) == {"parcels"}


@pytest.mark.parametrize(
    ("new_database", "named"),
    [("sqlite", False), ("postgresql", False), ("postgresql", True)],
    indirect=["new_database"],
)
def test_a_database_that_ran_its_migration_can_still_be_migrated(
    variant: Callable[..., Service], new_database: Callable[[str], Database], named: bool
) -> None:
    """One that this machine does not know keeps its rows: nobody asked to drop them there."""
    service = variant()
    database = url, query = new_database("used")
    flask(service, "db", "upgrade", url=url)
    query(ORDER)
    remove(service, **({"DATABASE_URL": url} if named else {}))
    assert named_in_migrations(service) == ['op.drop_table("orders", if_exists=True)'] * named
    flask(service, "db", "upgrade", url=url)
    assert tables(database) == (set() if named else {"orders"})
    if not named:
        assert query("SELECT customer FROM orders") == "c-1"
    flask(service, "db", "upgrade", url=new_database("new")[0])


def test_two_heads_are_refused(variant: Callable[..., Service]) -> None:
    service = variant()
    versions = service.folder / "migrations/versions"
    for number in ("0002", "0003"):
        (versions / f"{number}_parcels.py").write_text(MIGRATION.replace("0002", number))
    done = run(
        [service.tool("python"), "scripts/remove_example.py"],
        folder=service.folder,
        environment=service.environment(TMPDIR=str(service.folder.parent)),
    )
    assert done.returncode == 1
    assert "multiple heads" in done.stderr.lower()
    assert (service.folder / "src" / service.package / "orders").is_dir()
    assert len(list(versions.glob("*.py"))) == 3
