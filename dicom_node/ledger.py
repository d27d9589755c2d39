"""The only writer of study state: what came, what is due, who works on it.

Callers own the transaction; functions return values, never rows. State changes are
compare-and-set, so they may be tried twice, by two processes, or too late. The
`arrivals` half of the ledger is re-exported here.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Update, or_, select, update
from sqlalchemy.orm import Session

from dicom_node.arrivals import (
    CONTRADICTIONS,
    Association,
    Conflict,
    accept_contradiction,
    add_event,
    carries,
    close_association,
    close_stale,
    complete_due,
    contradiction,
    issuer_key,
    open_association,
    paths,
    patient_key,
    patient_of,
    queue,
    record,
    record_conflict,
)
from dicom_node.completion import QuietPeriods
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.study import (
    Reason,
    SopInstanceUid,
    StoredInstance,
    StudyState,
    StudyUid,
)
from dicom_node.tables import EventRow, InstanceRow, StudyRow

__all__ = [
    "CONTRADICTIONS",
    "Association",
    "Claim",
    "Conflict",
    "QuietPeriods",
    "StudyEvent",
    "StudyRecord",
    "add_event",
    "announced",
    "carries",
    "claim",
    "close_association",
    "close_stale",
    "complete",
    "complete_due",
    "events",
    "expire_leases",
    "finish",
    "give_back",
    "instance",
    "instances",
    "issuer_key",
    "lock",
    "of_patients",
    "open_association",
    "paths",
    "patient_key",
    "patient_of",
    "record",
    "record_conflict",
    "release_all",
    "requeue",
    "studies",
    "study",
    "unannounced",
]


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's right to analyse a study as it stood at `revision`.

    `instances` leaves our own reports out; their paths are relative to the spool.
    `attempts` counts this one. `contradiction` is set when the objects contradict
    one another (see `dicom_node.arrivals.contradiction`): then only a hold is right.
    """

    study_uid: StudyUid
    token: str
    revision: int
    attempts: int
    calling_ae: str
    patient_key: str
    issuer_key: str | None
    instances: tuple[StoredInstance, ...]
    contradiction: tuple[Reason, str] | None
    received_at: datetime
    last_received_at: datetime
    queued_at: datetime | None


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as people and scripts see it."""

    study_uid: StudyUid
    state: StudyState
    reason: Reason | None
    detail: str | None
    patient_key: str
    issuer_key: str | None
    calling_ae: str
    received_at: datetime
    last_received_at: datetime
    quiet_until: datetime
    queued_at: datetime | None
    instances: int
    revision: int
    attempts: int
    claimed_by: str | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class StudyEvent:
    """One line of a study's history; `detail` names no patient."""

    at: datetime
    what: str
    detail: str


def complete(session: Session, uid: StudyUid, at: datetime) -> None:
    """Queue a study that still receives, because a person says that it is complete.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: The study does not receive, or its objects contradict.
    """
    study = _locked(session, uid)
    if study.state is not StudyState.RECEIVING:
        raise StudyStateError(f"study {uid} is {study.state}, not receiving")
    found = contradiction(session, uid)
    if found is not None:
        raise StudyStateError(f"study {uid} cannot be analysed: {found[1]}")
    queue(session, study, "complete: said by hand", at)


def requeue(
    session: Session,
    uid: StudyUid,
    at: datetime,
    why: str,
    *,
    resolve_conflicts: bool = False,
) -> None:
    """Queue a study again.

    Args:
        session: A writing session.
        uid: The study.
        at: The time of this call.
        why: One sentence for the study's history.
        resolve_conflicts: A person has looked at what contradicts, and takes the
            first object that came under each UID. What comes later contradicts anew.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: The study still receives, or is being analysed; or its
            objects contradict, and this call does not resolve that.
    """
    study = _locked(session, uid)
    if study.state in {StudyState.RECEIVING, StudyState.ANALYZING}:
        raise StudyStateError(f"study {uid} is {study.state}")
    found = contradiction(session, uid)
    if found is not None:
        if not resolve_conflicts:
            raise StudyStateError(
                f"study {uid} cannot be analysed: {found[1]}; once a person has "
                "looked, `sentinode studies requeue` accepts the first object"
            )
        accept_contradiction(session, uid, at)
        why = f"{why}; accepted: {found[1]}"
    study.revision += 1
    queue(session, study, why, at)


def unannounced(
    session: Session, at: datetime, resend_after: timedelta, limit: int
) -> list[StudyUid]:
    """Return queued studies without a message, or with one that seems lost."""
    found = session.scalars(
        select(StudyRow.study_uid)
        .where(
            StudyRow.state == StudyState.QUEUED,
            or_(
                StudyRow.announced_at.is_(None),
                StudyRow.announced_at <= at - resend_after,
            ),
        )
        .order_by(StudyRow.queued_at)
        .limit(limit)
    )
    return [StudyUid(uid) for uid in found]


