"""Database engine, transactions and column types; SQLite embedded, PostgreSQL else."""

import enum
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, cast

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Enum,
    Index,
    MetaData,
    String,
    Table,
    TypeDecorator,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from dicom_node.errors import SettingsError

SQLITE_BUSY_TIMEOUT_S = 30.0
PRAGMAS = (
    *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"),
    "secure_delete=ON",  # what is deleted is overwritten: an erasure must be one
)
SERVER_CONNECT_TIMEOUT_S = 5
SERVER_POOL_TIMEOUT_S = 10.0
SERVER_OPTIONS = {
    "connect_timeout": SERVER_CONNECT_TIMEOUT_S,
    # A server that vanished without a word is noticed within a minute, not in a quarter
    # of an hour as TCP would have it.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 50_000,
}


SERVER_TROUBLE = frozenset({"08", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE: connection, rollback, resources, locks, shutdown, system."""

FILE_TROUBLE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in and out; SQLite alone would drop the time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Refuse a naive time, store UTC."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Return aware UTC on every database."""
        del dialect
        if value is None:
            return None
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


class Base(DeclarativeBase):
    """Root of every table; constraint names are fixed so that migrations can drop."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        list[str]: JSON,
        # Values, not names, and text instead of a native type: an added member
        # needs no migration on PostgreSQL.
        enum.Enum: Enum(
            enum.Enum,
            native_enum=False,
            length=32,
            values_callable=lambda members: [member.value for member in members],
        ),
        str: String,
    }


def few(condition: str, *columns: str) -> Index:
    """Return an index of those rows alone of which a condition in SQL holds.

    It stays small and costs the other rows nothing, however many there are.
    """
    there = text(condition)
    return Index(None, *columns, sqlite_where=there, postgresql_where=there)


Sessions = sessionmaker[Session]
Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the current time as aware UTC."""
    return datetime.now(UTC)


def connect(url: str) -> Engine:
    """Open the database at an SQLAlchemy URL; nothing is read or written yet.

    SQLite runs in WAL mode with `synchronous=FULL`: a commit that returned is on
    disk. Writers start with BEGIN IMMEDIATE, so that two of them queue up for the
    busy timeout instead of failing half-way; `reading` sessions take no write lock.
    """
    if not url.startswith("sqlite"):
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=SERVER_POOL_TIMEOUT_S,
            connect_args=SERVER_OPTIONS,
        )
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def demand_existing(engine: Engine, data_dir: Path) -> None:
    """Refuse a database whose file is not there: to look must not create it.

    Raises:
        SettingsError: There is no installation in the data folder.
    """
    file = engine.url.database
    is_file = engine.dialect.name == "sqlite" and file is not None
    if is_file and not Path(str(file)).exists():
        raise SettingsError(
            f"there is no installation in {data_dir}: check --data-dir, or start with "
            "`sentinode up` or `sentinode db upgrade`"
        )


def writing(engine: Engine) -> Sessions:
    """Return the factory of sessions that may write."""
    return sessionmaker(engine, expire_on_commit=False)


def reading(engine: Engine) -> Sessions:
    """Return the factory of sessions that only read and never block a writer."""
    return sessionmaker(
        engine.execution_options(sentinode_readonly=True), expire_on_commit=False
    )


def reading_of(sessions: Sessions) -> Sessions:
    """Return `reading` sessions of the database that others write to."""
    engine: Engine = sessions.kw["bind"]
    return reading(engine)


def insert_missing(
    session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]], key: str
) -> list[Any]:
    """Insert rows unless one with their key is there; return the keys inserted.

    Another process may insert the same rows at the same time: neither fails.
    """
    if not rows:
        return []
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    column: ColumnElement[Any] = table.__table__.c[key]
    # Of the class it would be many statements, one for each set of Nones.
    core = cast("Table", table.__table__)
    statement = insert(core).on_conflict_do_nothing().returning(column)
    return list(session.scalars(statement, list(rows)))  # so it is compiled once


def is_outage(error: DBAPIError) -> bool:
    """Say whether a database was away, busy or full, whatever it was asked."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None) or ""
    name = getattr(error.orig, "sqlite_errorname", "")
    return state[:2] in SERVER_TROUBLE or name.startswith(FILE_TROUBLE)


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    del record
    connection.isolation_level = None  # we send BEGIN ourselves
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    readonly = connection.get_execution_options().get("sentinode_readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")
