"""What arrives: instances, the associations that carry them, and completeness.

Part of the ledger; import its names from `dicom_node.ledger`. Callers own the
transaction. Everything may happen twice, also at once in another process: rows that
exist are left alone, and a study's row is locked while its state is decided.
"""

import hmac
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session

from dicom_node import classes
from dicom_node.completion import (
    ABANDONED_AFTER,
    QuietPeriods,
    Standing,
    is_abandoned,
    quiet_until,
)
from dicom_node.db import insert_missing
from dicom_node.study import (
    Patient,
    Reason,
    ReceivedInstance,
    SopInstanceUid,
    StudyState,
    StudyUid,
)
from dicom_node.tables import (
    AnnotationRow,
    AssociationRow,
    AssociationStudyRow,
    ConflictRow,
    DocumentRow,
    EventRow,
    InstanceRow,
    StudyRow,
)

CONTRADICTIONS: Final = frozenset({Reason.DUPLICATE_DIFFERS, Reason.PATIENT_MISMATCH})
"""Reasons to hold a study that no object and no program can end, only a person."""

FROZEN: Final = CONTRADICTIONS | {Reason.BY_HAND}
"""Reasons for which nothing of a study leaves: what waits to be sent waits on."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another object under a SOP Instance UID that we hold; `path` is quarantined.

    `patient_differs` also when it is of another study.
    """

    instance: ReceivedInstance
    patient_differs: bool


def patient_key(secret: bytes, patient_id: str) -> str:
    """Return the keyed hash that stands for a Patient ID: HMAC-SHA-256, hex.

    Leading and trailing spaces do not count, as the Standard has it for LO. The
    issuer does not count either: many objects of a study do not repeat it.
    """
    return _keyed_hash(secret, "", patient_id)


def issuer_key(secret: bytes, issuer: str, patient_id: str) -> str | None:
    """Return the keyed hash of issuer and Patient ID, None without an issuer."""
    return _keyed_hash(secret, issuer, patient_id) if issuer.strip() else None


def _keyed_hash(secret: bytes, issuer: str, patient_id: str) -> str:
    message = f"{issuer.strip()}\0{patient_id.strip()}".encode()
    return hmac.digest(secret, message, "sha256").hex()


def record(
    session: Session,
    arrivals: Sequence[ReceivedInstance],
    quiet: QuietPeriods,
    at: datetime,
) -> None:
    """Enter received instances; new ones open or re-open their studies.

    An instance that is entered already changes nothing, unless its image was purged:
    then it is entered again, and one that differs is a conflict too. One of our own
    reports is entered under the study that it reports on, but opens and re-opens
    nothing. A SOP Instance UID that another study holds is a conflict of the study
    that came second.

    Args:
        session: A writing session; commit makes the instances part of the ledger.
        arrivals: At most a few hundred durable instances.
        quiet: How long each sender's studies must be quiet.
        at: The time of this call.
    """
    first: dict[SopInstanceUid, ReceivedInstance] = {}
    for each in arrivals:
        first.setdefault(each.sop_instance_uid, each)
    own = _own_documents(session, list(first))
    known = _studies_of_instances(session, list(first))
    returned = _enter_again(session, [e for u, e in first.items() if u in known], at)
    strangers = [each for uid, each in first.items() if uid not in known]
    owners = {uid: each.study_uid for uid, each in first.items()} | known
    misplaced = [
        each
        for each in arrivals
        if each.sop_instance_uid not in own
        and owners[each.sop_instance_uid] != each.study_uid
    ]
    foreign = [each for each in strangers if each.sop_instance_uid not in own]
    _open_studies(session, [*foreign, *misplaced], at)
    rows = [_instance_values(each, own) for each in strangers]
    inserted = set(insert_missing(session, InstanceRow, rows, "sop_instance_uid"))
    fresh: dict[StudyUid, list[ReceivedInstance]] = defaultdict(list)
    for each in foreign:
        if each.sop_instance_uid in inserted:
            fresh[each.study_uid].append(each)
    for each in returned:
        fresh[each.study_uid].append(each)
    for study_uid in sorted(fresh):
        study = lock(session, study_uid)
        _receive(session, study, fresh[study_uid], quiet, at)
        study.instances -= sum(each.study_uid == study_uid for each in returned)
    if inserted:
        _show_to_annotations(session, inserted, at)
    for each in misplaced:
        record_conflict(session, Conflict(each, patient_differs=True), at)


