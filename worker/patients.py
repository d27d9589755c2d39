"""Taking everything of a patient out of the installation, and saying what stays.

Studies go one by one (`erasure`), after what belongs to the patient and to no study:
parked results of pathology with their messages, the role in training, objects that lie
in quarantine under another patient's study. The audit trail keeps its entries.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session

from dicom_node import audit, ledger
from dicom_node.audit import Action, Code, Event, Trail
from dicom_node.db import Sessions
from dicom_node.errors import StateError, UnreadableObjectError
from dicom_node.intake import Intake
from dicom_node.ledger import StudyRecord
from dicom_node.study import Patient, StudyUid
from dicom_node.tables import (
    ConflictRow,
    DeliveryRow,
    DocumentRow,
    InstanceRow,
    StudyRow,
)
from worker import erasure
from worker.tables import (
    MessageRow,
    ParkedPatientRow,
    ParkedRow,
    PatientRoleRow,
    ResultRow,
    SlndRow,
    SnapshotRow,
)


@dataclass(frozen=True, slots=True)
class Belongings:
    """What the installation holds of a patient.

    `mixed` are studies that hold objects of another patient too. `quarantined` are
    objects of the patient that came under a study of another. `archives` counts the
    documents that each destination took, `snapshots` names the training data that
    cases of the patient are in: none of these can be taken back here.
    """

    patient: Patient
    studies: tuple[StudyRecord, ...]
    mixed: tuple[StudyUid, ...]
    parked: tuple[int, ...]
    messages: tuple[int, ...]
    quarantined: tuple[int, ...]
    archives: dict[str, int]
    snapshots: tuple[str, ...]
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Gone:
    """How much was taken out."""

    studies: int
    rows: int
    files: int


def look(session: Session, intake: Intake, patient: Patient) -> Belongings:
    """Return what there is of a patient; nothing is changed.

    Raises:
        StateError: Patients of several issuers have this ID, and none was named.
    """
    studies = tuple(_studies(session, patient))
    uids = [one.study_uid for one in studies]
    parked = tuple(_parked(session, patient))
    return Belongings(
        patient,
        studies,
        mixed=tuple(_mixed(session, patient, uids)),
        parked=parked,
        messages=tuple(_messages(session, parked, uids)),
        quarantined=tuple(_quarantined(session, intake, patient, uids)),
        archives=_archives(session, uids),
        snapshots=tuple(_snapshots(session, uids)),
        names=frozenset(_names(session, uids, patient)),
    )


def erase(
    sessions: Sessions, intake: Intake, found: Belongings, trail: Trail, by: str
) -> Gone:
    """Take out what was found; called again after a kill, it finishes what is left.

    Raises:
        StudyStateError: Something of the patient is being received, analysed or sent;
            nothing was removed.
        SpoolFullError: The volume fails.
    """
    with sessions.begin() as session:
        for study in found.studies:
            erasure.demand_idle(session, ledger.lock(session, study.study_uid))
        files = _quarantine_paths(session, found.quarantined)
        rows = _delete_own(session, found)
        detail = f"{len(found.studies)} studies, {rows} rows of no study"
        gone = Event(
            Code.PATIENT_RECORD,
            Action.DELETE,
            "patient erased",
            by,
            detail=detail,
            patient=found.patient.key,
        )
        audit.record(session, trail, gone)
    removed = intake.spool.remove(files)
    for study in found.studies:
        done = erasure.erase(sessions, intake.spool, study.study_uid, trail, by)
        rows += done.rows
        removed += done.files
    return Gone(len(found.studies), rows, removed)


def _studies(session: Session, patient: Patient) -> Iterator[StudyRecord]:
    """Yield the patient's studies, and those that hold an object of the patient."""
    keys = InstanceRow.patient_key, InstanceRow.issuer_key
    objects = session.execute(
        select(InstanceRow.study_uid, *keys)
        .where(InstanceRow.patient_key == patient.key)
        .distinct()
    )
    of = {(uid, Patient(key, issuer)) for uid, key, issuer in objects}
    for one in ledger.of_patients(session, [patient.key]):
        of.add((one.study_uid, Patient(one.patient_key, one.issuer_key)))
    issuers = {whose.issuer_key for _, whose in of} - {None}
    if patient.issuer_key is None and len(issuers) > 1:
        raise StateError(
            f"{len(issuers)} issuers of patient IDs have given this one: name yours "
            "with --issuer"
        )
    for uid in sorted({uid for uid, whose in of if not whose.differs(patient)}):
        yield ledger.study(session, StudyUid(uid))


