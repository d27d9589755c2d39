"""SLND results that belong to no case yet: kept, tried again, resolved by a person.

Callers own the transaction. A row holds keyed hashes, side, result and dates; it names
no patient and quotes no message.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Deposit, Laterality, ParkReason, Slnd, SlndResult
from dicom_node.tables import StudyRow
from worker import slnd as rules
from worker.slnd import PatientKeys, Provenance, Recorded, SlndRefusedError, Wanted
from worker.tables import HL7, CaseRow, ParkedPatientRow, ParkedRow, ParkedState

RETRY_AFTER: Final = timedelta(seconds=10)
BATCH: Final = 100
WAITING: Final = frozenset(
    {
        ParkReason.UNKNOWN_PATIENT,
        ParkReason.NO_CASE,
        ParkReason.BEFORE_MRI,
        ParkReason.OUTSIDE_WINDOW,
        ParkReason.AMBIGUOUS,
    }
)
"""Reasons that another study may end; the rest needs a person. A withdrawal that found
nothing must not wait: it would take the next result for the one that it is about."""


class ParkedNotFoundError(NotFoundError):
    """No parked result has this number."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A result as it came: what is known of it, and of whom it is."""

    patients: tuple[PatientKeys, ...]
    side: Laterality | None
    result: Slnd | None
    deposit: Deposit | None
    performed_on: date | None
    correction: bool
    source: str
    message_id: int | None = None


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """A parked result as people and scripts see it."""

    parked_id: int
    arrived: Arrived
    state: ParkedState
    reason: ParkReason
    detail: str
    received_at: datetime
    tried_at: datetime
    ended_at: datetime | None
    ended_by: str | None
    slnd_id: int | None


def park(
    session: Session, arrived: Arrived, refusal: SlndRefusedError, at: datetime
) -> int:
    """Keep a result that cannot be recorded now; return its number."""
    row = ParkedRow(
        message_id=arrived.message_id,
        laterality=arrived.side,
        result=arrived.result,
        deposit=arrived.deposit,
        performed_on=arrived.performed_on,
        correction=arrived.correction,
        source=arrived.source,
        state=ParkedState.PARKED,
        reason=refusal.reason,
        detail=str(refusal),
        received_at=at,
        tried_at=at,
    )
    session.add(row)
    session.flush()
    session.add_all(
        ParkedPatientRow(
            parked_id=row.parked_id,
            patient_key=one.key,
            issuer_keys=list(one.issuer_keys),
        )
        for one in arrived.patients
    )
    return row.parked_id


def take(
    session: Session, arrived: Arrived, window: timedelta, at: datetime
) -> Recorded:
    """Record a result that came without a study, for the case that it belongs to.

    Raises:
        SlndRefusedError: It belongs to none for certain, or may not be recorded.
    """
    if arrived.side is None:
        raise SlndRefusedError(ParkReason.SIDE_UNKNOWN, "the side is not known")
    if arrived.result is None:
        raise SlndRefusedError(ParkReason.RESULT_UNKNOWN, "the result is not known")
    if arrived.performed_on is None and arrived.result is not Slnd.WITHDRAWN:
        text = "the day of the dissection is not known"
        raise SlndRefusedError(ParkReason.DATE_UNKNOWN, text)
    wanted = Wanted(arrived.patients, arrived.side, arrived.performed_on)
    uid = rules.match(session, wanted, window, at)
    slnd = SlndResult(
        arrived.result, arrived.deposit, arrived.performed_on, arrived.source, at
    )
    how = Provenance(HL7, arrived.correction, arrived.message_id)
    return rules.record(session, uid, arrived.side, slnd, how)


def due(session: Session, at: datetime) -> list[int]:
    """Return parked results whose patient has an analysed case, oldest first.

    A case of the other side will not take them, but says more than that the patient
    is unknown.
    """
    return list(
        session.scalars(
            select(ParkedRow.parked_id)
            .where(
                ParkedRow.state == ParkedState.PARKED,
                ParkedRow.tried_at <= at - RETRY_AFTER,
                ParkedRow.reason.in_(WAITING),
                exists().where(
                    ParkedPatientRow.parked_id == ParkedRow.parked_id,
                    ParkedPatientRow.patient_key == StudyRow.patient_key,
                    StudyRow.study_uid == CaseRow.study_uid,
                    or_(
                        CaseRow.laterality == ParkedRow.laterality,
                        ParkedRow.reason == ParkReason.UNKNOWN_PATIENT,
                    ),
                ),
            )
            .order_by(ParkedRow.tried_at, ParkedRow.parked_id)
            .limit(BATCH)
        )
    )