def _show_to_annotations(session: Session, uids: set[Any], at: datetime) -> None:
    """Let the sweep look again for images that marks have waited for."""
    session.execute(
        update(AnnotationRow)
        .where(AnnotationRow.study_uid.is_(None), AnnotationRow.image_uid.in_(uids))
        .values(recorded_at=at)
        .execution_options(synchronize_session=False)
    )


def record_conflict(session: Session, conflict: Conflict, at: datetime) -> None:
    """Enter a second object under a known UID; its study is held. Idempotent.

    A report of ours that came back changed, as a PACS may do, is no conflict.
    """
    instance = conflict.instance
    if _own_documents(session, [instance.sop_instance_uid]):
        return
    _open_studies(session, [instance], at)
    entered = session.scalar(
        select(ConflictRow.conflict_id).where(
            ConflictRow.sop_instance_uid == instance.sop_instance_uid,
            ConflictRow.sha256 == instance.sha256,
        )
    )
    if entered is not None:
        return
    study = lock(session, instance.study_uid)
    session.add(
        ConflictRow(
            study_uid=instance.study_uid,
            sop_instance_uid=instance.sop_instance_uid,
            path=instance.path.as_posix(),
            sha256=instance.sha256,
            patient_differs=conflict.patient_differs,
            received_at=instance.received_at,
            resolved_at=None,
        )
    )
    session.flush()
    if study.state is not StudyState.RECEIVING:
        hold_conflicting(session, study, at)


def hold_conflicting(session: Session, study: StudyRow, at: datetime) -> bool:
    """Hold a study whose objects contradict one another; say whether they do."""
    found = contradiction(session, StudyUid(study.study_uid))
    if found is None:
        return False
    study.state = StudyState.HELD
    study.reason, study.detail = found
    forget_queue(study)
    add_event(session, study.study_uid, "held", f"{found[0]}: {found[1]}", at)
    return True


LOOK_FIRST: Final = (
    "; deliveries are frozen. Look at the sender, then go on with the object that is "
    "stored, the first, with `sentinode studies requeue UID`"
)


def contradiction(session: Session, uid: StudyUid) -> tuple[Reason, str] | None:
    """Say why a study may not be analysed as it is, if its objects contradict."""
    strangers = session.scalar(
        select(func.count())
        .select_from(InstanceRow)
        .join(StudyRow)
        .where(InstanceRow.study_uid == uid, names_another_patient())
    )
    if strangers:
        text = f"{strangers} object(s) name another patient than the study's first"
        text += LOOK_FIRST
        return Reason.PATIENT_MISMATCH, text
    conflicts = session.scalars(
        select(ConflictRow.patient_differs).where(
            ConflictRow.study_uid == uid, ConflictRow.resolved_at.is_(None)
        )
    ).all()
    if any(conflicts):
        text = "an object came twice under one UID, for different patients or studies"
        text += LOOK_FIRST
        return Reason.PATIENT_MISMATCH, text
    if conflicts:
        text = f"{len(conflicts)} object(s) came again under the same UID, but differ"
        text += LOOK_FIRST
        return Reason.DUPLICATE_DIFFERS, text
    return None


