"""Entries of the audit trail for what the service does, made of the rows it leaves.

Associations that brought objects, results, documents sent, messages of pathology and
models put into service are rows already, each written with its time in the transaction
of the act. Their entries are made of them within a minute instead of in those
transactions: the chain has one writer at a time, and a hundred workers that commit
results must not wait for one another. `source` keeps an entry from being made twice.

Only what is newer than a mark is looked at, so that this costs the same after a million
studies. The mark lags a day behind: a row may be committed later than it says.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    String,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from dicom_node import audit, classes
from dicom_node.audit import Action, Code, Event, Kind, Outcome, Trail
from dicom_node.db import Sessions, insert_missing, now
from dicom_node.study import StudyState
from dicom_node.tables import (
    AssociationRow,
    AssociationStudyRow,
    AuditMarkRow,
    AuditRow,
    DeliveryRow,
    DocumentRow,
    InstanceRow,
    StudyRow,
    TransferRow,
)
from worker.outcomes import Activation
from worker.tables import HL7, ActivationRow, ResultRow, SlndRow

BATCH: Final = 500
"""Entries of each kind that one transaction makes at most."""

US: Final = "sentinode"
FOLLOWED: Final = "followed"
BEGUN: Final = "begun"
"""Marks: of the last time that nothing was left, and of when marks came up."""

LAG: Final = timedelta(days=1)
DEAD_AFTER: Final = timedelta(hours=1)
"""A transfer that is older and has no end was of a process that was killed."""


def pending(sessions: Sessions, at: datetime | None = None) -> bool:
    """Say whether anything is to be entered; nobody waits for this."""
    with sessions() as session:
        return any(_events(session, 1, at or now()))


def follow(session: Session, trail: Trail, at: datetime | None = None) -> int:
    """Enter what the service did and is not entered yet; return how much that was.

    At most `BATCH` of each kind; call it again while it returns something.
    """
    at = at or now()
    audit.serialize(session)  # or two that follow at once would find the same
    found = sorted(_events(session, BATCH, at), key=lambda one: one.at)
    audit.record(session, trail, *found)
    if not found:
        _mark(session, at)
    return len(found)


def activated(one: Activation) -> Event:
    """Return the entry of a model that was put into service."""
    return Event(
        Code.SECURITY_ALERT,
        Action.EXECUTE,
        "model activated",
        one.activated_by,
        object_id=f"{one.name}@{one.version}",
        detail=f"stage {one.stage}, weights {one.weights_sha256}",
        kind=Kind.SOFTWARE_CONFIGURATION,
        source=f"activation:{one.activation_id}",
        at=one.activated_at,
    )


def _events(session: Session, limit: int, at: datetime) -> Iterator[Event]:
    marks = dict(session.execute(select(AuditMarkRow.name, AuditMarkRow.at)).all())
    begun = marks.get(BEGUN)
    since = marks[FOLLOWED] - LAG if FOLLOWED in marks else None
    yield from _received(session, limit, since, begun)
    yield from _rebuilt(session, limit, since)
    yield from _results(session, limit, since)
    yield from _transfers(session, limit, since, at)
    yield from _pathology(session, limit, since)
    yield from _activations(session, limit)


def _mark(session: Session, at: datetime) -> None:
    """Remember that everything until now is entered."""
    row = {"name": FOLLOWED, "at": at}
    if not insert_missing(session, AuditMarkRow, [row], "name"):
        session.execute(
            update(AuditMarkRow).where(AuditMarkRow.name == FOLLOWED).values(at=at)
        )


def _unseen(query: Any, source: ColumnElement[str], limit: int) -> Any:  # noqa: ANN401 - a selection of any columns
    """Narrow a query to rows of which no entry was made."""
    return query.where(~exists().where(AuditRow.source == source)).limit(limit)


def _newer(query: Any, column: Any, since: datetime | None) -> Any:  # noqa: ANN401 - as above
    return query if since is None else query.where(column >= since)


def _source(kind: str, *parts: Any) -> ColumnElement[str]:  # noqa: ANN401 - columns of any type
    made: ColumnElement[str] = literal(kind, String)
    for part in parts:
        made = made + ":" + cast(part, String)
    return made


def _received(
    session: Session, limit: int, since: datetime | None, begun: datetime | None
) -> Iterator[Event]:
    """Yield what each association brought of each study, when it has ended."""
    source = _source("association", AssociationRow.association_id, _CARRIED.study_uid)
    query = (
        select(AssociationRow, _CARRIED, source)
        .join(_CARRIED, _CARRIED.association_id == AssociationRow.association_id)
        .where(AssociationRow.closed_at.is_not(None))
        .order_by(AssociationRow.closed_at)
    )
    query = _newer(query, AssociationRow.closed_at, since or begun)
    for one, carried, said in session.execute(_unseen(query, source, limit)):
        counts = classes.read(carried.objects)
        whole = carried.objects is not None
        if not whole:
            counts = _arrived(session, one, carried.study_uid)
        end = "" if whole else ", the association's end was not seen"
        yield Event(
            Code.TRANSFERRED,
            Action.CREATE,
            "instances received",
            one.calling_ae,
            study=carried.study_uid,
            detail=f"{sum(counts.values())} instances{end}",
            outcome=Outcome.SUCCESS if whole else Outcome.MINOR_FAILURE,
            host=one.peer_address,
            source=said,
            at=one.closed_at,
            peer=one.listener,
            objects=classes.written(counts),
        )


_CARRIED: Final = aliased(AssociationStudyRow)


def _arrived(session: Session, one: AssociationRow, study_uid: str) -> dict[str, int]:
    """Count what came of a study while an association was open, from its caller."""
    rows = session.execute(
        select(InstanceRow.sop_class_uid, func.count())
        .where(
            InstanceRow.study_uid == study_uid,
            InstanceRow.calling_ae == one.calling_ae,
            InstanceRow.received_at.between(one.opened_at, one.closed_at),
        )
        .group_by(InstanceRow.sop_class_uid)
    )
    return {uid: count for uid, count in rows}  # noqa: C416 - rows are no pairs to mypy


def _rebuilt(session: Session, limit: int, since: datetime | None) -> Iterator[Event]:
    """Yield studies that no association is known of: rows made of files again."""
    source = _source("received", StudyRow.study_uid)
    known = exists().where(AssociationStudyRow.study_uid == StudyRow.study_uid)
    query = (
        select(StudyRow, source)
        .where(StudyRow.state != StudyState.RECEIVING, ~known)
        .order_by(StudyRow.received_at)
    )
    query = _newer(query, StudyRow.last_received_at, since)
    for row, said in session.execute(_unseen(query, source, limit)):
        yield Event(
            Code.TRANSFERRED,
            Action.CREATE,
            "study received",
            row.calling_ae,
            study=row.study_uid,
            detail=f"{row.instances} instances",
            patient=row.patient_key,
            source=said,
            at=row.last_received_at,
            peer=US,
        )


def _results(session: Session, limit: int, since: datetime | None) -> Iterator[Event]:
    source = _source("result", ResultRow.result_id)
    query = select(ResultRow, source).order_by(ResultRow.created_at)
    query = _newer(query, ResultRow.created_at, since)
    for row, said in session.execute(_unseen(query, source, limit)):
        yield Event(
            Code.ACCESSED,
            Action.CREATE,
            "result created",
            US,
            study=row.study_uid,
            object_id=row.result_id,
            detail=f"side {row.laterality}, version {row.version}",
            source=said,
            at=row.created_at,
        )


def _transfers(
    session: Session, limit: int, since: datetime | None, at: datetime
) -> Iterator[Event]:
    """Yield the begin and the end of each association that sent documents."""
    begin = _source("begin", TransferRow.transfer_id, TransferRow.study_uid)
    end = _source("sent", TransferRow.transfer_id, TransferRow.study_uid)
    query = select(TransferRow).order_by(TransferRow.began_at)
    query = _newer(query, TransferRow.began_at, since)
    for row, said in session.execute(_unseen(query.add_columns(begin), begin, limit)):
        yield Event(
            Code.BEGIN_TRANSFERRING,
            Action.EXECUTE,
            "transfer begun",
            US,
            study=row.study_uid,
            source=said,
            at=row.began_at,
            peer=row.destination,
        )
    over = or_(
        TransferRow.ended_at.is_not(None), TransferRow.began_at < at - DEAD_AFTER
    )
    query = query.where(over)
    for row, said in session.execute(_unseen(query.add_columns(end), end, limit)):
        yield _ended(session, row, said)


def _ended(session: Session, row: TransferRow, source: str) -> Event:
    counts: Mapping[str, int] = classes.read(row.objects)
    if row.ended_at is None:  # its process was killed: the deliveries say what went
        counts = _went(session, row)
    total = sum(counts.values())
    failed = f", {row.failed} not taken" if row.failed else ""
    killed = ", its end was not seen" if row.ended_at is None else ""
    return Event(
        Code.TRANSFERRED,
        Action.READ,
        "documents sent",
        US,
        study=row.study_uid,
        detail=f"{total} documents to {row.destination}{failed}{killed}",
        outcome=Outcome.MINOR_FAILURE if failed or killed else Outcome.SUCCESS,
        source=source,
        at=row.ended_at or row.began_at,
        peer=row.destination,
        objects=classes.written(counts),
    )


def _went(session: Session, row: TransferRow) -> Counter[str]:
    found = session.scalars(
        select(DocumentRow.sop_class_uid)
        .join(DeliveryRow, DeliveryRow.sop_instance_uid == DocumentRow.sop_instance_uid)
        .where(
            DeliveryRow.study_uid == row.study_uid,
            DeliveryRow.destination == row.destination,
            DeliveryRow.sent_at.between(row.began_at, row.began_at + DEAD_AFTER),
        )
    )
    return Counter(found)


def _pathology(session: Session, limit: int, since: datetime | None) -> Iterator[Event]:
    """Yield what came by HL7; what a person entered was signed by them."""
    source = _source("slnd", SlndRow.slnd_id)
    earlier = aliased(SlndRow)
    before = (
        select(earlier.result)
        .where(
            earlier.study_uid == SlndRow.study_uid,
            earlier.laterality == SlndRow.laterality,
            earlier.slnd_id < SlndRow.slnd_id,
        )
        .order_by(earlier.slnd_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(SlndRow, before, source).where(
        SlndRow.message_id.is_not(None), SlndRow.recorded_by == HL7
    )
    query = _newer(query, SlndRow.recorded_at, since)
    for row, old, said in session.execute(
        _unseen(query.order_by(SlndRow.recorded_at), source, limit)
    ):
        yield Event(
            Code.ACCESSED,
            Action.UPDATE,
            "slnd by HL7",
            row.recorded_by,
            study=row.study_uid,
            detail=f"side {row.laterality}: {old or 'none'} to {row.result}",
            source=said,
            at=row.recorded_at,
        )


def _activations(session: Session, limit: int) -> Iterator[Event]:
    """Yield models that a program put into service; a person's entry is there."""
    source = _source("activation", ActivationRow.activation_id)
    query = select(ActivationRow).order_by(ActivationRow.activation_id)
    for row in session.scalars(_unseen(query, source, limit)):
        yield activated(
            Activation(
                row.activation_id,
                row.stage,
                row.name,
                row.version,
                row.weights_sha256,
                row.activated_at,
                row.activated_by,
            )
        )
