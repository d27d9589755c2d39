"""Entries of the audit trail for what the service does, made of the rows it leaves.

Studies received, results, documents sent, messages of pathology and models put into
service are rows already, each written with its time in the transaction of the act.
Their entries are made of them within a minute instead of in those transactions: the
chain has one writer at a time, and a hundred workers that commit results must not wait
for one another. `source` keeps an entry from being made twice.
"""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    String,
    cast,
    exists,
    func,
    literal,
    select,
)
from sqlalchemy.orm import Session

from dicom_node import audit
from dicom_node.audit import Action, Code, Event, Kind, Trail
from dicom_node.db import Sessions
from dicom_node.study import StudyState
from dicom_node.tables import AuditRow, DeliveryRow, DocumentRow, StudyRow
from worker.outcomes import Activation
from worker.tables import HL7, ActivationRow, ResultRow, SlndRow

BATCH: Final = 500
"""Entries of each kind that one transaction makes at most."""

US: Final = "sentinode"


def pending(sessions: Sessions) -> bool:
    """Say whether anything is to be entered; nobody waits for this."""
    with sessions() as session:
        return any(_events(session, 1))


def follow(session: Session, trail: Trail) -> int:
    """Enter what the service did and is not entered yet; return how much that was.

    At most `BATCH` of each kind; call it again while it returns something.
    """
    audit.serialize(session)  # or two that follow at once would find the same
    found = sorted(_events(session, BATCH), key=lambda one: one.at)
    audit.record(session, trail, *found)
    return len(found)


def activated(one: Activation) -> Event:
    """Return the entry of a model that was put into service."""
    return Event(
        Code.SECURITY_ALERT,
        Action.UPDATE,
        "model activated",
        one.activated_by,
        object_id=f"{one.name}@{one.version}",
        detail=f"stage {one.stage}, weights {one.weights_sha256}",
        kind=Kind.SOFTWARE_CONFIGURATION,
        source=f"activation:{one.activation_id}",
        at=one.activated_at,
    )


def _events(session: Session, limit: int) -> Iterator[Event]:
    yield from _received(session, limit)
    yield from _results(session, limit)
    yield from _sent(session, limit)
    yield from _pathology(session, limit)
    yield from _activations(session, limit)


def _unseen(query: Any, source: ColumnElement[str], limit: int) -> Any:  # noqa: ANN401 - a selection of any columns
    """Narrow a query to rows of which no entry was made."""
    return query.where(~exists().where(AuditRow.source == source)).limit(limit)


def _source(kind: str, *parts: Any) -> ColumnElement[str]:  # noqa: ANN401 - columns of any type
    made: ColumnElement[str] = literal(kind, String)
    for part in parts:
        made = made + ":" + cast(part, String)
    return made


def _received(session: Session, limit: int) -> Iterator[Event]:
    source = _source("received", StudyRow.study_uid)
    query = select(StudyRow, source).where(StudyRow.state != StudyState.RECEIVING)
    query = query.order_by(StudyRow.received_at)
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
        )


def _results(session: Session, limit: int) -> Iterator[Event]:
    source = _source("result", ResultRow.result_id)
    query = select(ResultRow, source).order_by(ResultRow.created_at)
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


def _sent(session: Session, limit: int) -> Iterator[Event]:
    """Yield an entry each time a document was sent: again is a time of its own."""
    sent_at: ColumnElement[Any] = DeliveryRow.sent_at.expression
    if session.get_bind().dialect.name == "postgresql":
        sent_at = func.timezone("UTC", sent_at)  # its text must not follow a setting
    source = _source("sent", DeliveryRow.delivery_id, sent_at)
    query = (
        select(DeliveryRow, DocumentRow, source)
        .join(DocumentRow, DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .where(DeliveryRow.sent_at.is_not(None))
        .order_by(DeliveryRow.sent_at)
    )
    for row, document, said in session.execute(_unseen(query, source, limit)):
        yield Event(
            Code.TRANSFERRED,
            Action.READ,
            "document sent",
            US,
            study=document.study_uid,
            object_id=row.sent_as or row.sop_instance_uid,
            detail=f"{document.kind} to {row.destination}",
            source=said,
            at=row.sent_at,
        )


def _pathology(session: Session, limit: int) -> Iterator[Event]:
    """Yield what came by HL7; what a person entered was signed by them."""
    source = _source("slnd", SlndRow.slnd_id)
    query = select(SlndRow, source).where(
        SlndRow.message_id.is_not(None), SlndRow.recorded_by == HL7
    )
    for row, said in session.execute(
        _unseen(query.order_by(SlndRow.slnd_id), source, limit)
    ):
        yield Event(
            Code.ACCESSED,
            Action.UPDATE,
            "slnd by HL7",
            row.recorded_by,
            study=row.study_uid,
            detail=f"side {row.laterality}: {row.result}",
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
