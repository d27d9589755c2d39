"""What every command shares: settings, the database, options."""

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, TypeVar

import click
from sqlalchemy import Engine, make_url
from sqlalchemy.orm import Session

from dicom_node import audit, db
from dicom_node.audit import Trail
from dicom_node.db import Sessions
from dicom_node.errors import SettingsError
from dicom_node.settings import load
from dicom_node.shared_spool import spool_of
from dicom_node.spool import Spool
from worker.settings import WorkerSettings

SHOWN_TO_ALL: Final = (
    "The list of processes shows the password in --database-url to everybody on this "
    "host: set SENTINODE_DATABASE_PASSWORD_FILE instead."
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Site:
    """The installation that a command works on."""

    settings: WorkerSettings
    _engine: Engine

    @property
    def engine(self) -> Engine:
        """The database, which must exist: to look must not create it.

        Raises:
            SettingsError: There is no installation in the data folder.
        """
        db.demand_existing(self._engine, self.settings.data_dir)
        return self._engine

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    @property
    def reading(self) -> Sessions:
        """Sessions that never change or block anything."""
        return db.reading(self.engine)

    @property
    def writing(self) -> Sessions:
        """Sessions of commands that change state."""
        return db.writing(self.engine)

    @property
    def spool(self) -> Spool:
        """The stored instances and documents."""
        return spool_of(self.settings)

    @property
    def trail(self) -> Trail:
        """The audit trail of this installation."""
        return audit.trail_of(self.settings)


def read_settings(**flags: object) -> WorkerSettings:
    """Read the settings; a fault in them is wrong usage (exit code 2)."""
    try:
        return load(WorkerSettings, **flags)
    except SettingsError as error:
        hint = "Set each variable, or give its option, --data-dir for one."
        raise click.UsageError(f"{error}\n{hint}") from error


def place_options(function: F) -> F:
    """Add `--data-dir` and `--database-url`, unread."""
    url_option = click.option(
        "--database-url",
        help="SQLAlchemy URL; default: SQLite in the data folder.",
    )
    folder_option = click.option(
        "--data-dir",
        type=click.Path(file_okay=False),
        help="Folder of the installation [SENTINODE_DATA_DIR].",
    )
    return folder_option(url_option(function))


def site_options(function: F) -> F:
    """Add `--data-dir` and `--database-url`; the command gets a Site as `site`."""

    @place_options
    @wraps(function)
    def wrapped(
        *args: object, data_dir: str | None, database_url: str | None, **kwargs: object
    ) -> object:
        settings = read_settings(data_dir=data_dir, database_url=database_url)
        if database_url is not None and make_url(database_url).password:
            click.echo(SHOWN_TO_ALL, err=True)
        site = Site(settings, db.connect(settings.database))
        try:
            return function(*args, site=site, **kwargs)
        finally:
            site.close()

    return wrapped  # type: ignore[return-value]  # click reads the wrapped signature


class UtcTime(click.DateTime):
    """A time that an option states, in UTC."""

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        """Return the time, aware of its zone."""
        return super().convert(value, param, ctx).replace(tzinfo=UTC)


DAY: Final = UtcTime(formats=["%Y-%m-%d"])


def patient_id_of(said: str) -> str:
    """Return a patient ID; `-` reads it from stdin, so that no `ps` shows it."""
    return sys.stdin.readline().strip() if said == "-" else said


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done; change nothing."
)


def limit_option(default: int, said: str = "Newest first.") -> Callable[[F], F]:
    """Return the option of a list that says how much of it is shown."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help=said,
    )


@contextmanager
def changing(site: Site, *, dry_run: bool) -> Iterator[Session]:
    """Open a transaction of a command; a dry run is undone, whatever it did.

    So a dry run is refused in the same words as the real one.
    """
    with site.writing() as session, session.begin() as transaction:
        yield session
        if dry_run:
            transaction.rollback()


def operator() -> str:
    """Return who is at the keyboard, for records of changes."""
    return getpass.getuser()