def accept_contradiction(session: Session, uid: StudyUid, at: datetime) -> None:
    """Let what contradicts in a study now stand; what comes later is looked at anew."""
    session.execute(
        update(ConflictRow)
        .where(ConflictRow.study_uid == uid, ConflictRow.resolved_at.is_(None))
        .values(resolved_at=at)
    )
    session.execute(
        update(InstanceRow)
        .where(
            InstanceRow.study_uid == uid,
            StudyRow.study_uid == uid,
            names_another_patient(),
        )
        .values(accepted=True)
    )


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An object that contradicts another one of its study, both by their files.

    `same_uid` says that both came under one UID; else they name different patients.
    """

    sop_instance_uid: SopInstanceUid
    first: Path
    second: Path
    same_uid: bool


def contradictions(session: Session, uid: StudyUid) -> list[Contradiction]:
    """Return the pairs that `contradiction` counts, as far as both files are known."""
    twice = session.execute(
        select(ConflictRow.sop_instance_uid, InstanceRow.path, ConflictRow.path)
        .join(InstanceRow, InstanceRow.sop_instance_uid == ConflictRow.sop_instance_uid)
        .where(ConflictRow.study_uid == uid, ConflictRow.resolved_at.is_(None))
        .order_by(ConflictRow.conflict_id)
    ).all()
    first = session.scalar(
        select(InstanceRow.path)
        .join(StudyRow)
        .where(
            InstanceRow.study_uid == uid,
            InstanceRow.own.is_(False),
            InstanceRow.patient_key == StudyRow.patient_key,
        )
        .limit(1)
    )
    strangers = session.execute(
        select(InstanceRow.sop_instance_uid, InstanceRow.path)
        .join(StudyRow)
        .where(InstanceRow.study_uid == uid, names_another_patient())
        .order_by(InstanceRow.sop_instance_uid)
    ).all()
    found = [
        Contradiction(SopInstanceUid(sop), Path(one), Path(two), same_uid=True)
        for sop, one, two in twice
    ]
    return found + [
        Contradiction(SopInstanceUid(sop), Path(first), Path(path), same_uid=False)
        for sop, path in strangers
        if first is not None
    ]


def is_frozen(study_uid: Any) -> ColumnElement[bool]:  # noqa: ANN401 - a column or a value
    """Return the condition that nothing of a study may leave.

    It contradicts itself, or is held for that, or a person has stopped it.
    """
    is_held = exists().where(
        StudyRow.study_uid == study_uid,
        StudyRow.state.in_((StudyState.HELD, StudyState.IGNORED)),
        StudyRow.reason.in_(FROZEN),
    )
    has_conflict = exists().where(
        ConflictRow.study_uid == study_uid, ConflictRow.resolved_at.is_(None)
    )
    has_stranger = exists().where(
        InstanceRow.study_uid == study_uid,
        StudyRow.study_uid == study_uid,
        names_another_patient(),
    )
    return is_held | has_conflict | has_stranger


def names_another_patient() -> ColumnElement[bool]:
    """Return the condition that an instance is not of its study's patient.

    Nobody has accepted it, and it is no report of ours. The study's patient is that
    of its first object. The rows of both must be joined.
    """
    return and_(
        InstanceRow.own.is_(False),
        InstanceRow.accepted.is_(False),
        or_(
            InstanceRow.patient_key != StudyRow.patient_key,
            InstanceRow.issuer_key != StudyRow.issuer_key,  # NULL differs from none
        ),
    )


def patient_of(session: Session, uid: SopInstanceUid) -> Patient | None:
    """Return who an instance is of, None when it is not entered."""
    row = session.get(InstanceRow, uid)
    return None if row is None else Patient(row.patient_key, row.issuer_key)


def study_of(session: Session, uid: SopInstanceUid) -> StudyUid | None:
    """Return the study of an instance, None when it is not entered."""
    row = session.get(InstanceRow, uid)
    return None if row is None else StudyUid(row.study_uid)


def paths(session: Session) -> set[str]:
    """Return the paths of all files that have a row, instances and conflicts."""
    found = set(session.scalars(select(InstanceRow.path)))
    return found.union(session.scalars(select(ConflictRow.path)))


@dataclass(frozen=True, slots=True)
class Association:
    """One association that stores: its ID, our listener, and who called from where."""

    association_id: str
    listener: str
    calling_ae: str
    peer_address: str


def open_association(session: Session, association: Association, at: datetime) -> None:
    """Enter an association that stores something; idempotent."""
    values = {
        "association_id": association.association_id,
        "listener": association.listener,
        "calling_ae": association.calling_ae,
        "peer_address": association.peer_address,
        "opened_at": at,
        "closed_at": None,
    }
    insert_missing(session, AssociationRow, [values], "association_id")


def carries(session: Session, association_id: str, study_uid: StudyUid) -> None:
    """Enter that an association carries a study: it waits for its end. Idempotent.

    A purge that removes files of the study has ended when this returns, or begins
    after the commit: it locks the same row.
    """
    session.execute(
        select(StudyRow.study_uid)
        .where(StudyRow.study_uid == study_uid)
        .with_for_update(read=True, key_share=True)
    )
    values = {"association_id": association_id, "study_uid": study_uid}
    insert_missing(session, AssociationStudyRow, [values], "association_id")


def close_association(
    session: Session,
    association_id: str,
    at: datetime,
    stored: Mapping[StudyUid, Mapping[str, int]] | None = None,
) -> None:
    """Enter that all rows of an association are committed; it holds up nothing.

    `stored` says of each study how many of which SOP class it brought.
    """
    for uid, counts in (stored or {}).items():
        session.execute(
            update(AssociationStudyRow)
            .where(
                AssociationStudyRow.association_id == association_id,
                AssociationStudyRow.study_uid == uid,
            )
            .values(objects=classes.written(counts))
        )
    session.execute(
        update(AssociationRow)
        .where(
            AssociationRow.association_id == association_id,
            AssociationRow.closed_at.is_(None),
        )
        .values(closed_at=at)
    )


def close_stale(session: Session, listener: str | None, at: datetime) -> None:
    """Close what a dead process of this listener left open; with None, of any.

    Call it only when every durable file has its row.
    """
    statement = update(AssociationRow).where(AssociationRow.closed_at.is_(None))
    if listener is not None:
        statement = statement.where(AssociationRow.listener == listener)
    session.execute(statement.values(closed_at=at))


def complete_due(session: Session, at: datetime, limit: int = 100) -> list[StudyUid]:
    """Move studies that are complete to `queued`, or hold those that contradict.

    Returns:
        The studies queued now, the longest waiting first.
    """
    due = (
        StudyRow.state == StudyState.RECEIVING,
        StudyRow.quiet_until <= at,
    )
    studies = session.scalars(
        select(StudyRow)
        .where(*due, ~carried(StudyRow.study_uid) | _is_long_past(at))
        .order_by(StudyRow.quiet_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    # The rows are locked now: what opened an association meanwhile has committed.
    queued = []
    for study in studies:
        if is_open(session, study, at) or hold_conflicting(session, study, at):
            continue
        queue(session, study, "complete: quiet, and no association open", at)
        queued.append(StudyUid(study.study_uid))
    return queued


def queue(
    session: Session, study: StudyRow, why: str, at: datetime, *, bulk: bool = False
) -> None:
    """Move a locked study to `queued`, to be announced; `bulk` work lets other pass."""
    study.state = StudyState.QUEUED
    study.reason = study.detail = None
    forget_queue(study)
    study.queued_at = at
    study.bulk = bulk
    add_event(session, study.study_uid, "queued", why, at)


def wake(session: Session, study: StudyRow, why: str, at: datetime) -> None:
    """Let something new that is no object of a locked study change its outcome.

    A study that receives or is queued will take it in. One whose objects contradict,
    or that a person stopped, waits for a person. A worker that has the study loses it.
    """
    waiting = study.state in {StudyState.RECEIVING, StudyState.QUEUED}
    waiting = waiting or study.reason is Reason.BY_HAND
    study.revision += 1
    if waiting or contradiction(session, StudyUid(study.study_uid)) is not None:
        add_event(session, study.study_uid, "noted", why, at)
    else:
        queue(session, study, why, at)


def add_event(
    session: Session, study_uid: str, what: str, detail: str, at: datetime
) -> None:
    """Add one line to a study's history."""
    session.add(EventRow(study_uid=study_uid, at=at, what=what, detail=detail))


