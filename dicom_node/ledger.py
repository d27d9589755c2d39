"""The only writer of study state: what came, what is due, who works on it.

Callers own the transaction; functions return values, never rows. State changes are
compare-and-set, so they may be tried twice, by two processes, or too late. The
`arrivals` half of the ledger is re-exported here, and so are what is known of its
completeness, of documents about other studies, and of rectangles set by hand.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Update, or_, select, update
from sqlalchemy.orm import Session

from dicom_node import waivers
from dicom_node.annotations import (
    ForeignDocument,
    elsewhere,
    foreign_documents,
    match,
    refer,
    stored,
    verdict,
)
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
    contradictions,
    issuer_key,
    open_association,
    paths,
    patient_key,
    patient_of,
    queue,
    record,
    record_conflict,
    study_of,
)
from dicom_node.backlog import is_untried_bulk
from dicom_node.completeness import (
    complete_early,
    count_agreed,
    count_differed,
    count_unanswered,
    needs_count,
    take_uncounted,
    take_unexamined,
)
from dicom_node.completion import LACKS_AN_OBJECT, QuietPeriods
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.findings import Roi
from dicom_node.marks import (
    Mark,
    current_marks,
    manual_rois,
    mark_history,
    set_mark,
)
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
    "ForeignDocument",
    "Mark",
    "QuietPeriods",
    "StudyEvent",
    "StudyRecord",
    "accept",
    "add_event",
    "announced",
    "announced_since",
    "carries",
    "claim",
    "close_association",
    "close_stale",
    "complete",
    "complete_due",
    "complete_early",
    "conclude",
    "contradiction",
    "contradictions",
    "count_agreed",
    "count_differed",
    "count_unanswered",
    "current_marks",
    "end_waivers",
    "events",
    "expire_leases",
    "finish",
    "foreign_documents",
    "give_back",
    "instance",
    "instances",
    "issuer_key",
    "lock",
    "manual_rois",
    "mark_history",
    "match",
    "note",
    "of_patients",
    "open_association",
    "paths",
    "patient_key",
    "patient_of",
    "record",
    "record_conflict",
    "refer",
    "release_all",
    "requeue",
    "set_mark",
    "studies",
    "study",
    "study_of",
    "take_uncounted",
    "take_unexamined",
    "unannounced",
    "waived",
]


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's right to analyse a study as it stood at `revision`.

    `instances` leaves our own reports out; their paths are relative to the spool.
    `foreign` are documents of other studies that mark its images, `manual` the
    rectangles that a person set by hand. `attempts` counts this one. `contradiction`
    is set when the objects contradict one another (see
    `dicom_node.arrivals.contradiction`): then only a hold is right. `waived` is what a
    person accepted of the study as it stands. `bulk` work lets other pass.
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
    foreign: tuple[ForeignDocument, ...] = ()
    manual: tuple[Roi, ...] = ()
    waived: frozenset[Reason] = frozenset()
    bulk: bool = False


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


def requeue(  # noqa: PLR0913 - what is said of one study, in one call
    session: Session,
    uid: StudyUid,
    at: datetime,
    why: str,
    *,
    resolve_conflicts: bool = False,
    bulk: bool = False,
) -> None:
    """Queue a study again.

    Args:
        session: A writing session.
        uid: The study.
        at: The time of this call.
        why: One sentence for the study's history.
        resolve_conflicts: A person has looked at what contradicts, and takes the
            first object that came under each UID. What comes later contradicts anew.
        bulk: One of many: it lets other work pass.

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
    queue(session, study, why, at, bulk=bulk)


def accept(
    session: Session,
    uid: StudyUid,
    reasons: Collection[Reason],
    by: str,
    at: datetime,
) -> None:
    """Queue a held study again, although it is held: a person takes it as it is.

    Args:
        session: A writing session.
        uid: The study.
        reasons: What the person accepts.
        by: Who.
        at: When.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It is not held for one of these reasons, or its objects
            contradict one another.
    """
    study = _locked(session, uid)
    reason = study.reason
    waivers.accept(session, study, reasons, by, at)
    requeue(session, uid, at, f"{reason} accepted by {by}")


def waived(session: Session, uid: StudyUid) -> frozenset[Reason]:
    """Return the reasons that a person overruled for a study as it stands now.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    return waivers.waived(session, _found(session, uid))


def end_waivers(session: Session, uid: StudyUid, by: str, at: datetime) -> None:
    """End what was accepted of a study: another input than an object was entered.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    waivers.end(session, _locked(session, uid), by, at)


