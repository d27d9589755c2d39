"""The only writer of delivery state: which document goes where, and how it went.

Callers own the transaction; functions return values, never rows. A delivery is
`due` until it is `sent`, or `failed` for good. Documents of a study whose objects
contradict one another are frozen until a person has accepted them.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Update,
    case,
    exists,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from dicom_node.arrivals import contradicts
from dicom_node.db import insert_missing
from dicom_node.errors import DeliveryNotFoundError, DeliveryStateError
from dicom_node.findings import Document
from dicom_node.study import Peer, SopInstanceUid, StudyUid
from dicom_node.tables import DeliveryRow, DeliveryState, DocumentRow

__all__ = [
    "Delivery",
    "DeliveryRecord",
    "DeliveryState",
    "DocumentRecord",
    "announced",
    "back_off",
    "claim",
    "deferred",
    "deliveries",
    "documents",
    "due",
    "enqueue",
    "failed",
    "release_all",
    "retry",
    "sent",
]

BACK_OFF: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60))
"""Waits after the first, second ... failed attempt; the last one repeats."""

GIVE_UP_AFTER: Final = timedelta(days=14)
FIRST_KIND: Final = "SR"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One document that this process may send now; `path` is relative to the spool.

    `attempts` counts this one; `token` ends when the lease does.
    """

    delivery_id: str
    token: str
    study_uid: StudyUid
    result_id: str
    destination: str
    sop_instance_uid: SopInstanceUid
    sop_class_uid: str
    kind: str
    path: Path
    sha256: str
    attempts: int


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery as people and scripts see it."""

    delivery_id: str
    study_uid: StudyUid
    result_id: str
    sop_instance_uid: SopInstanceUid
    kind: str
    destination: str
    state: DeliveryState
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: datetime
    next_attempt_at: datetime | None
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document of a result; `path` is relative to the spool."""

    study_uid: StudyUid
    result_id: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: SopInstanceUid
    sha256: str
    path: Path
    size: int
    created_at: datetime


def enqueue(  # noqa: PLR0913, PLR0917 - one result on its way, in one call
    session: Session,
    study_uid: StudyUid,
    result_id: str,
    documents: Sequence[tuple[Document, Path]],
    destinations: Sequence[Peer],
    at: datetime,
) -> None:
    """Enter a result's documents and send each to every destination. Idempotent.

    Args:
        session: The session that records the result, so that both commit together.
        study_uid: The study that the documents belong to.
        result_id: The result that they report.
        documents: Each with the path of its bytes in the spool, durable already.
        destinations: Where to; none is legal, then nothing is sent.
        at: The time of this call.
    """
    rows = [
        _document_values(study_uid, result_id, document, path, at)
        for document, path in documents
    ]
    insert_missing(session, DocumentRow, rows, "sop_instance_uid")
    insert_missing(
        session,
        DeliveryRow,
        [
            _delivery_values(result_id, document.sop_instance_uid, str(peer), at)
            for peer in destinations
            for document, _ in documents
        ],
        "delivery_id",
    )


def due(
    session: Session, at: datetime, resend_after: timedelta, limit: int
) -> list[tuple[str, str]]:
    """Return the (result_id, destination) pairs that need a message now.

    A pair that was announced less than `resend_after` ago has its message still.
    """
    rows = session.execute(
        select(DeliveryRow.result_id, DeliveryRow.destination)
        .where(
            *_is_ready(at),
            or_(
                DeliveryRow.announced_at.is_(None),
                DeliveryRow.announced_at <= at - resend_after,
            ),
        )
        .distinct()
        .limit(limit)
    )
    return [(result_id, destination) for result_id, destination in rows]


def announced(session: Session, pairs: Iterable[tuple[str, str]], at: datetime) -> None:
    """Enter that a message was sent for pairs that `due` returned."""
    session.execute(
        update(DeliveryRow)
        .where(
            tuple_(DeliveryRow.result_id, DeliveryRow.destination).in_(list(pairs)),
            DeliveryRow.state == DeliveryState.DUE,
        )
        .values(announced_at=at)
    )