def retry(
    session: Session, parked_id: int, window: timedelta, at: datetime
) -> Recorded | None:
    """Try a parked result again; None when it does not fit yet, or has ended."""
    row = _found(session, parked_id)
    if row.state is not ParkedState.PARKED:
        return None
    row.tried_at = at
    try:
        recorded = take(session, _arrived(session, row), window, at)
    except SlndRefusedError as refusal:
        row.reason, row.detail = refusal.reason, str(refusal)
        return None
    row.slnd_id = recorded.slnd_id
    _end(row, ParkedState.RECORDED, "retry", at)
    return recorded


def parked(
    session: Session, study_uid: str | None = None, *, waiting_only: bool = False
) -> list[ParkedRecord]:
    """Return parked results, oldest first; of one study's patient, or all."""
    query = select(ParkedRow).order_by(ParkedRow.parked_id)
    if waiting_only:
        query = query.where(ParkedRow.state == ParkedState.PARKED)
    if study_uid is not None:
        query = query.where(
            exists().where(
                ParkedPatientRow.parked_id == ParkedRow.parked_id,
                ParkedPatientRow.patient_key == StudyRow.patient_key,
                StudyRow.study_uid == study_uid,
            )
        )
    return [_record(session, row) for row in session.scalars(query)]


def parked_one(session: Session, parked_id: int) -> ParkedRecord:
    """Return one parked result.

    Raises:
        ParkedNotFoundError: There is none of this number.
    """
    return _record(session, _found(session, parked_id))


def of_message(session: Session, message_id: int) -> list[ParkedRecord]:
    """Return what of a message was parked."""
    rows = session.scalars(select(ParkedRow).where(ParkedRow.message_id == message_id))
    return [_record(session, row) for row in rows]


def resolve(
    session: Session, parked_id: int, recorded: Recorded, by: str, at: datetime
) -> None:
    """Enter that a person recorded a parked result for a case.

    Raises:
        StateError: It does not wait any more.
    """
    row = _waiting(session, parked_id)
    row.slnd_id = recorded.slnd_id
    _end(row, ParkedState.RECORDED, by, at)


def discard(session: Session, parked_id: int, by: str, at: datetime) -> None:
    """Enter that a person does not want a parked result recorded.

    Raises:
        ParkedNotFoundError: There is none of this number.
        StateError: It does not wait any more.
    """
    _end(_waiting(session, parked_id), ParkedState.DISCARDED, by, at)


def _end(row: ParkedRow, state: ParkedState, by: str, at: datetime) -> None:
    row.state = state
    row.ended_at, row.ended_by = at, by


def _found(session: Session, parked_id: int) -> ParkedRow:
    row = session.get(ParkedRow, parked_id, with_for_update=True)
    if row is None:
        raise ParkedNotFoundError(f"no parked SLND result {parked_id}")
    return row


def _waiting(session: Session, parked_id: int) -> ParkedRow:
    row = _found(session, parked_id)
    if row.state is not ParkedState.PARKED:
        raise StateError(f"the parked SLND result {parked_id} is {row.state} already")
    return row


def _arrived(session: Session, row: ParkedRow) -> Arrived:
    patients = session.scalars(
        select(ParkedPatientRow)
        .where(ParkedPatientRow.parked_id == row.parked_id)
        .order_by(ParkedPatientRow.parked_patient_id)
    )
    return Arrived(
        patients=tuple(
            PatientKeys(one.patient_key, tuple(one.issuer_keys)) for one in patients
        ),
        side=row.laterality,
        result=row.result,
        deposit=row.deposit,
        performed_on=row.performed_on,
        correction=row.correction,
        source=row.source,
        message_id=row.message_id,
    )


def _record(session: Session, row: ParkedRow) -> ParkedRecord:
    return ParkedRecord(
        parked_id=row.parked_id,
        arrived=_arrived(session, row),
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        received_at=row.received_at,
        tried_at=row.tried_at,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
        slnd_id=row.slnd_id,
    )
