"""Migrations of a database that is in use: bounded waiting, all of it or nothing."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from dicom_node import db, revisions, schema
from dicom_node.errors import LedgerUnavailableError
from tests.peers import wait_until

OLD = "0008"
PATIENCE_S = 5.0
"""How long a migration waits for one lock (migrations/env.py)."""


@pytest.fixture
def old(postgres_url):
    """A database of an earlier release."""
    schema.upgrade(postgres_url, OLD)
    return postgres_url


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Read every table in one transaction that does not end."""
    engine = db.connect(url)
    with engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f'SELECT count(*) FROM "{name}"'))  # noqa: S608
        yield
    engine.dispose()


def migrate(url: str, errors: list) -> threading.Thread:
    def run() -> None:
        try:
            schema.upgrade(url)
        except LedgerUnavailableError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def write(url: str) -> float:
    """Write to each table that the listener writes to; return how long that took."""
    started = time.monotonic()
    engine = db.connect(url)
    for name in ("study", "instance", "association", "event"):
        with engine.begin() as connection:
            connection.execute(sa.text(f"DELETE FROM {name} WHERE false"))  # noqa: S608
    engine.dispose()
    return time.monotonic() - started


def test_a_long_reader_makes_a_migration_give_up_and_holds_no_writer_up_for_long(old):
    errors: list[str] = []
    with reading(old):
        migrating = migrate(old, errors)
        wait_until(lambda: waiting_locks(old), "the wait for a lock")
        took = write(old)
        migrating.join(60)
    assert took < PATIENCE_S + 3
    assert "the schema was not changed" in errors[0]
    assert "repeat the command" in errors[0]
    assert revisions.current(old) == OLD
    schema.upgrade(old)
    assert revisions.is_current(old)


def waiting_locks(url: str) -> int:
    engine = db.connect(url)
    with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        found = connection.execute(sa.text(query)).scalar_one()
    engine.dispose()
    return int(found)


def test_two_upgrades_at_once_take_turns(old, tmp_path):
    command = (sys.executable, "-m", "worker.cli", "db", "upgrade")
    environment = {
        **os.environ,
        "SENTINODE_DATABASE_URL": old,
        "SENTINODE_DATA_DIR": str(tmp_path),
    }
    both = [
        subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert revisions.is_current(old)


def test_an_upgrade_waits_for_its_turn(old):
    """While another holds the lock of migrations, nothing is touched."""
    engine = db.connect(old)
    with engine.connect() as connection:
        connection.execute(sa.text(f"SELECT pg_advisory_lock({0x53454E54})"))
        errors: list[str] = []
        migrating = migrate(old, errors)
        wait_until(lambda: waiting_locks(old), "the wait for its turn")
        assert revisions.current(old) == OLD
        connection.execute(sa.text(f"SELECT pg_advisory_unlock({0x53454E54})"))
        connection.commit()
        migrating.join(60)
    engine.dispose()
    assert errors == []
    assert revisions.is_current(old)


def test_a_locked_file_is_not_migrated_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "SQLITE_BUSY_TIMEOUT_S", 0.5)
    file = tmp_path / "sentinode.db"
    url = f"sqlite:///{file}"
    schema.upgrade(url, OLD)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailableError, match="was not changed"):
        schema.upgrade(url)
    assert revisions.current(url) == OLD
    other.execute("ROLLBACK")
    other.close()
    schema.upgrade(url)
    assert revisions.is_current(url)