def claim(
    session: Session,
    result_id: str,
    destination: str,
    lease: timedelta,
    at: datetime,
) -> list[Delivery]:
    """Take what is due of one result for one destination, in sending order.

    Reports go before captures. What another process has under lease is left out.
    """
    rows = session.execute(
        select(DeliveryRow, DocumentRow)
        .join(DocumentRow, DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .where(
            DeliveryRow.result_id == result_id,
            DeliveryRow.destination == destination,
            *_is_ready(at),
        )
        .order_by(_sending_order(), DocumentRow.sop_instance_uid)
        .with_for_update(skip_locked=True, of=DeliveryRow)
        .execution_options(populate_existing=True)
    ).all()
    token = str(uuid.uuid4())
    for delivery, _ in rows:
        delivery.claim_token = token
        delivery.lease_until = at + lease
        delivery.attempts += 1
    return [_delivery(delivery, document, token) for delivery, document in rows]


def sent(session: Session, delivery: Delivery, status: int, at: datetime) -> bool:
    """Enter that the peer stored a document; False when the lease was lost."""
    return _settle(
        session,
        delivery,
        state=DeliveryState.SENT,
        last_status=status,
        last_error=None,
        next_attempt_at=None,
        sent_at=at,
    )


def deferred(
    session: Session,
    delivery: Delivery,
    error: str,
    status: int | None,
    at: datetime,
) -> bool:
    """Enter a failure that may pass; the next attempt waits, after 14 days none.

    Args:
        session: A writing session.
        delivery: The claimed delivery.
        error: One sentence without a patient's name, ID or date.
        status: The DIMSE status, None when no answer came.
        at: The time of this call.

    Returns:
        False when the lease was lost: then nothing was entered.
    """
    row = session.get(DeliveryRow, delivery.delivery_id, populate_existing=True)
    if row is None or row.due_since + GIVE_UP_AFTER <= at:
        return failed(session, delivery, error, status, at)
    return _settle(
        session,
        delivery,
        state=DeliveryState.DUE,
        last_status=status,
        last_error=error,
        next_attempt_at=at + back_off(delivery.attempts),
        announced_at=None,
    )


def failed(
    session: Session,
    delivery: Delivery,
    error: str,
    status: int | None,
    at: datetime,
) -> bool:
    """Enter a failure that only a person can end; False when the lease was lost."""
    del at
    return _settle(
        session,
        delivery,
        state=DeliveryState.FAILED,
        last_status=status,
        last_error=error,
        next_attempt_at=None,
    )


def back_off(attempts: int) -> timedelta:
    """Return the wait after a number of failed attempts, at least one."""
    return BACK_OFF[min(attempts, len(BACK_OFF)) - 1]


def retry(session: Session, delivery_id: str | None, at: datetime) -> list[str]:
    """Make one failed delivery due again, or with None all of them.

    A delivery that waits out its back-off may be named too: it becomes due now.

    Returns:
        The IDs of the deliveries that are due now.

    Raises:
        DeliveryNotFoundError: There is no such delivery.
        DeliveryStateError: The delivery was sent.
    """
    states = [DeliveryState.FAILED]
    if delivery_id is not None:
        row = session.get(DeliveryRow, delivery_id, populate_existing=True)
        if row is None:
            raise DeliveryNotFoundError(f"there is no delivery {delivery_id}")
        if row.state not in {DeliveryState.FAILED, DeliveryState.DUE}:
            raise DeliveryStateError(f"delivery {delivery_id} was {row.state}")
        states.append(DeliveryState.DUE)
    statement = update(DeliveryRow).where(DeliveryRow.state.in_(states))
    if delivery_id is not None:
        statement = statement.where(DeliveryRow.delivery_id == delivery_id)
    revived = session.scalars(
        statement.values(
            state=DeliveryState.DUE,
            attempts=0,
            due_since=at,
            next_attempt_at=at,
            announced_at=None,
        ).returning(DeliveryRow.delivery_id)
    )
    return list(revived)


def release_all(session: Session, at: datetime) -> None:
    """End every lease, when no process can be sending."""
    del at
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.state == DeliveryState.DUE)
        .values(claim_token=None, lease_until=None, announced_at=None)
    )


