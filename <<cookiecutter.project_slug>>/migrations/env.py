"""How migrations reach the database: each whole or not at all, and no request waits long for one.

On PostgreSQL an ALTER TABLE waits for every transaction that has read the table, and all who come
later wait behind it. So a migration that does not get a lock soon lets them pass, and tries again
until its time is over.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from threading import Event, Thread
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from <<cookiecutter.__package>>.database import db, is_away, sqlstate
from <<cookiecutter.__package>>.settings import SERVICE

LOCK_SECONDS = 2
"""The longest wait for a lock: less than a request, which may wait behind it, has for a query."""

DEADLINE_SECONDS = 300
"""The longest that a command may take, waits included. The Job of Kubernetes has more."""

DEADLOCK, LOCK_TIMEOUT, STATEMENT_TIMEOUT = "40P01", "55P03", "57014"

BLOCKERS = text("""
    SELECT format('pid %s (%s)', pid, concat_ws(
        ', ', coalesce(nullif(application_name, ''), usename), state, 'since ' || xact_start))
    FROM unnest(pg_blocking_pids(:pid)) AS blocker (pid) LEFT JOIN pg_stat_activity USING (pid)
""")

log = logging.getLogger("migrations")


def run() -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = LOCK_SECONDS
    while True:
        blockers: list[str] = []
        try:
            return run_once(deadline, blockers)
        except OperationalError as error:
            code = sqlstate(error)
            if is_away(error):
                reason = " ".join(str(error.orig).split())
                raise CommandError(f"The database does not answer: {reason}") from error
            statement = " ".join((error.statement or "").split())[:100]
            if code == STATEMENT_TIMEOUT:
                raise CommandError(
                    f"Rolled back after {DEADLINE_SECONDS} s, in: {statement}. If it needs longer, "
                    "raise DEADLINE_SECONDS in migrations/env.py"
                ) from error
            if code not in (DEADLOCK, LOCK_TIMEOUT):
                raise
            waits = f"{statement} waits for {', '.join(blockers) or 'another session'}"
            if time.monotonic() + pause > deadline:
                raise CommandError(
                    f"Rolled back: {waits}. End that transaction, then migrate again"
                ) from error
            log.warning("%s; next try in %d s", waits, pause)
            time.sleep(pause)
            pause = min(2 * pause, 30)


def run_once(deadline: float, blockers: list[str]) -> None:
    """Run the command; `blockers` then names the sessions for which it waited last."""
    with db.engine.connect() as connection:
        watch: Any = nullcontext()
        if connection.dialect.name == "sqlite":
            # Python's sqlite3 begins no transaction by itself for what changes a table.
            event.listen(connection, "begin", lambda one: one.exec_driver_sql("BEGIN IMMEDIATE"))
        else:
            limit(connection, deadline)
            watch = watching(connection, blockers)
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            process_revision_directives=drop_empty,
            render_as_batch=True,
            transactional_ddl=True,
            transaction_per_migration=True,
        )
        with watch, context.begin_transaction():
            context.run_migrations()


def limit(connection: Connection, deadline: float) -> None:
    """Bound the wait for each lock, and each statement by what is left of the deadline."""
    connection.detach()
    driver: Any = connection.connection.dbapi_connection
    driver.limit_seconds = DEADLINE_SECONDS + LOCK_SECONDS
    driver.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    driver.execute(f"SET application_name = '{SERVICE} migration'")
    driver.commit()

    def set_timeout(_: object, cursor: Any, *__: object) -> None:
        left = max(1, int(1000 * (deadline - time.monotonic())))
        cursor.execute(f"SET statement_timeout = {left}")

    event.listen(connection, "before_cursor_execute", set_timeout)


@contextmanager
def watching(connection: Connection, blockers: list[str]) -> Iterator[None]:
    """Note who blocks the connection: the server knows that only while it waits."""
    driver: Any = connection.connection.dbapi_connection
    pid, engine, ended = driver.info.backend_pid, db.engine, Event()

    def watch() -> None:
        with suppress(DBAPIError), engine.connect() as other:
            other.execution_options(isolation_level="AUTOCOMMIT")
            while not ended.wait(LOCK_SECONDS / 4):
                blockers[:] = other.scalars(BLOCKERS, {"pid": pid}).all() or blockers

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def drop_empty(_: Any, __: Any, directives: list[Any]) -> None:
    """Do not write a migration where nothing changed."""
    autogenerate = getattr(context.config.cmd_opts, "autogenerate", False)
    if autogenerate and directives[0].upgrade_ops.is_empty():
        directives[:] = []
        log.info("nothing to migrate: the tables are as the models say")


run()