def _mixed(
    session: Session, patient: Patient, uids: Collection[str]
) -> Iterator[StudyUid]:
    rows = session.execute(
        select(InstanceRow.study_uid, InstanceRow.patient_key, InstanceRow.issuer_key)
        .where(InstanceRow.study_uid.in_(uids))
        .distinct()
    )
    others = {uid for uid, key, issuer in rows if Patient(key, issuer).differs(patient)}
    for uid in sorted(others):
        yield StudyUid(uid)


def _parked(session: Session, patient: Patient) -> Iterator[int]:
    rows = session.scalars(
        select(ParkedPatientRow).where(ParkedPatientRow.patient_key == patient.key)
    )
    for row in rows:
        known = set(row.issuer_keys)
        if not known or patient.issuer_key is None or patient.issuer_key in known:
            yield row.parked_id


def _messages(
    session: Session, parked: Collection[int], uids: Collection[str]
) -> Iterator[int]:
    """Yield the HL7 messages that brought results of the patient."""
    brought = select(SlndRow.message_id).where(SlndRow.study_uid.in_(uids))
    waited = select(ParkedRow.message_id).where(ParkedRow.parked_id.in_(parked))
    for query in (brought, waited):
        yield from (one for one in session.scalars(query) if one is not None)


def _quarantined(
    session: Session, intake: Intake, patient: Patient, uids: Collection[str]
) -> Iterator[int]:
    """Yield what lies in quarantine under other studies and is of this patient."""
    rows = session.scalars(
        select(ConflictRow).where(
            ConflictRow.patient_differs, ConflictRow.study_uid.not_in(uids)
        )
    )
    for row in rows:
        try:
            one = intake.rebuild(Path(row.path))
        except UnreadableObjectError:
            continue  # it is not there any more
        if one.patient_key == patient.key and not one.patient.differs(patient):
            yield row.conflict_id


def _quarantine_paths(session: Session, conflicts: Collection[int]) -> list[Path]:
    query = select(ConflictRow.path).where(ConflictRow.conflict_id.in_(conflicts))
    return [Path(path) for path in session.scalars(query)]


def _archives(session: Session, uids: Collection[str]) -> dict[str, int]:
    rows = session.execute(
        select(DeliveryRow.destination, func.count())
        .where(DeliveryRow.study_uid.in_(uids), DeliveryRow.sent_at.is_not(None))
        .group_by(DeliveryRow.destination)
    )
    return {name: count for name, count in rows}  # noqa: C416 - rows are no pairs to mypy


def _snapshots(session: Session, uids: Collection[str]) -> Iterator[str]:
    results = set(
        session.scalars(
            select(ResultRow.result_id).where(ResultRow.study_uid.in_(uids))
        )
    )
    for snapshot_id, held in session.execute(
        select(SnapshotRow.snapshot_id, SnapshotRow.results)
    ):
        if results & set(held):
            yield snapshot_id


def _namesake(found: Belongings) -> ColumnElement[bool]:
    """Return the condition that another issuer's patient has the same ID."""
    uids = [one.study_uid for one in found.studies]
    return exists().where(
        StudyRow.patient_key == found.patient.key, StudyRow.study_uid.not_in(uids)
    )


def _names(session: Session, uids: Collection[str], patient: Patient) -> Iterator[str]:
    """Yield what logs may call the patient's studies and objects."""
    yield from uids
    yield patient.key
    for row in session.execute(
        select(InstanceRow.series_uid, InstanceRow.sop_instance_uid).where(
            InstanceRow.study_uid.in_(uids)
        )
    ):
        yield from row
    for column in (DocumentRow.sop_instance_uid, DocumentRow.sha256):
        yield from session.scalars(
            select(column).where(DocumentRow.study_uid.in_(uids))
        )


def _delete_own(session: Session, found: Belongings) -> int:
    """Delete the rows that are the patient's and of no study."""
    parked = ParkedPatientRow.parked_id.in_(found.parked)
    unclaimed = (
        ~select(ParkedRow).where(ParkedRow.message_id == MessageRow.message_id).exists()
    )
    statements: tuple[Any, ...] = (
        delete(ParkedPatientRow).where(parked),
        delete(ParkedRow).where(ParkedRow.parked_id.in_(found.parked)),
        delete(MessageRow).where(MessageRow.message_id.in_(found.messages), unclaimed),
        delete(ConflictRow).where(ConflictRow.conflict_id.in_(found.quarantined)),
        delete(PatientRoleRow).where(
            PatientRoleRow.patient_key == found.patient.key, ~_namesake(found)
        ),
    )
    rows = 0
    for one in statements:
        done: Any = session.execute(one)
        rows += done.rowcount
    return rows
