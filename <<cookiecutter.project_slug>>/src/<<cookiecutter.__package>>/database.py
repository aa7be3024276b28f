"""The database: SQLAlchemy, migrations, and limits so that one which hangs hangs no thread."""

from typing import Any, TypeVar

import psycopg
from flask import Flask, Response
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase

from .observability import Health
from .problems import problem
from .settings import Settings

T = TypeVar("T")

CONNECT_SECONDS = 2
QUERY_SECONDS = 3.0


class Base(DeclarativeBase):
    """The models' base."""


db = SQLAlchemy(model_class=Base)
migrate = Migrate(db=db)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server which takes a query and never answers.

    The server's own statement_timeout is no help where it is the server that hangs.
    """

    limit_seconds: float | None = QUERY_SECONDS

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
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    if url.startswith("postgresql"):
        app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
            "creator": lambda: BoundedConnection.connect(url, connect_timeout=CONNECT_SECONDS),
            "pool_pre_ping": True,
            "pool_size": settings.web_threads,
            "max_overflow": 1,
            "pool_timeout": CONNECT_SECONDS,
        }
    db.init_app(app)
    migrate.init_app(app)
    health: Health = app.extensions["health"]
    health.add_check("database", lambda: _ping(app), critical=True)

    @app.errorhandler(OperationalError)
    @app.errorhandler(PoolTimeoutError)
    def unavailable(_: Exception) -> Response:
        answer = problem(503, "The database does not answer.")
        answer.headers["Retry-After"] = "5"
        return answer


def _ping(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
