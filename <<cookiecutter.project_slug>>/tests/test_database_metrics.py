"""Metrics of the database: what requests ask of it, and no value that they ask with."""

import sqlite3
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from sqlalchemy import column, insert, literal, select, table, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from <<cookiecutter.__package>> import database, database_metrics
from <<cookiecutter.__package>>.database import db
from <<cookiecutter.__package>>.database_metrics import (
    OPERATIONS,
    QUERY_BUCKETS,
    operation_of,
    shape,
)
from <<cookiecutter.__package>>.settings import Settings, SettingsError, load_settings

from .conftest import MakeService
from .support import Line, Service, free_port

SHELF = table("shelf", column("name"), column("place"))


@pytest.fixture
def shop(service: Service) -> Iterator[Service]:
    """The service within its context, with a table that its metrics have not seen made."""
    with service.app.app_context():
        db.engine.raw_connection().execute("CREATE TABLE shelf (name TEXT, place INTEGER)")
        yield service


def counted(service: Service) -> dict[str, float]:
    """Queries so far, of the operations that there were."""
    name = "db_query_duration_seconds_count"
    found = {each: service.metric(name, operation=each) for each in OPERATIONS}
    return {operation: number for operation, number in found.items() if number}


def used(service: Service) -> float:
    return service.metric("db_connections_used")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query takes half a second, by the clock that is read."""
    clock = count(0, 0.5)
    monkeypatch.setattr(database_metrics, "perf_counter", lambda: next(clock))


def test_a_query_is_counted_by_its_operation(shop: Service) -> None:
    db.session.execute(insert(SHELF), [{"name": "a", "place": 1}, {"name": "b", "place": 2}])
    db.session.execute(SHELF.update().values(place=3))
    db.session.execute(select(SHELF)).all()
    db.session.execute(select(SHELF)).all()
    db.session.execute(SHELF.delete())
    db.session.execute(text("PRAGMA user_version"))
    db.session.commit()
    assert counted(shop) == {"insert": 1, "update": 1, "select": 2, "delete": 1, "other": 1}


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("SELECT 1", "select"),
        ("select\n1", "select"),
        ("(SELECT 1) UNION (SELECT 2)", "select"),
        ("/* delete */ -- update\n INSERT INTO t VALUES (1)", "insert"),
        ("WITH old AS (SELECT id FROM t WHERE n = 'x)') DELETE FROM t USING old", "delete"),
        ("WITH a AS (DELETE FROM t RETURNING id) SELECT (SELECT 1) FROM a", "select"),
        ("with a (n) as (select 1), b as (select f(g(1)))\ninsert into t select 1", "insert"),
        ("UPDATE t SET n = 1", "update"),
        ("SELECTED", "other"),
        ("CREATE TABLE t (n int)", "other"),
        ("EXPLAIN DELETE FROM t", "other"),
        ("WITH", "other"),
        ("", "other"),
    ],
)
def test_an_operation_is_one_of_five(statement: str, operation: str) -> None:
    assert operation_of(statement) == operation


def test_a_query_that_fails_is_counted_once(shop: Service) -> None:
    with pytest.raises(OperationalError):
        db.session.execute(text("SELECT 1 FROM absent"))
    assert counted(shop) == {"select": 1}


def test_what_a_new_server_is_asked_before_all_requests_is_no_query(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(connection: Any) -> None:
        connection.exec_driver_sql("SELECT 'which version'")

    with service.app.app_context():
        monkeypatch.setattr(db.engine.dialect, "initialize", ask)
        db.session.execute(text("SELECT 1"))
    assert counted(service) == {"select": 1}


def test_a_query_is_counted_however_it_is_sent(shop: Service) -> None:
    with db.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        connection.exec_driver_sql("SELECT ?", (1,))
        connection.exec_driver_sql("INSERT INTO shelf VALUES (?, ?)", [("a", 1), ("b", 2)])
        unescaped = connection.execution_options(no_parameters=True)
        unescaped.exec_driver_sql("SELECT 1 WHERE 'a' LIKE '%'")
        returned = unescaped.execute(
            insert(SHELF).returning(SHELF.c.place), [{"name": "c", "place": 3}] * 2
        )
        assert returned.all() == [(3,), (3,)]
    assert counted(shop) == {"select": 3, "insert": 2}


@pytest.mark.usefixtures("slow")
def test_a_query_that_fails_slowly_has_a_line_too(shop: Service) -> None:
    with pytest.raises(OperationalError):
        db.session.execute(text("SELECT 1 FROM absent WHERE name = 'hunter2'"))
    assert slow_query(shop)["statement"] == "SELECT ? FROM absent WHERE name = ?"


def slow_query(service: Service) -> Line:
    return service.line("slow query")


@pytest.mark.usefixtures("slow")
def test_a_slow_query_has_a_line_with_its_shape_and_without_its_values(shop: Service) -> None:
    db.session.execute(
        select(SHELF).where(SHELF.c.name == "hunter2", SHELF.c.place.in_([4711, 4712]))
    )
    line = slow_query(shop)
    assert (line["level"], line["logger"]) == ("WARNING", database.__name__)
    assert line["operation"] == "select"
    assert line["query_duration_ms"] == 500
    assert line["statement"] == (
        "SELECT shelf.name, shelf.place FROM shelf WHERE shelf.name = ? AND shelf.place IN (?, ?)"
    )
    written = shop.written()
    assert "hunter2" not in written
    assert "4711" not in written


@pytest.mark.usefixtures("slow")
def test_a_slow_query_of_a_request_has_its_id(shop: Service) -> None:
    shop.app.get("/asks")(lambda: str(db.session.scalar(text("SELECT 1"))))
    answer = shop.client.get("/asks")
    assert slow_query(shop)["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(("setting", "lines"), [(0.5, 1), (0.51, 0)])
@pytest.mark.usefixtures("slow")
def test_what_is_slow_is_a_setting(make_service: MakeService, setting: float, lines: int) -> None:
    service = make_service(slow_query_seconds=setting)
    with service.app.app_context():
        db.session.execute(text("SELECT 1"))
    assert len(service.lines("slow query")) == lines


@pytest.mark.parametrize("value", ["0", "-1", "61", "soon", "nan"])
def test_a_setting_that_is_no_time_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SLOW_QUERY_SECONDS", value)
    with pytest.raises(SettingsError, match=r"^SLOW_QUERY_SECONDS: .+ seconds, more than 0"):
        load_settings()


def test_what_is_slow_is_an_edge_of_the_histogram() -> None:
    assert Settings.model_fields["slow_query_seconds"].default in QUERY_BUCKETS
    assert list(QUERY_BUCKETS) == sorted(set(QUERY_BUCKETS))


SHAPES = {
    "SELECT * FROM t WHERE a = 'it''s hunter2' AND b = 7": "SELECT * FROM t WHERE a = ? AND b = ?",
    r"SELECT E'it\'s hunter2', e'\\', 'x'": "SELECT ?, ?, ?",
    r"SELECT 'C:\', 'hunter2'": "SELECT ?, ?",
    "SELECT $$hunter2$$, $a$ hunter2 $$ ' $a$, $1": "SELECT ?, ?, $1",
    "SELECT B'1001', X'1FF', N'hunter2', U&'hunter2'": "SELECT ?, ?, ?, U&?",
    "SELECT 1, -2.5, .5, 1e-9, 0x1F, 1_000": "SELECT ?, -?, ?, ?, ?, ?",
    "SELECT DATE'2024-01-31', a2.b3_4, c$5": "SELECT DATE?, a2.b3_4, c$5",
    'SELECT "it\'s 1", "a""b\'2" FROM t2': 'SELECT "it\'s 1", "a""b\'2" FROM t2',
    "SELECT 1 -- hunter2\n/* 'hunter2\n' */, 2": "SELECT ? , ?",
    "SELECT a->>'hunter2', '--', '/*' FROM t": "SELECT a->>?, ?, ? FROM t",
    "SELECT %(id_1)s, ?, %s, a[3:4]": "SELECT %(id_1)s, ?, %s, a[?:?]",
    "SELECT 'hunter2": "SELECT ?",
    "SELECT /* hunter2": "SELECT",
    "SELECT $x$hunter2": "SELECT ?",
    "SELECT 'été', é1": "SELECT ?, é1",
}


@pytest.mark.parametrize("statement", SHAPES)
def test_a_shape_has_no_value(statement: str) -> None:
    assert shape(statement) == SHAPES[statement]


def test_a_value_that_sqlalchemy_writes_into_a_statement_is_none_of_its_shape() -> None:
    written = select(literal("hunter2", literal_execute=True), literal(4711, literal_execute=True))
    compiled = str(written.compile(compile_kwargs={"literal_binds": True}))
    assert "hunter2" in compiled
    assert shape(compiled) == "SELECT ? AS anon_1, ? AS anon_2"


def test_a_long_statement_costs_no_more_than_its_length() -> None:
    """A pattern that goes back over what it has read would take years."""
    for part in ("'", "''", "(", "$a", "/*", "1.", "e'\\", '"'):
        shape(part * 100_000)
    operation_of("WITH " + "(" * 5_000 + ")" * 5_000)


def test_a_connection_is_used_while_a_request_has_it(service: Service) -> None:
    during: list[float] = []

    @service.app.get("/asks")
    def asks() -> str:
        during.append(used(service))
        db.session.execute(text("SELECT 1"))
        during.append(used(service))
        return ""

    service.client.get("/asks")
    assert during == [0, 1]
    assert used(service) == 0


@pytest.mark.parametrize("how", ["close", "invalidate", "detach"])
def test_a_connection_is_given_back_whatever_became_of_it(service: Service, how: str) -> None:
    with service.app.app_context():
        connection = db.engine.connect()
        assert used(service) == 1
        getattr(connection, how)()
        connection.close()
        assert used(service) == 0
        with db.engine.connect():
            assert used(service) == 1
    assert used(service) == 0


def test_a_connection_that_cannot_be_made_is_not_used(make_service: MakeService) -> None:
    service = make_service(database_url=f"postgresql://app@127.0.0.1:{free_port()}/parcels")
    with service.app.app_context():
        for _ in range(3):
            with pytest.raises(OperationalError):
                db.session.execute(text("SELECT 1"))
            db.session.rollback()
    assert used(service) == 0
    assert counted(service) == {}


def test_a_server_that_went_away_between_two_requests_leaves_no_connection_used(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    with service.app.app_context():
        pool = db.engine.pool
        db.session.execute(text("SELECT 1"))
        db.session.remove()
        monkeypatch.setattr(pool, "_pre_ping", True)
        monkeypatch.setattr(pool._dialect, "_do_ping_w_event", lambda _: False)

        def away(*_: Any) -> None:
            raise sqlite3.OperationalError("away")

        monkeypatch.setattr(pool, "_invoke_creator", away)
        with pytest.raises(OperationalError):
            db.session.execute(text("SELECT 1"))
        db.session.rollback()
    assert used(service) == 0


def test_the_most_connections_are_those_of_the_pool(make_service: MakeService) -> None:
    url = f"postgresql://app@127.0.0.1:{free_port()}/parcels"
    service = make_service(database_url=url, database_pool_size=3)
    assert service.metric("db_connections_max") == 3
    assert make_service(database_url="sqlite://").metric("db_connections_max") == 1


def test_no_more_are_used_than_may_be(service: Service) -> None:
    with service.app.app_context():
        db.engine.pool._timeout = 0  # type: ignore[attr-defined]
        most = int(service.metric("db_connections_max"))
        taken = [db.engine.connect() for _ in range(most)]
        assert used(service) == most
        with pytest.raises(PoolTimeoutError):
            db.engine.connect()
        for connection in taken:
            connection.close()
    assert used(service) == 0


def test_the_health_check_is_no_query_of_a_request(service: Service) -> None:
    assert service.client.get("/health").status_code == 200
    assert counted(service) == {}
    assert used(service) == 0


def test_the_series_are_there_from_the_start_and_no_statement_makes_one(shop: Service) -> None:
    for number in range(50):
        db.session.execute(text(f"SELECT {number} AS a{number}"))
    series = shop.series("db_query_duration_seconds_count")
    assert [labels["operation"] for labels in series] == list(OPERATIONS)


def test_two_apps_in_one_process_count_apart(make_service: MakeService) -> None:
    one, other = make_service(), make_service()
    with one.app.app_context():
        db.session.execute(text("SELECT 1"))
    assert (counted(one), counted(other)) == ({"select": 1}, {})