def carried(study_uid: Any) -> ColumnElement[bool]:  # noqa: ANN401 - a column or a value
    """Return the condition that an open association carries a study."""
    return exists().where(
        AssociationStudyRow.study_uid == study_uid,
        AssociationStudyRow.association_id == AssociationRow.association_id,
        AssociationRow.closed_at.is_(None),
    )


def is_open(session: Session, study: StudyRow, at: datetime) -> bool:
    """Say whether a study may still be carried by an association that matters."""
    if is_abandoned(study.quiet_until, at):
        return False
    return bool(session.scalar(select(carried(study.study_uid))))


def _is_long_past(at: datetime) -> Any:  # noqa: ANN401 - an SQL expression
    return StudyRow.quiet_until <= at - ABANDONED_AFTER


def forget_queue(study: StudyRow) -> None:
    """End the place in the queue, and any claim, of a locked study."""
    study.queued_at = study.announced_at = None
    study.claim_token = study.claimed_by = study.lease_until = None
    study.attempts = 0


def _studies_of_instances(
    session: Session, uids: Sequence[SopInstanceUid]
) -> dict[SopInstanceUid, StudyUid]:
    rows = session.execute(
        select(InstanceRow.sop_instance_uid, InstanceRow.study_uid).where(
            InstanceRow.sop_instance_uid.in_(uids)
        )
    )
    return {SopInstanceUid(uid): StudyUid(study_uid) for uid, study_uid in rows}


def _enter_again(
    session: Session, known: Sequence[ReceivedInstance], at: datetime
) -> list[ReceivedInstance]:
    """Enter images that were purged and are on disk again; return ours left out.

    The bytes on disk are those that came now, so the row says that; when they are
    others than before, the study is held for a person to look.
    """
    rows = session.scalars(
        select(InstanceRow).where(
            InstanceRow.sop_instance_uid.in_([each.sop_instance_uid for each in known]),
            InstanceRow.purged_at.is_not(None),
        )
    )
    purged = {(row.sop_instance_uid, row.study_uid): row for row in rows}
    returned = []
    for each in known:
        row = purged.get((each.sop_instance_uid, each.study_uid))
        if row is None:
            continue
        differs = row.sha256 != each.sha256
        of_another = Patient(row.patient_key, row.issuer_key).differs(each.patient)
        row.path, row.size, row.sha256 = each.path.as_posix(), each.size, each.sha256
        row.patient_key, row.issuer_key = each.patient_key, each.issuer_key
        row.received_at, row.purged_at = each.received_at, None
        if differs:
            record_conflict(session, Conflict(each, of_another), at)
        if not row.own:
            returned.append(each)
    session.flush()
    return returned


