<% if cookiecutter.database == 'postgresql' %>
"""Orders in the database."""

from sqlalchemy import select

from ..database import db
from .models import OrderRecord
from .schema import NewOrder, Order


def create(new: NewOrder) -> Order:
    record = OrderRecord(**new.model_dump())
    db.session.add(record)
    db.session.commit()
    return _order(record)


def read(order_id: int) -> Order | None:
    record = db.session.get(OrderRecord, order_id)
    return _order(record) if record else None


def latest(limit: int) -> list[Order]:
    """The newest first."""
    newest = select(OrderRecord).order_by(OrderRecord.id.desc()).limit(limit)
    return [_order(record) for record in db.session.scalars(newest)]


def _order(record: OrderRecord) -> Order:
    return Order.model_validate(record, from_attributes=True)
<% else %>
"""Orders in a SQLite file of this machine: enough for an example, and for one instance."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import gettempdir

from .schema import NewOrder, Order

FILE = Path(gettempdir()) / "<< cookiecutter.project_slug >>.db"
_TABLE = """CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY, customer TEXT, amount TEXT, currency TEXT, source TEXT)"""


def create(new: NewOrder) -> Order:
    values = {**new.model_dump(), "amount": str(new.amount)}
    with _connection() as connection:
        created = connection.execute(
            "INSERT INTO orders (customer, amount, currency, source)"
            " VALUES (:customer, :amount, :currency, :source) RETURNING *",
            values,
        )
        return _order(created.fetchone())


def read(order_id: int) -> Order | None:
    with _connection() as connection:
        row = connection.execute("SELECT * FROM orders WHERE id = ?", [order_id]).fetchone()
    return _order(row) if row else None


def latest(limit: int) -> list[Order]:
    """The newest first."""
    with _connection() as connection:
        rows = connection.execute("SELECT * FROM orders ORDER BY id DESC LIMIT ?", [limit])
        return [_order(row) for row in rows]


@contextmanager
def _connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(FILE)) as connection, connection:
        connection.row_factory = sqlite3.Row
        connection.execute(_TABLE)
        yield connection


def _order(row: sqlite3.Row) -> Order:
    return Order.model_validate(dict(row))
<% endif %>
