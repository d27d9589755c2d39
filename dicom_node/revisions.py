"""Which revision of the schema a database has, and which one this version works with.

Apart from `schema`, which changes it: processes that only ask start without alembic.
"""

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from dicom_node import db

HEAD: Final = "0015"
"""The newest migration, which this version of Sentinode works with."""

VERSION_TABLE: Final = sa.table("alembic_version", sa.column("version_num", sa.String))


def current(url: str) -> str | None:
    """Return the revision of a database, None when it has none yet."""
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return None  # connecting would create it
    engine = db.connect(url)
    looking = engine.execution_options(sentinode_readonly=True)  # waits for no writer
    try:
        with looking.connect() as connection:
            if not sa.inspect(connection).has_table(VERSION_TABLE.name):
                return None
            found: str | None = connection.scalar(sa.select(VERSION_TABLE))
            return found
    finally:
        engine.dispose()


def is_current(url: str) -> bool:
    """Say whether a database has the schema that this version works with."""
    return current(url) == HEAD


def sqlite_file(url: str) -> Path | None:
    """Return the file of a database; None when it is none."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return None if parsed.database == ":memory:" else Path(parsed.database)