def _own_documents(
    session: Session, uids: Sequence[SopInstanceUid]
) -> dict[SopInstanceUid, StudyUid]:
    """Return which of the UIDs are those of our reports, and of which studies."""
    rows = session.execute(
        select(DocumentRow.sop_instance_uid, DocumentRow.study_uid).where(
            DocumentRow.sop_instance_uid.in_(uids)
        )
    )
    return {SopInstanceUid(uid): StudyUid(study_uid) for uid, study_uid in rows}


def _open_studies(
    session: Session, arrivals: Sequence[ReceivedInstance], at: datetime
) -> None:
    """Insert the studies of arrivals that are new; empty until `_receive`."""
    first = {each.study_uid: each for each in reversed(arrivals)}
    values = [_study_values(first[uid], at) for uid in sorted(first)]
    for uid in insert_missing(session, StudyRow, values, "study_uid"):
        detail = f"first object from {first[uid].calling_ae}"
        add_event(session, uid, "receiving", detail, at)


def _study_values(arrival: ReceivedInstance, at: datetime) -> dict[str, Any]:
    return {
        "study_uid": arrival.study_uid,
        "state": StudyState.RECEIVING,
        "patient_key": arrival.patient_key,
        "issuer_key": arrival.issuer_key,
        "calling_ae": arrival.calling_ae,
        "received_at": arrival.received_at,
        "last_received_at": at,
        "quiet_until": at,
        "instances": 0,
        "revision": 0,
        "attempts": 0,
    }


def _instance_values(
    arrival: ReceivedInstance, own: Mapping[SopInstanceUid, StudyUid]
) -> dict[str, Any]:
    return {
        "sop_instance_uid": arrival.sop_instance_uid,
        "study_uid": own.get(arrival.sop_instance_uid, arrival.study_uid),
        "series_uid": arrival.series_uid,
        "sop_class_uid": arrival.sop_class_uid,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
        "path": arrival.path.as_posix(),
        "size": arrival.size,
        "sha256": arrival.sha256,
        "patient_key": arrival.patient_key,
        "issuer_key": arrival.issuer_key,
        "calling_ae": arrival.calling_ae,
        "received_at": arrival.received_at,
        "own": arrival.sop_instance_uid in own,
        "accepted": False,
    }


def lock(session: Session, uid: StudyUid) -> StudyRow:
    """Return the row of a study that exists, for as long as the transaction lasts."""
    return session.scalars(
        select(StudyRow)
        .where(StudyRow.study_uid == uid)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()


def _receive(
    session: Session,
    study: StudyRow,
    arrivals: Sequence[ReceivedInstance],
    quiet: QuietPeriods,
    at: datetime,
) -> None:
    """Count new instances in a study and let it wait for more."""
    is_new = study.instances == 0
    standing = Standing(
        study.state, study.reason, study.last_received_at, study.quiet_until
    )
    wait = max(quiet.of(each.calling_ae) for each in arrivals)
    classes = frozenset(each.sop_class_uid for each in arrivals)
    study.quiet_until = (
        at + wait if is_new else quiet_until(standing, classes, at, wait)
    )
    if is_new:  # a conflict may have opened the study, and its object is not in it
        study.patient_key = arrivals[0].patient_key
        study.issuer_key = arrivals[0].issuer_key
        study.calling_ae = arrivals[0].calling_ae
    for each in arrivals:
        if study.issuer_key is None and each.patient_key == study.patient_key:
            study.issuer_key = each.issuer_key
    study.last_received_at = at
    study.received_at = min(study.received_at, *(each.received_at for each in arrivals))
    study.instances += len(arrivals)
    study.revision += len(arrivals)
    if study.reason is Reason.BY_HAND:
        detail = f"{len(arrivals)} new object(s) arrived; a person stopped the study"
        add_event(session, study.study_uid, "noted", detail, at)
    elif study.state is not StudyState.RECEIVING:
        detail = f"{len(arrivals)} new object(s) arrived while {study.state}"
        study.state = StudyState.RECEIVING
        study.reason = study.detail = None
        forget_queue(study)
        add_event(session, study.study_uid, "reopened", detail, at)