def unannounced(  # noqa: PLR0913 - which studies, and how long one waits
    session: Session,
    at: datetime,
    resend_after: timedelta,
    limit: int,
    *,
    counted: bool = False,
    bulk: bool = False,
) -> list[StudyUid]:
    """Return queued studies without a message, or with one that seems lost.

    Args:
        session: A reading session.
        at: The time of this call.
        resend_after: How long a message is waited for.
        limit: How many studies at most.
        counted: Leave out those whose counts the archive has not confirmed.
        bulk: Those that let other work pass, instead of the others.
    """
    ready = (~needs_count(),) if counted else ()
    found = session.scalars(
        select(StudyRow.study_uid)
        .where(
            StudyRow.state == StudyState.QUEUED,
            StudyRow.bulk.is_(bulk),
            *ready,
            or_(
                StudyRow.announced_at.is_(None),
                StudyRow.announced_at <= at - resend_after,
            ),
        )
        .order_by(
            StudyRow.attempts,  # what killed a worker lets the others pass
            StudyRow.queued_at,
            StudyRow.received_at,
        )
        .limit(limit)
    )
    return [StudyUid(uid) for uid in found]


def announced_since(session: Session, messages: int) -> datetime | None:
    """Return since when a message was sent that may be among so many that wait.

    A queue is first in, first out: whose message is still there was announced last.
    None: anybody's may be.
    """
    return session.scalar(
        select(StudyRow.announced_at)
        .where(StudyRow.state == StudyState.QUEUED, StudyRow.announced_at.is_not(None))
        .order_by(StudyRow.announced_at.desc())
        .offset(messages - 1)
        .limit(1)
    )


def announced(session: Session, uids: Sequence[StudyUid], at: datetime) -> None:
    """Enter that a message was sent for studies that are queued."""
    session.execute(
        update(StudyRow)
        .where(StudyRow.study_uid.in_(uids), StudyRow.state == StudyState.QUEUED)
        .values(announced_at=at)
    )


def claim(  # noqa: PLR0913 - who takes what, for how long
    session: Session,
    uid: StudyUid,
    worker: str,
    lease: timedelta,
    at: datetime,
    *,
    untried_bulk: bool = False,
) -> Claim | None:
    """Take a queued study for one worker; None when there is nothing to do.

    The claim holds until `at + lease`, or until an instance arrives. With
    `untried_bulk` only what may be taken along (see `dicom_node.backlog`).
    """
    token = str(uuid.uuid4())
    narrower = (is_untried_bulk(),) if untried_bulk else ()
    taken = _rowcount(
        session,
        update(StudyRow)
        .where(
            StudyRow.study_uid == uid,
            StudyRow.state == StudyState.QUEUED,
            *narrower,
        )
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
        foreign=tuple(foreign_documents(session, uid)),
        manual=manual_rois(session, uid),
        waived=waivers.waived(session, study),
        bulk=study.bulk,
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


def conclude(
    session: Session,
    claim: Claim,
    outcome: tuple[StudyState, Reason | None, str | None],
    at: datetime,
) -> StudyState:
    """Close an analysis that gave no result, if its claim still holds.

    A study that only annotates others ends as what it is; one whose marks lie on
    images of another study says so.

    Returns:
        The state that the study was left in.
    """
    study = _locked(session, claim.study_uid)
    state, reason, detail = outcome
    if reason not in CONTRADICTIONS:
        state, reason, detail = verdict(session, claim.study_uid) or outcome
    if reason in LACKS_AN_OBJECT and state is StudyState.HELD:
        where = elsewhere(session, claim.study_uid)
        detail = f"{detail} {where}" if where and detail else detail
    finish(session, claim, state, at, reason=reason, detail=detail)
    return study.state


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


def note(session: Session, uid: StudyUid, what: str, detail: str, at: datetime) -> None:
    """Add a line to a study's history; `detail` names no patient."""
    add_event(session, uid, what, detail, at)


def instance(session: Session, uid: SopInstanceUid) -> StoredInstance | None:
    """Return one instance, None when it is not entered or was purged.

    `path` is relative.
    """
    row = session.get(InstanceRow, uid)
    return None if row is None or row.purged_at is not None else stored(row)


def instances(session: Session, uid: StudyUid) -> list[StoredInstance]:
    """Return the instances of a study but our own reports; paths are relative.

    Images that were purged are left out: see `dicom_node.purge`.
    """
    rows = session.scalars(
        select(InstanceRow)
        .where(
            InstanceRow.study_uid == uid,
            InstanceRow.own.is_(False),
            InstanceRow.purged_at.is_(None),
        )
        .order_by(InstanceRow.series_uid, InstanceRow.sop_instance_uid)
    )
    return [stored(row) for row in rows]


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
