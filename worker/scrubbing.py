"""Making sure that what was deleted cannot be read in logs and database files."""

import mmap
import re
import sqlite3
from collections.abc import Collection, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, text

IDENTIFIER: Final = re.compile(rb"[0-9]+(?:\.[0-9]+){3,}|[0-9a-f]{64}")
"""What may name a study or an object in a log: a UID, or the hash of one."""

LOGS: Final = ("*.log", "logs/*.log*", "notified.json")
COMPACT_BYTES: Final = 512 * 2**20
"""A larger SQLite database is not written anew: its writers would wait too long."""

BUSY_MS: Final = 2000


def logs(data_dir: Path) -> Iterator[Path]:
    """Yield the files of a data folder in which processes tell what they do."""
    for pattern in LOGS:
        yield from data_dir.glob(pattern)


def scrub(files: Iterator[Path], names: Collection[str]) -> int:
    """Overwrite names of studies and objects; return how many there were.

    In place and of the same length: whoever appends to a log is not disturbed.
    """
    wanted = {name.encode("ascii") for name in names}
    wanted |= {sha256(name).hexdigest().encode("ascii") for name in wanted}
    count = 0
    for path in files:
        if not path.stat().st_size:
            continue
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            for match in IDENTIFIER.finditer(content):
                if match[0] in wanted:
                    content[match.start() : match.end()] = b"x" * len(match[0])
                    count += 1
            content.flush()
    return count


def compact(engine: Engine) -> bool:
    """Leave no deleted row in the database's files; False when that has to wait.

    SQLite is written anew and its log emptied. PostgreSQL marks the room of deleted
    rows as free; their bytes are overwritten when it is used again.
    """
    if engine.dialect.name == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as one:
            one.execute(text("VACUUM"))
        return True
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        (pages,) = cursor.execute("PRAGMA page_count").fetchone()
        (size,) = cursor.execute("PRAGMA page_size").fetchone()
        small = pages * size <= COMPACT_BYTES
        try:
            if small:
                cursor.execute("VACUUM")
            (busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:  # somebody reads or writes all the time
            return False
        return small and not busy
    finally:
        connection.close()
