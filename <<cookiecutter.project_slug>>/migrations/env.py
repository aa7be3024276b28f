"""How migrations reach the database: through the service's own engine."""

from typing import Any

from alembic import context
from flask import current_app

from <<cookiecutter.__package>>.database import BoundedConnection

# Building an index takes longer than a request may.
BoundedConnection.limit_seconds = None
database = current_app.extensions["migrate"].db


def drop_empty(_: Any, __: Any, directives: list[Any]) -> None:
    """Do not write a migration where nothing changed."""
    autogenerate = getattr(context.config.cmd_opts, "autogenerate", False)
    if autogenerate and directives[0].upgrade_ops.is_empty():
        directives[:] = []


def run() -> None:
    with database.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=database.metadata,
            process_revision_directives=drop_empty,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