def announced(session: Session, uids: Sequence[StudyUid], at: datetime) -> None:
    """Enter that a message was sent for studies that are queued."""
    session.execute(
        update(StudyRow)
        .where(StudyRow.study_uid.in_(uids), StudyRow.state == StudyState.QUEUED)
        .values(announced_at=at)
    )


def claim(
    session: Session, uid: StudyUid, worker: str, lease: timedelta, at: datetime
) -> Claim | None:
    """Take a queued study for one worker; None when there is nothing to do.

    The claim holds until `at + lease`, or until an instance arrives.
    """
    token = str(uuid.uuid4())
    taken = _rowcount(
        session,
        update(StudyRow)
        .where(StudyRow.study_uid == uid, StudyRow.state == StudyState.QUEUED)
        .values(
            state=StudyState.ANALYZING,
            claim_token=token,
            claimed_by=worker,
            lease_until=at + lease,
            attempts=StudyRow.attempts + 1,
        ),
    )
    if not taken:
        return None
    study = _found(session, uid)
    add_event(session, uid, "analyzing", f"claimed by {worker}", at)
    return Claim(
        study_uid=uid,
        token=token,
        revision=study.revision,
        attempts=study.attempts,
        calling_ae=study.calling_ae,
        patient_key=study.patient_key,
        issuer_key=study.issuer_key,
        instances=tuple(instances(session, uid)),
        contradiction=contradiction(session, uid),
        received_at=study.received_at,
        last_received_at=study.last_received_at,
        queued_at=study.queued_at,
    )


def finish(  # noqa: PLR0913, PLR0917 - the outcome of a claim, in one call
    session: Session,
    claim: Claim,
    state: StudyState,
    at: datetime,
    reason: Reason | None = None,
    detail: str | None = None,
) -> bool:
    """Close an analysis, if its claim still holds; call it first in a transaction.

    Returns:
        False when an instance re-opened the study, or the lease was lost: then
        nothing of the analysis may be recorded or sent.
    """
    done = _leave_analyzing(
        session, claim.study_uid, claim.token, state=state, reason=reason, detail=detail
    )
    if done:
        text = ": ".join(str(part) for part in (reason, detail) if part)
        add_event(session, claim.study_uid, state.value, text, at)
    return done


def give_back(
    session: Session,
    claim: Claim,
    at: datetime,
    detail: str,
    *,
    transient: bool = False,
) -> bool:
    """Return a study to the queue after a failure that may pass.

    The next message goes out when the sweep takes this one for lost, so a failure
    that lasts is not retried in a tight loop.

    Args:
        session: A writing session.
        claim: What was claimed.
        at: The time of this call.
        detail: One sentence without a patient's name, ID or date.
        transient: The study is not to blame, so the attempt does not count: a long
            outage does not use up the attempts that a crash has.

    Returns:
        False when the claim does not hold any more: then nothing was entered.
    """
    values: dict[str, object] = {"state": StudyState.QUEUED, "announced_at": at}
    if transient:
        values["attempts"] = claim.attempts - 1
    done = _leave_analyzing(session, claim.study_uid, claim.token, **values)
    if done:
        add_event(session, claim.study_uid, "queued", detail, at)
    return done


def expire_leases(
    session: Session, at: datetime, max_attempts: int = 3
) -> list[StudyUid]:
    """Queue studies whose worker was lost, or fail them after too many attempts.

    Returns:
        The studies queued again.
    """
    lost = session.execute(
        select(StudyRow.study_uid, StudyRow.claim_token, StudyRow.attempts).where(
            StudyRow.state == StudyState.ANALYZING, StudyRow.lease_until <= at
        )
    ).all()
    queued = []
    for uid, token, attempts in lost:
        if attempts >= max_attempts:
            _fail_lost(session, StudyUid(uid), str(token), attempts, at)
        elif _requeue_lost(session, StudyUid(uid), str(token), at):
            queued.append(StudyUid(uid))
    return queued


def release_all(session: Session, at: datetime) -> int:
    """Queue every study under analysis again, when no worker can be alive.

    Studies that were queued are announced again too: the queue may be a new one.

    Returns:
        How many studies were under analysis.
    """
    held = session.execute(
        select(StudyRow.study_uid, StudyRow.claim_token).where(
            StudyRow.state == StudyState.ANALYZING
        )
    ).all()
    released = sum(
        _requeue_lost(session, StudyUid(uid), str(token), at) for uid, token in held
    )
    session.execute(
        update(StudyRow)
        .where(StudyRow.state == StudyState.QUEUED)
        .values(announced_at=None)
    )
    return released