def deliveries(
    session: Session,
    *,
    result_id: str | None = None,
    study_uid: StudyUid | None = None,
    state: DeliveryState | None = None,
    limit: int | None = None,
) -> list[DeliveryRecord]:
    """Return deliveries, the newest first, narrowed by what is given."""
    query = (
        select(DeliveryRow, DocumentRow)
        .join(DocumentRow, DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .order_by(
            DeliveryRow.created_at.desc(),
            DeliveryRow.destination,
            _sending_order(),
            DeliveryRow.sop_instance_uid,
        )
    )
    if result_id is not None:
        query = query.where(DeliveryRow.result_id == result_id)
    if study_uid is not None:
        query = query.where(DocumentRow.study_uid == study_uid)
    if state is not None:
        query = query.where(DeliveryRow.state == state)
    rows = session.execute(query.limit(limit))
    return [_delivery_record(delivery, document) for delivery, document in rows]


def documents(session: Session, result_id: str) -> list[DocumentRecord]:
    """Return the documents of a result in sending order."""
    rows = session.scalars(
        select(DocumentRow)
        .where(DocumentRow.result_id == result_id)
        .order_by(_sending_order(), DocumentRow.sop_instance_uid)
    )
    return [
        DocumentRecord(
            study_uid=StudyUid(row.study_uid),
            result_id=row.result_id,
            kind=row.kind,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
            sha256=row.sha256,
            path=Path(row.path),
            size=row.size,
            created_at=row.created_at,
        )
        for row in rows
    ]


def _is_ready(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a delivery that may be claimed now."""
    frozen = exists().where(
        DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid,
        contradicts(DocumentRow.study_uid),
    )
    return (
        DeliveryRow.state == DeliveryState.DUE,
        DeliveryRow.next_attempt_at <= at,
        or_(DeliveryRow.lease_until.is_(None), DeliveryRow.lease_until <= at),
        ~frozen.correlate(DeliveryRow),
    )


def _sending_order() -> ColumnElement[int]:
    return case((DocumentRow.kind == FIRST_KIND, 0), else_=1)


def _settle(session: Session, delivery: Delivery, **values: object) -> bool:
    """Change a delivery whose claim still holds, and end the claim."""
    statement: Update = (
        update(DeliveryRow)
        .where(
            DeliveryRow.delivery_id == delivery.delivery_id,
            DeliveryRow.claim_token == delivery.token,
        )
        .values(claim_token=None, lease_until=None, **values)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def _document_values(
    study_uid: StudyUid, result_id: str, document: Document, path: Path, at: datetime
) -> dict[str, Any]:
    return {
        "sop_instance_uid": document.sop_instance_uid,
        "study_uid": study_uid,
        "result_id": result_id,
        "kind": document.kind,
        "sop_class_uid": document.sop_class_uid,
        "sha256": document.sha256,
        "path": path.as_posix(),
        "size": len(document.content),
        "created_at": at,
    }


def _delivery_values(
    result_id: str, sop_instance_uid: str, destination: str, at: datetime
) -> dict[str, Any]:
    return {
        "delivery_id": str(uuid.uuid4()),
        "sop_instance_uid": sop_instance_uid,
        "result_id": result_id,
        "destination": destination,
        "state": DeliveryState.DUE,
        "attempts": 0,
        "created_at": at,
        "due_since": at,
        "next_attempt_at": at,
    }


def _delivery(row: DeliveryRow, document: DocumentRow, token: str) -> Delivery:
    return Delivery(
        delivery_id=row.delivery_id,
        token=token,
        study_uid=StudyUid(document.study_uid),
        result_id=row.result_id,
        destination=row.destination,
        sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
        sop_class_uid=document.sop_class_uid,
        kind=document.kind,
        path=Path(document.path),
        sha256=document.sha256,
        attempts=row.attempts,
    )


def _delivery_record(row: DeliveryRow, document: DocumentRow) -> DeliveryRecord:
    return DeliveryRecord(
        delivery_id=row.delivery_id,
        study_uid=StudyUid(document.study_uid),
        result_id=row.result_id,
        sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
        kind=document.kind,
        destination=row.destination,
        state=row.state,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        sent_at=row.sent_at,
    )
