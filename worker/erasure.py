"""Taking everything of a study out of the installation: rows first, then files.

What archives hold is not touched. Rows are found by the tables' own foreign keys, so a
table that is added later is not forgotten.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from dicom_node import audit, ledger, purge
from dicom_node.audit import Action, Code, Event, Trail
from dicom_node.db import Base, Sessions, now
from dicom_node.errors import StudyStateError
from dicom_node.ledger import StudyRecord
from dicom_node.spool import Spool, study_folders
from dicom_node.study import StudyState, StudyUid
from dicom_node.tables import ConflictRow, DeliveryRow, DocumentRow, InstanceRow
from worker import chronicle, keeping

STUDY_COLUMN = "study_uid"
"""Rows of tables with this column go; the audit trail calls it otherwise, and stays."""


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was taken out."""

    rows: int
    files: int


def erase(
    sessions: Sessions, spool: Spool, uid: StudyUid, trail: Trail, by: str
) -> Erased:
    """Take a study out: images, marks, results, documents and their files.

    Called again after a kill it finishes what is left. The audit trail keeps what it
    has of the study, gets what it has not yet, and says who took the study out.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It is being received, analysed or sent now.
        SpoolFullError: The volume fails; rows are gone, files are swept later.
    """
    with sessions.begin() as session:
        study = ledger.lock(session, uid)
        demand_idle(session, study)
        files = sorted({*_files(session, uid), *spool.of_study(uid)})
        held = list(keeping.of_study(session, uid).values())
        while chronicle.follow(session, trail):
            pass  # nothing can be made of rows that are gone
        patient = study.patient_key
        rows = _delete(session, uid)
        detail = f"{rows} rows, {len(files)} files"
        gone = Event(
            Code.DELETED,
            Action.DELETE,
            "study erased",
            by,
            study=uid,
            detail=detail,
            patient=patient,
        )
        audit.record(session, trail, gone)
    removed = spool.remove(files)
    for below in study_folders(uid):
        with suppress(OSError):
            spool.absolute(below).rmdir()
    with sessions.begin() as session:
        removed += keeping.drop(session, spool, held)
    return Erased(rows, removed)


def demand_idle(session: Session, study: StudyRecord) -> None:
    """Refuse a study that somebody works on at this moment.

    Raises:
        StudyStateError: It is being received, analysed or sent.
    """
    uid = study.study_uid
    sending = exists().where(
        DeliveryRow.study_uid == uid, DeliveryRow.lease_until > now()
    )
    doing = None
    if study.state is StudyState.ANALYZING:
        doing = "analysed"
    elif purge.is_arriving(session, uid, now()):
        doing = "received"
    elif session.scalar(select(sending)):
        doing = "sent"
    if doing is not None:
        raise StudyStateError(f"study {uid} is being {doing}: try again shortly")


def _files(session: Session, uid: StudyUid) -> Iterator[Path]:
    for table in (InstanceRow, ConflictRow, DocumentRow):
        paths = session.scalars(select(table.path).where(table.study_uid == uid))
        yield from map(Path, paths)


def _delete(session: Session, uid: StudyUid) -> int:
    """Delete the rows of a study, those that refer to others first."""
    tables = Base.metadata.sorted_tables
    chosen: dict[Table, ColumnElement[bool]] = {}
    for table in tables:
        conditions = list(_conditions(table, uid, chosen))
        if conditions:
            chosen[table] = or_(*conditions)
    for table, column in _loose_ends(chosen):
        gone = select(_target(column)).where(chosen[_target(column).table])
        session.execute(
            update(table).where(column.in_(gone)).values({column.name: None})
        )
    rows = 0
    for table in reversed(tables):
        if table in chosen:
            done: Any = session.execute(delete(table).where(chosen[table]))
            rows += done.rowcount
    return rows


def _conditions(
    table: Table, uid: StudyUid, chosen: dict[Table, ColumnElement[bool]]
) -> Iterator[ColumnElement[bool]]:
    """Yield what makes a row one of the study: it names it, or refers to a row of it.

    A row that may also stand without what it refers to, and names no study, stays.
    """
    if STUDY_COLUMN in table.c:
        yield table.c[STUDY_COLUMN] == uid
    for column in table.c:
        for key in column.foreign_keys:
            target = key.column
            if column.nullable or target.table is table or target.table not in chosen:
                continue
            yield column.in_(select(target).where(chosen[target.table]))


def _loose_ends(
    chosen: dict[Table, ColumnElement[bool]],
) -> Iterator[tuple[Table, Column[Any]]]:
    """Yield columns that may be empty and refer to rows that go."""
    for table in Base.metadata.sorted_tables:
        for column in table.c:
            if column.nullable and column.foreign_keys:
                target = _target(column).table
                if target is not table and target in chosen:
                    yield table, column


def _target(column: Column[Any]) -> Column[Any]:
    (key,) = column.foreign_keys
    return key.column
