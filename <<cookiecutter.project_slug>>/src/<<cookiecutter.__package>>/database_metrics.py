"""Metrics of the database: connections in use, how long queries take, and lines for slow ones."""

import re
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

from flask import Flask
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, QueuePool, event
from sqlalchemy.engine import ExceptionContext

from . import database
from .observability import gauge, get_logger, histogram
from .settings import Settings
from .workers.values import adder, observer

OPERATIONS = ("select", "insert", "update", "delete", "other")

# OpenTelemetry's advice for db.client.operation.duration up to the limit of a query, twos between
# its ones and fives, and the default of SLOW_QUERY_SECONDS.
QUERY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_TAKEN = "taken"

log = get_logger(database.__name__)


def init_database_metrics(app: Flask, settings: Settings) -> None:
    """Watch the connections and queries of requests; the health check has an engine of its own."""
    registry: CollectorRegistry = app.extensions["metric_registry"]
    with app.app_context():
        engine = database.db.engine
    _count_connections(engine, registry)
    _time_queries(engine, registry, settings.slow_query_seconds)


def _count_connections(engine: Engine, registry: CollectorRegistry) -> None:
    used = gauge("db_connections_used", "Connections that requests have taken.", registry=registry)
    most = gauge("db_connections_max", "Connections that requests may take.", registry=registry)
    pool = engine.pool
    # SQLite's, in memory, is one connection.
    most.set(pool.size() + pool._max_overflow if isinstance(pool, QueuePool) else 1)
    add = adder(used)

    def taken(_: Any, record: Any, __: Any) -> None:
        if not record.record_info.get(_TAKEN):
            record.record_info[_TAKEN] = True
            add(1)

    def given_back(_: Any, record: Any) -> None:
        # What could not be connected is given back, too, and was never taken.
        if record.record_info.pop(_TAKEN, False):
            add(-1)

    event.listen(engine, "checkout", taken)
    event.listen(engine, "checkin", given_back)
    event.listen(engine, "detach", given_back)


def _time_queries(engine: Engine, registry: CollectorRegistry, slow_seconds: float) -> None:
    duration = histogram(
        "db_query_duration_seconds",
        "Time from sending a statement to its answer, failures included.",
        ["operation"],
        buckets=QUERY_BUCKETS,
        registry=registry,
    )
    observe: dict[str, Callable[[float], None]] = {
        operation: observer(duration.labels(operation)) for operation in OPERATIONS
    }

    def began(_: Any, __: Any, ___: Any, ____: Any, context: Any, _____: Any) -> None:
        context.query_began = perf_counter()

    def ended(_: Any, __: Any, statement: str, ___: Any, context: Any, ____: Any) -> None:
        record(statement, context)

    def failed(failure: ExceptionContext) -> None:
        # A connection that could not be made has no statement.
        if failure.statement and failure.execution_context:
            record(failure.statement, failure.execution_context)

    def record(statement: str, context: Any) -> None:
        began = vars(context).pop("query_began", None)
        if began is None:  # the query had ended, and what came after it failed
            return
        seconds = perf_counter() - began
        operation = operation_of(statement)
        observe[operation](seconds)
        if seconds >= slow_seconds:
            log.warning(
                "slow query",
                operation=operation,
                statement=shape(statement),
                query_duration_ms=round(seconds * 1000, 1),
            )

    event.listen(engine, "before_cursor_execute", began)
    event.listen(engine, "after_cursor_execute", ended)
    event.listen(engine, "handle_error", failed)


# PostgreSQL's manual, 4.1: how a value is written, and names, which may hold quotes and digits.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<value>
          [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)
        | [bBxXnN]?'(?:[^']|'')*(?:'|\Z)
        | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
        | \.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?
      )
    | "(?:[^"]|"")*" | %\(\w+\)s | \$\d+ | [^\W\d][\w$]*
    """,
    re.VERBOSE | re.DOTALL,
)


def shape(statement: str) -> str:
    """A statement without its values: `?` for each literal, no comment, one line.

    Values that SQLAlchemy binds are placeholders already; those that somebody wrote into `text()`
    are not.
    """
    return " ".join(_TOKEN.sub(_without_value, statement).split())


def _without_value(token: re.Match[str]) -> str:
    if token["comment"]:
        return " "
    return "?" if token["value"] else token[0]


@lru_cache(maxsize=1024)
def operation_of(statement: str) -> str:
    """One of OPERATIONS; of `WITH ... INSERT` it is insert."""
    first = statement.lstrip("( \n").partition(" ")[0].lower()
    if first in OPERATIONS:
        return first
    text = shape(statement).lower()
    if text.startswith("with"):
        while (outer := re.sub(r"\([^()]*\)", "", text)) != text:
            text = outer
        if verb := re.search(r"\b(select|insert|update|delete)\b", text):
            return verb[1]
    first = text.lstrip("( ").partition(" ")[0]
    return first if first in OPERATIONS else "other"
