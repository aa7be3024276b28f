"""The database: SQLAlchemy, migrations, and limits so that a hung server blocks no thread."""

import logging
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from flask import Flask, Response
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase

from .observability import Health, not_a_failure
from .problems import problem
from .settings import SERVICE, Settings

T = TypeVar("T")

CONNECT_SECONDS = 2
QUERY_SECONDS = 3.0

MIGRATE = (
    "The database lacks a table or a column that this code uses. Migrate it: `make migrate`,"
    " or `flask db upgrade` in the image."
)

_log = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """The models' base. A constraint needs a name before a later migration can change it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base)
if TYPE_CHECKING:  # mypy cannot follow what Flask-SQLAlchemy makes of Base
    Model = Base
else:
    Model = db.Model
migrate = Migrate(db=db)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server which takes a query and never answers.

    The server ends a query after QUERY_SECONDS; where it is the server that hangs, that is no help.
    """

    limit_seconds = QUERY_SECONDS + 1

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval=interval, timeout=timeout or self.limit_seconds)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise


def init_database(app: Flask, settings: Settings) -> None:
    """Connect on first use, watch the database, and answer 503 while it is away."""
    url = settings.database_url.get_secret_value()
    engine: dict[str, Any] = {"url": url}
    if url.startswith("postgresql"):
        engine = {
            "url": "postgresql+psycopg://",
            "creator": partial(_connect, url),
            "pool_pre_ping": True,
            "pool_size": settings.database_pool_size,
            "max_overflow": 0,
            "pool_timeout": CONNECT_SECONDS,
        }
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine
    # Requests that have taken all connections are no reason to be unready.
    health_check = engine | {"pool_size": 1} if "pool_size" in engine else engine
    app.config["SQLALCHEMY_BINDS"] = {"health": health_check}
    db.init_app(app)
    migrate.init_app(app)
    health: Health = app.extensions["health"]
    health.add_check("database", lambda: _ping(app), critical=True)

    @app.errorhandler(PoolTimeoutError)
    def unavailable(error: Exception) -> Response:
        _log.warning("the database does not answer", exc_info=error)
        not_a_failure()
        answer = problem(503, "The database does not answer.")
        answer.headers["Retry-After"] = "5"
        return answer

    @app.errorhandler(DBAPIError)
    def failed(error: DBAPIError) -> Response:
        if is_away(error):
            return unavailable(error)
        if not _lacks_migration(error):
            raise error
        error.add_note(MIGRATE)
        return problem(500, MIGRATE)


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code for the error (its manual, appendix A); None where no server gave one."""
    return getattr(error.orig, "sqlstate", None)


def is_away(error: DBAPIError) -> bool:
    """Whether the database cannot be reached, starts, stops or can take no more.

    A query that took too long (57014) is none of these: it is the query, or what held its lock,
    that needs a look.
    """
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, psycopg.OperationalError):
        # Where a connection could not be made there is no code.
        return (sqlstate(error) or "08").startswith(("08", "53", "57P"))
    # The upper bits say in what way it is busy (SQLite's extended result codes).
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _lacks_migration(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.OperationalError):
        # SQLite has one code for all errors of a statement.
        return any(
            words in str(error.orig)
            for words in ("no such table", "no such column", "has no column named")
        )
    return sqlstate(error) in ("42P01", "42703")


def _connect(url: str) -> BoundedConnection:
    # Options of the URL come last, so that they hold.
    options = conninfo_to_dict(url).get("options") or ""
    return BoundedConnection.connect(
        url,
        connect_timeout=CONNECT_SECONDS,
        fallback_application_name=SERVICE,
        options=f"-c statement_timeout={QUERY_SECONDS * 1000:.0f} {options}",
    )


def _ping(app: Flask) -> None:
    with app.app_context(), db.engines["health"].connect() as connection:
        connection.execute(text("SELECT 1"))
