"""Run migrations on the database that `dicom_node.schema` names.

On PostgreSQL one process migrates at a time, and a migration that cannot get its
locks soon gives up instead of queueing every reader behind it.
"""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext

import worker.model_tables
import worker.tables  # noqa: F401 - as above
from dicom_node import db, tables  # noqa: F401 - as above
from dicom_node.db import Base, UtcDateTime

STATEMENT_TIMEOUT = "5min"
LOCK_TIMEOUT = "5s"
ADVISORY_LOCK = 0x53454E54  # "SENT"


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write our column types as plain ones, so that live code may change."""
    del autogen
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, sa.Enum):
        return f"sa.String(length={item.length})"  # a new member is no migration
    return False


def prepare(connection: sa.Connection) -> None:
    """Take our turn and bound the waiting, inside the transaction."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(sa.text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.execute(
        sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK}
    )
    connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))


def run() -> None:
    """Migrate in one transaction: all of it, or nothing."""
    engine = db.connect(context.config.attributes["url"])
    try:
        with engine.begin() as connection:
            prepare(connection)
            context.configure(
                connection=connection,
                target_metadata=Base.metadata,
                compare_type=True,
                compare_server_default=True,
                render_as_batch=connection.dialect.name == "sqlite",
                render_item=render_item,
                transactional_ddl=True,
            )
            context.run_migrations()
    finally:
        engine.dispose()


run()
