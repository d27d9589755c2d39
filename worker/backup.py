"""Copies of an installation that can be checked, and put back into an empty folder.

    manifest.json    what there is, with the SHA-256 of each file; written last
    database.sqlite  a snapshot of SQLite, or
    database.dump    PostgreSQL's own (pg_dump -Fc)
    data/            spool, models, patient.key, up.json, audit.head as they were

The end of the audit trail is noted before the database is copied, which may be longer
then, and never shorter: that would be an audit trail cut off. The database comes next:
files are written before the rows that name them and never change, so what the snapshot
names is there when the files are copied. Only a purge removes files; what it takes
meanwhile is gone by the database's later word too.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from dicom_node import __version__, revisions
from dicom_node.audit import HEAD_FILE
from dicom_node.errors import PermanentError, SettingsError, StateError
from dicom_node.settings import PATIENT_KEY_FILE, UP_FILE
from dicom_node.spool import PARTIAL_SUFFIX
from worker.settings import WorkerSettings

MANIFEST: Final = "manifest.json"
SQLITE_COPY: Final = "database.sqlite"
POSTGRES_DUMP: Final = "database.dump"
DATA: Final = "data"
FORMAT: Final = 1
SECRETS: Final = (
    "database_password_file",
    "broker_password_file",
    "patient_key_secret_file",
    "patient_key_secret",
    "stow_token_file",
    "stow_password_file",
    "hl7_tls_key",
    "audit_syslog_key",
)
"""Settings that a backup names and does not hold: a site keeps them elsewhere."""


class DamagedBackupError(PermanentError):
    """A backup that is not whole, or not what was written."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: its schema, its files, and which secrets it lacks."""

    created_at: str
    revision: str | None
    database: str
    files: Mapping[str, str]
    bytes: int
    secrets: tuple[str, ...]


def make(settings: WorkerSettings, folder: Path, at: datetime) -> Backup:
    """Copy a running installation into a new folder.

    Raises:
        StateError: The folder is there and not empty.
        PermanentError: The database cannot be copied; the message says why.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder} is not empty: a backup needs a folder of its own")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # the images are patients', the key links them
    revision = revisions.current(settings.database)
    if revision is None:
        raise PermanentError("the database has no tables: there is nothing to copy")
    head = _copy_head(settings, folder)
    database = _copy_database(settings.database, folder)
    files, size = {database: _digest(folder / database)}, 0
    if head is not None:
        files[f"{DATA}/{HEAD_FILE}"] = _digest(head)
        size += head.stat().st_size
    for source, name in _sources(settings):
        target = folder / DATA / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(source, target)  # the time of an instance is when it came
        except FileNotFoundError:  # purged since
            continue
        size += target.stat().st_size
        files[f"{DATA}/{name}"] = _digest(target)
    made = Backup(
        created_at=at.isoformat(),
        revision=revision,
        database=database,
        files=files,
        bytes=size + (folder / database).stat().st_size,
        secrets=tuple(name for name in SECRETS if getattr(settings, name)),
    )
    _write_manifest(folder, made)
    return made


def read(folder: Path) -> Backup:
    """Read what a backup says of itself.

    Raises:
        DamagedBackupError: It has no manifest of ours: it was not finished.
    """
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        fields = {name: said[name] for name in Backup.__dataclass_fields__}
        form, fields["secrets"] = said["format"], tuple(said["secrets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedBackupError(
            f"{folder} holds no whole backup: {MANIFEST} is missing or not ours"
        ) from error
    if form != FORMAT:
        raise DamagedBackupError(f"{folder} is of format {form}, this is for {FORMAT}")
    return Backup(**fields)


def verify(folder: Path) -> Backup:
    """Make sure that every file of a backup is what was written.

    Raises:
        DamagedBackupError: It is not; the message names the first file.
    """
    said = read(folder)
    for name, expected in said.files.items():
        path = folder / name
        if not path.is_file() or _digest(path) != expected:
            raise DamagedBackupError(f"{path} is missing or changed since the backup")
    return said


def restore(settings: WorkerSettings, folder: Path) -> Backup:
    """Put a backup into an empty data folder and, on PostgreSQL, an empty database.

    Raises:
        DamagedBackupError: The backup is not whole; nothing was written.
        StateError: Something is there already; nothing was written.
        SettingsError: The backup is of another kind of database.
    """
    said = verify(folder)
    data_dir, url = settings.data_dir, settings.database
    is_sqlite = sa.make_url(url).get_backend_name() == "sqlite"
    if is_sqlite is not (said.database == SQLITE_COPY):
        raise SettingsError(
            f"the backup holds {said.database}: set SENTINODE_DATABASE_URL to that kind"
        )
    _require_empty(data_dir, url)
    _put_database(folder / said.database, url)
    data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    if (folder / DATA).is_dir():
        shutil.copytree(folder / DATA, data_dir, dirs_exist_ok=True)
    return said


def _require_empty(data_dir: Path, url: str) -> None:
    if data_dir.exists() and any(data_dir.iterdir()):
        raise StateError(f"{data_dir} is not empty: restore into a new folder")
    if revisions.current(url) is not None:
        raise StateError("the database has tables: restore into an empty one")


def _sources(settings: WorkerSettings) -> Iterator[tuple[Path, str]]:
    """Yield the files that a backup holds, with their names below the data folder."""
    for name, folder in (("spool", settings.spool), ("models", settings.models)):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.endswith(PARTIAL_SUFFIX):
                yield path, f"{name}/{path.relative_to(folder)}"
    for name in (PATIENT_KEY_FILE, UP_FILE):
        if (settings.data_dir / name).is_file():
            yield settings.data_dir / name, name


def _copy_head(settings: WorkerSettings, folder: Path) -> Path | None:
    """Copy what the data folder knows of the audit trail; None where it knows none."""
    target = folder / DATA / HEAD_FILE
    target.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        return Path(shutil.copy2(settings.data_dir / HEAD_FILE, target))
    return None


def _copy_database(url: str, folder: Path) -> str:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with (
            closing(
                sqlite3.connect(f"file:{parsed.database}?mode=ro", uri=True)
            ) as one,
            closing(sqlite3.connect(folder / SQLITE_COPY)) as copy,
        ):
            one.backup(copy)  # consistent, although others write meanwhile
        return SQLITE_COPY
    target = folder / POSTGRES_DUMP
    _postgres(parsed, "pg_dump", ("--format=custom", f"--file={target}"))
    return POSTGRES_DUMP


def _put_database(source: Path, url: str) -> None:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        options = ("--exit-on-error", "--single-transaction", "--no-owner")
        _postgres(parsed, "pg_restore", options, str(source))
        return
    target = Path(str(parsed.database))
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _postgres(
    url: sa.URL, program: str, options: Sequence[str], *arguments: str
) -> None:
    """Run one of PostgreSQL's own programs; the password is not on its command line."""
    plain = url.set(drivername="postgresql", password=None)
    address = plain.render_as_string(hide_password=False)
    environment = dict(os.environ)  # noqa: TID251 - handed on unread
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(
            [program, f"--dbname={address}", "--no-password", *options, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    except FileNotFoundError as error:
        raise SettingsError(
            f"{program} is not installed: get PostgreSQL's client programs"
        ) from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PermanentError(f"{program} failed: {said}")


def _write_manifest(folder: Path, made: Backup) -> None:
    content: dict[str, Any] = {"format": FORMAT, "version": __version__}
    content |= {name: getattr(made, name) for name in Backup.__dataclass_fields__}
    path = folder / MANIFEST
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
