"""The audit trail: who did what to which study, append-only and chained.

`record` appends inside the caller's transaction, so that an action and its entry are
both there or neither is. One writer at a time has the end of the chain, until it
commits: record last in a transaction, after every other lock is held.

No entry holds a name, an ID or a birth date: a patient is the keyed hash that the
ledger has. Length and end of the chain stand in a file of the data folder too, written
after each commit, so that cutting off the newest entries shows.
"""

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy import event as sql_events
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node import __version__, chain
from dicom_node.chain import Head, Link, Verdict
from dicom_node.db import Sessions, now
from dicom_node.settings import NodeSettings, patient_secret
from dicom_node.tables import AuditRow, StudyRow

log = logging.getLogger(__name__)

HEAD_FILE: Final = "audit.head"
PENDING: Final = "audit_heads"
BATCH: Final = 1000


class Code(StrEnum):
    """What kind of event it is: event IDs of DICOM PS3.15 A.5 (DCM, CID 400)."""

    APPLICATION = "110100"
    AUDIT_LOG_USED = "110101"
    BEGIN_TRANSFERRING = "110102"
    ACCESSED = "110103"
    TRANSFERRED = "110104"
    DELETED = "110105"
    EXPORT = "110106"
    IMPORT = "110107"
    PATIENT_RECORD = "110110"
    QUERY = "110112"
    SECURITY_ALERT = "110113"


class Kind(StrEnum):
    """A narrower type of event (DCM, CID 401)."""

    START = "110120"
    STOP = "110121"
    NODE_AUTHENTICATION = "110126"
    SOFTWARE_CONFIGURATION = "110131"


class Action(StrEnum):
    """EventActionCode: create, read, update, delete, execute."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `detail` is a sentence of ours, without free text.

    `actor` is a user of the operating system, an AE title, or a process; `host` is
    where it acted. `patient` is a keyed hash; where it is None and `study` is known,
    it is looked up. `source` names the row that an entry was made of afterwards.
    `peer` is the other side of a transfer or a query, AET@HOST[:PORT] or a URL, and
    `objects` how many of which SOP class there were (see `classes`).
    """

    code: Code
    action: Action
    what: str
    actor: str
    study: str | None = None
    object_id: str | None = None
    detail: str = ""
    kind: Kind | None = None
    outcome: int = Outcome.SUCCESS
    host: str = field(default_factory=socket.gethostname)
    patient: str | None = None
    source: str | None = None
    at: datetime = field(default_factory=now)
    peer: str | None = None
    objects: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its place in the chain."""

    sequence: int
    event: Event
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Trail:
    """The key of an installation's chain, and the file that knows its end."""

    key: bytes = field(repr=False)
    head_file: Path


COLUMNS: Final = tuple(one.name for one in fields(Event))
ADDED: Final = frozenset({"peer", "objects"})
"""Columns that came later: entries without them have the hashes they always had."""


def trail_of(settings: NodeSettings) -> Trail:
    """Return the trail of an installation."""
    key = chain.derive_key(patient_secret(settings))
    return Trail(key, settings.data_dir / HEAD_FILE)


def record(session: Session, trail: Trail, *events: Event) -> None:
    """Append events, in this order; call it last in a transaction."""
    if not events:
        return
    serialize(session)
    head = _end(session)
    patients = _patients(session, events)
    for one in events:
        values = {name: getattr(one, name) for name in COLUMNS}
        values["patient"] = one.patient or patients.get(one.study or "")
        values["outcome"] = int(one.outcome)
        sequence = head.count + 1
        made = chain.digest(trail.key, head.hash, _content(sequence, values))
        session.add(
            AuditRow(sequence=sequence, **values, previous_hash=head.hash, hash=made)
        )
        head = Head(sequence, made)
    session.flush()
    _remember(session, trail, head)


def activity(
    sessions: Sessions, settings: NodeSettings, what: tuple[Kind, str], by: str
) -> None:
    """Enter that a process of this installation starts or stops, and who made it.

    A database that does not answer must not stop a stop: then the log says it.
    """
    kind, said = what
    event = Event(
        Code.APPLICATION,
        Action.EXECUTE,
        said,
        by,
        object_id="sentinode",
        detail=f"version {__version__}, {settings.aet} on port {settings.port}",
        kind=kind,
    )
    try:
        with sessions.begin() as session:
            record(session, trail_of(settings), event)
    except SQLAlchemyError as error:
        log.error("not in the audit trail: %s (%s)", said, type(error).__name__)  # noqa: TRY400 - the text says all


