"""The version of the database schema: what it is, and how it changes.

The migrations lie beside this package, in the repository and when installed, and
cover the tables of the worker too: there is one database.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError

from dicom_node import db, revisions
from dicom_node.errors import LedgerUnavailableError, NotFoundError

MIGRATIONS: Final = Path(__file__).resolve().parents[1] / "migrations"


def configuration(url: str) -> Config:
    """Return alembic's configuration for one database; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url  # not an option: a password may hold a '%'
    return config


@contextmanager
def _unchanged_when_busy() -> Iterator[None]:
    """Say what to do when others do not let go of what a migration has to change."""
    try:
        yield
    except sa.exc.OperationalError as error:
        if error.connection_invalidated or not db.is_outage(error):
            raise
        raise LedgerUnavailableError(
            "the schema was not changed: something else holds the database for too "
            "long; end it (a backup, an export, a session that is left open), or stop "
            "Sentinode, then repeat the command"
        ) from error


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database up to a revision; an empty SQLite file is made if need be.

    Raises:
        LedgerUnavailableError: Others hold what is to be changed; nothing was.
    """
    file = revisions.sqlite_file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with _unchanged_when_busy():
        command.upgrade(configuration(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Bring a database down to a revision; "base" drops every table.

    Raises:
        LedgerUnavailableError: As for `upgrade`.
    """
    with _unchanged_when_busy():
        command.downgrade(configuration(url), revision)


@dataclass(frozen=True, slots=True)
class Step:
    """One migration: its revision, and in a sentence what it brought."""

    revision: str
    what: str


def steps_down(url: str, revision: str) -> list[Step]:
    """Return what a downgrade would undo, the newest first; nothing is changed.

    Raises:
        NotFoundError: There is no such revision below the database's.
    """
    scripts = ScriptDirectory(str(MIGRATIONS))
    now = revisions.current(url)
    try:
        found = list(scripts.iterate_revisions(now, revision)) if now else []
    except RevisionError as error:
        known = ", ".join(one.revision for one in scripts.walk_revisions())
        raise NotFoundError(
            f"there is no revision {revision} below {now}; known are {known}, base"
        ) from error
    return [Step(one.revision, one.doc or "") for one in found]
