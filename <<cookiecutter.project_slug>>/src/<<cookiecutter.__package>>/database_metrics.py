"""Metrics of the database: connections in use, how long queries take, and lines for slow ones."""

import re
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

from flask import Flask
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, QueuePool, event

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

    connected = False

    def first_connected(_: object, __: object) -> None:
        # What the dialect asks the server before that is no request's.
        nonlocal connected
        connected = True

    def timed(execute: str) -> Callable[..., bool]:
        def instead(cursor: object, statement: str, *arguments: Any) -> bool:
            *_, context = arguments
            began = perf_counter()
            try:
                getattr(context.dialect, execute)(cursor, statement, *arguments)
            finally:
                if connected:
                    record(statement, perf_counter() - began)
            return True

        return instead

    def record(statement: str, seconds: float) -> None:
        operation = operation_of(statement)
        observe[operation](seconds)
        if seconds >= slow_seconds:
            log.warning(
                "slow query",
                operation=operation,
                statement=shape(statement),
                query_duration_ms=round(seconds * 1000, 1),
            )

    event.listen(engine, "connect", first_connected)
    # An engine's own events, before_cursor_execute and the like, cost a query ten times as much:
    # with them SQLAlchemy joins two sets of listeners for each connection.
    for execute in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, execute, timed(execute))


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