def entries(
    session: Session,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    actor: str | None = None,
    study: str | None = None,
) -> Iterator[Entry]:
    """Yield the entries, oldest first, narrowed by what is given."""
    query = select(AuditRow)
    if since is not None:
        query = query.where(AuditRow.at >= since)
    if until is not None:
        query = query.where(AuditRow.at < until)
    if actor is not None:
        query = query.where(AuditRow.actor == actor)
    if study is not None:
        query = query.where(AuditRow.study == study)
    for row in _pages(session, query):
        yield _entry(row)


def after(session: Session, sequence: int, limit: int) -> list[Entry]:
    """Return the entries that follow a number, oldest first."""
    rows = session.scalars(
        select(AuditRow)
        .where(AuditRow.sequence > sequence)
        .order_by(AuditRow.sequence)
        .limit(limit)
    )
    return [_entry(row) for row in rows]


def _entry(row: AuditRow) -> Entry:
    event = Event(**{name: getattr(row, name) for name in COLUMNS})
    return Entry(row.sequence, event, row.previous_hash, row.hash)


def verify(
    session: Session,
    trail: Trail,
    head: Head | None,
    witnessed: Mapping[int, str] = chain.NOTHING,
) -> Verdict:
    """Walk the whole chain; see `chain.verify`."""
    return chain.verify(trail.key, _links(session), head, witnessed)


def known_head(trail: Trail) -> Head | None:
    """Return what the file in the data folder knows of the chain; None without one.

    Raises:
        ValueError: The file was damaged.
    """
    try:
        text = trail.head_file.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    said = json.loads(text)
    return Head(int(said["count"]), str(said["hash"]))


def _links(session: Session) -> Iterator[Link]:
    for row in _pages(session, select(AuditRow)):
        values = {name: getattr(row, name) for name in COLUMNS}
        content = _content(row.sequence, values)
        yield Link(row.sequence, content, row.previous_hash, row.hash)


def _pages(session: Session, query: Select[AuditRow]) -> Iterator[AuditRow]:
    """Yield rows in their order, a page at a time: whoever looks may stop early."""
    last = -1
    while rows := session.scalars(
        query.where(AuditRow.sequence > last).order_by(AuditRow.sequence).limit(BATCH)
    ).all():
        yield from rows
        last = rows[-1].sequence
        session.expunge_all()


def _content(sequence: int, values: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: one for name, one in values.items() if name not in ADDED or one}
    return {"sequence": sequence, **said}


def serialize(session: Session) -> None:
    """Wait for the end of the chain; SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        key = func.hashtext("sentinode audit")
        session.execute(select(func.pg_advisory_xact_lock(key)))


def _end(session: Session) -> Head:
    row = session.execute(
        select(AuditRow.sequence, AuditRow.hash)
        .order_by(AuditRow.sequence.desc())
        .limit(1)
    ).one_or_none()
    return chain.EMPTY if row is None else Head(*row)


def _patients(session: Session, events: tuple[Event, ...]) -> dict[str, str]:
    uids = {one.study for one in events if one.study and not one.patient}
    rows = session.execute(
        select(StudyRow.study_uid, StudyRow.patient_key).where(
            StudyRow.study_uid.in_(uids)
        )
    )
    return {uid: key for uid, key in rows}  # noqa: C416 - rows are no pairs to mypy


def _remember(session: Session, trail: Trail, head: Head) -> None:
    """Write the end of the chain into its file once this transaction has committed."""
    session.info[PENDING] = (trail.head_file, head)
    if not sql_events.contains(session, "after_commit", _committed):
        sql_events.listen(session, "after_commit", _committed)
        sql_events.listen(session, "after_rollback", _rolled_back)


def _committed(session: Session) -> None:
    pending = session.info.pop(PENDING, None)
    if pending is None:
        return
    try:
        _write_head(*pending)
    except OSError as error:  # the entry is there; a later one mends the file
        extra = {"path": str(pending[0]), "why": error.strerror}
        log.error("the end of the audit trail was not noted", extra=extra)  # noqa: TRY400 - the text says all


def _rolled_back(session: Session) -> None:
    session.info.pop(PENDING, None)


def _write_head(path: Path, head: Head) -> None:
    """Note how long the chain is; a process that comes late takes nothing back."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+", encoding="ascii") as file:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(ValueError, KeyError, TypeError):
            if int(json.load(file)["count"]) >= head.count:
                return
        file.seek(0)
        file.write(json.dumps({"count": head.count, "hash": head.hash}) + "\n")
        file.truncate()
        file.flush()
        os.fsync(handle)