def studies(
    session: Session, state: StudyState | None = None, limit: int | None = None
) -> list[StudyRecord]:
    """Return studies, the one that received last first."""
    query = select(StudyRow).order_by(
        StudyRow.last_received_at.desc(), StudyRow.study_uid
    )
    if state is not None:
        query = query.where(StudyRow.state == state)
    return [_record(row) for row in session.scalars(query.limit(limit))]


def study(session: Session, uid: StudyUid) -> StudyRecord:
    """Return one study.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    return _record(_found(session, uid))


def lock(session: Session, uid: StudyUid) -> StudyRecord:
    """Return one study, which nobody else moves on before this transaction ends.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    return _record(_locked(session, uid))


def of_patients(session: Session, keys: Collection[str]) -> list[StudyRecord]:
    """Return the studies whose patient has one of these keyed hashes."""
    found = session.scalars(
        select(StudyRow)
        .where(StudyRow.patient_key.in_(keys))
        .order_by(StudyRow.study_uid)
    )
    return [_record(row) for row in found]


def events(session: Session, uid: StudyUid) -> list[StudyEvent]:
    """Return a study's history, oldest first."""
    rows = session.scalars(
        select(EventRow).where(EventRow.study_uid == uid).order_by(EventRow.event_id)
    )
    return [StudyEvent(row.at, row.what, row.detail) for row in rows]


def instance(session: Session, uid: SopInstanceUid) -> StoredInstance | None:
    """Return one instance, None when it is not entered; `path` is relative."""
    row = session.get(InstanceRow, uid)
    return None if row is None else _stored(row)


def instances(session: Session, uid: StudyUid) -> list[StoredInstance]:
    """Return the instances of a study but our own reports; paths are relative."""
    rows = session.scalars(
        select(InstanceRow)
        .where(InstanceRow.study_uid == uid, InstanceRow.own.is_(False))
        .order_by(InstanceRow.series_uid, InstanceRow.sop_instance_uid)
    )
    return [_stored(row) for row in rows]


def _locked(session: Session, uid: StudyUid) -> StudyRow:
    row = session.get(StudyRow, uid, with_for_update=True, populate_existing=True)
    if row is None:
        raise StudyNotFoundError(f"there is no study {uid}")
    return row


def _found(session: Session, uid: StudyUid) -> StudyRow:
    row = session.get(StudyRow, uid, populate_existing=True)
    if row is None:
        raise StudyNotFoundError(f"there is no study {uid}")
    return row


def _leave_analyzing(
    session: Session, uid: StudyUid, token: str, **values: object
) -> bool:
    """Move a study out of `analyzing` if the claim of this token still holds."""
    cleared = {"claim_token": None, "claimed_by": None, "lease_until": None}
    holds: tuple[ColumnElement[bool], ...] = (
        StudyRow.study_uid == uid,
        StudyRow.state == StudyState.ANALYZING,
        StudyRow.claim_token == token,
    )
    statement = update(StudyRow).where(*holds).values(**cleared, **values)
    return _rowcount(session, statement) == 1


def _requeue_lost(session: Session, uid: StudyUid, token: str, at: datetime) -> bool:
    done = _leave_analyzing(
        session, uid, token, state=StudyState.QUEUED, announced_at=None
    )
    if done:
        add_event(session, uid, "queued", "its worker was lost", at)
    return done


def _fail_lost(
    session: Session, uid: StudyUid, token: str, attempts: int, at: datetime
) -> None:
    detail = f"no worker survived it in {attempts} attempts"
    if _leave_analyzing(
        session,
        uid,
        token,
        state=StudyState.FAILED,
        reason=Reason.WORKER_LOST,
        detail=detail,
    ):
        add_event(session, uid, "failed", f"{Reason.WORKER_LOST}: {detail}", at)


def _rowcount(session: Session, statement: Update) -> int:
    """Execute an update and return how many rows it changed."""
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def _record(row: StudyRow) -> StudyRecord:
    return StudyRecord(
        study_uid=StudyUid(row.study_uid),
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        patient_key=row.patient_key,
        issuer_key=row.issuer_key,
        calling_ae=row.calling_ae,
        received_at=row.received_at,
        last_received_at=row.last_received_at,
        quiet_until=row.quiet_until,
        queued_at=row.queued_at,
        instances=row.instances,
        revision=row.revision,
        attempts=row.attempts,
        claimed_by=row.claimed_by,
        lease_until=row.lease_until,
    )


def _stored(row: InstanceRow) -> StoredInstance:
    return StoredInstance(
        sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
        series_uid=row.series_uid,
        sop_class_uid=row.sop_class_uid,
        path=Path(row.path),
        sha256=row.sha256,
    )
