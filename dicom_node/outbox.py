"""The writer of delivery state: which document goes where, and how it went.

Callers own the transaction; functions return values, never rows. A delivery is
`due` until it is `sent`, or `failed` for good, or `cancelled` by a person; what
follows after `sent` is `dicom_node.commitment`. At one destination the documents of a
study keep their order: none overtakes an earlier one that waits. Documents of a study
whose objects contradict one another are frozen until a person has accepted them.
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
    and_,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from dicom_node.arrivals import is_frozen
from dicom_node.db import insert_missing
from dicom_node.deliveries import (
    DeliveryRecord,
    DocumentRecord,
    deliveries,
    documents,
    due_values,
    lookup,
    sending_order,
    variant,
    with_document,
)
from dicom_node.destination import Destination
from dicom_node.findings import Document
from dicom_node.intervention import cancel, resend, retry, send_lost, supplement
from dicom_node.study import SopInstanceUid, StudyUid
from dicom_node.tables import (
    DeliveryRow,
    DeliveryState,
    DocumentRow,
)

__all__ = [
    "Delivery",
    "DeliveryRecord",
    "DeliveryState",
    "DocumentRecord",
    "Endurance",
    "add_variant",
    "announced",
    "back_off",
    "cancel",
    "claim",
    "deferred",
    "deliveries",
    "documents",
    "due",
    "enqueue",
    "failed",
    "give_back",
    "is_uncommitted",
    "lookup",
    "release_all",
    "resend",
    "retry",
    "send_lost",
    "sent",
    "serialize",
    "supplement",
    "variant",
]

BACK_OFF: Final = (1, 5, 15, 60)
"""Waits after each failed attempt, in waits after the first; the last one repeats."""

RETRY_AFTER: Final = timedelta(minutes=1)
GIVE_UP_AFTER: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Endurance:
    """How long after a failure a delivery is tried again, and for how long at all."""

    retry_after: timedelta = RETRY_AFTER
    give_up_after: timedelta = GIVE_UP_AFTER


PATIENT: Final = Endurance()


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


def enqueue(  # noqa: PLR0913, PLR0917 - one result on its way, in one call
    session: Session,
    study_uid: StudyUid,
    result_id: str,
    documents: Sequence[tuple[Document, Path]],
    destinations: Sequence[Destination],
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
            due_values(
                study_uid, result_id, document.sop_instance_uid, str(destination), at
            )
            for destination in destinations
            for document, _ in documents
        ],
        "delivery_id",
    )


def due(
    session: Session, at: datetime, resend_after: timedelta, limit: int
) -> list[str]:
    """Return the destinations that need a message now.

    One whose work was announced less than `resend_after` ago has its message still.
    """
    forgotten = or_(
        DeliveryRow.announced_at.is_(None),
        DeliveryRow.announced_at <= at - resend_after,
    )
    ready = with_document(select(DeliveryRow.destination)).where(*_is_ready(at))
    uncommitted = select(DeliveryRow.destination).where(is_uncommitted(at))
    found: dict[str, None] = {}
    for query in (ready, uncommitted):
        rows = session.scalars(query.where(forgotten).distinct().limit(limit))
        found.update(dict.fromkeys(rows))
    return list(found)[:limit]


def announced(session: Session, destinations: Iterable[str], at: datetime) -> None:
    """Enter that a message was sent for destinations that `due` returned."""
    session.execute(
        update(DeliveryRow)
        .where(
            DeliveryRow.destination.in_(list(destinations)),
            or_(
                and_(
                    DeliveryRow.state == DeliveryState.DUE,
                    DeliveryRow.next_attempt_at <= at,
                ),
                is_uncommitted(at),
            ),
        )
        .values(announced_at=at)
    )


def is_uncommitted(at: datetime) -> ColumnElement[bool]:
    """Return the condition that a delivery's storage commitment is to be asked now."""
    return and_(
        DeliveryRow.state == DeliveryState.SENT, DeliveryRow.commitment_at <= at
    )


def claim(
    session: Session,
    destination: str,
    lease: timedelta,
    at: datetime,
    limit: int,
) -> list[Delivery]:
    """Take what is due for one destination, in sending order: the oldest first.

    Of one result, reports go before captures. What another process has under lease
    is left out, and with it everything of its study that comes after it.
    """
    serialize(session, destination)
    query = with_document(select(DeliveryRow, DocumentRow))
    rows = session.execute(
        query.where(DeliveryRow.destination == destination, *_is_ready(at))
        .order_by(
            DeliveryRow.created_at,
            DeliveryRow.result_id,
            sending_order(DocumentRow),
            DocumentRow.sop_instance_uid,
        )
        .limit(limit)
        .with_for_update(skip_locked=True, of=DeliveryRow)
        .execution_options(populate_existing=True)
    ).all()
    token = str(uuid.uuid4())
    for delivery, _ in rows:
        delivery.claim_token = token
        delivery.lease_until = at + lease
        delivery.attempts += 1
    return [_delivery(delivery, document, token) for delivery, document in rows]


def serialize(session: Session, destination: str) -> None:
    """Let one transaction at a time choose what goes to a destination.

    Two that choose at once would not see each other's leases, and a later document
    might overtake. SQLite has one writer at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        key = func.hashtext(f"delivery {destination}")
        session.execute(select(func.pg_advisory_xact_lock(key)))


def give_back(session: Session, delivery: Delivery) -> bool:
    """End a claim whose turn did not come; False when the lease was lost."""
    return _settle(session, delivery, attempts=delivery.attempts - 1, announced_at=None)


def add_variant(
    session: Session,
    delivery: Delivery,
    document: Document,
    path: Path,
    at: datetime,
) -> None:
    """Enter a report's variant before it may go out. Idempotent.

    From here on it is known as ours, when an archive routes it back.
    """
    values = _document_values(
        delivery.study_uid, delivery.result_id, document, path, at
    )
    values["variant_of"] = delivery.sop_instance_uid
    insert_missing(session, DocumentRow, [values], "sop_instance_uid")


def sent(
    session: Session,
    delivery: Delivery,
    status: int,
    at: datetime,
    sent_as: SopInstanceUid | None = None,
) -> bool:
    """Enter that the peer stored a document; False when the lease was lost.

    `sent_as` names the variant of it that went out, if it was one.
    """
    return _settle(
        session,
        delivery,
        state=DeliveryState.SENT,
        last_status=status,
        last_error=None,
        next_attempt_at=None,
        announced_at=None,
        sent_at=at,
        sent_as=sent_as or delivery.sop_instance_uid,
    )


def deferred(  # noqa: PLR0913, PLR0917 - one failure with its limits, in one call
    session: Session,
    delivery: Delivery,
    error: str,
    status: int | None,
    at: datetime,
    endurance: Endurance = PATIENT,
) -> bool:
    """Enter a failure that may pass; the next attempt waits, after 14 days none.

    Args:
        session: A writing session.
        delivery: The claimed delivery.
        error: One sentence without a patient's name, ID or date.
        status: The status that was answered, None when no answer came.
        at: The time of this call.
        endurance: How long it waits, and how long it is tried since it became due.

    Returns:
        False when the lease was lost: then nothing was entered.
    """
    row = session.get(DeliveryRow, delivery.delivery_id, populate_existing=True)
    if row is None or row.due_since + endurance.give_up_after <= at:
        return failed(session, delivery, error, status, at)
    return _settle(
        session,
        delivery,
        state=DeliveryState.DUE,
        last_status=status,
        last_error=error,
        next_attempt_at=at + back_off(delivery.attempts, endurance.retry_after),
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


def back_off(attempts: int, first: timedelta = RETRY_AFTER) -> timedelta:
    """Return the wait after a number of failed attempts, at least one."""
    return first * BACK_OFF[min(attempts, len(BACK_OFF)) - 1]


def release_all(session: Session, at: datetime) -> None:
    """End every lease, when no process can be sending."""
    del at
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.state == DeliveryState.DUE)
        .values(claim_token=None, lease_until=None, announced_at=None)
    )


def _is_ready(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a delivery, joined with its document, to claim now."""
    return (
        DeliveryRow.state == DeliveryState.DUE,
        DeliveryRow.next_attempt_at <= at,
        or_(DeliveryRow.lease_until.is_(None), DeliveryRow.lease_until <= at),
        ~is_frozen(DocumentRow.study_uid),
        ~_must_wait(at),
    )


def _must_wait(at: datetime) -> ColumnElement[bool]:
    """Return the condition that an earlier document of the study is on its way."""
    earlier, of = aliased(DeliveryRow), aliased(DocumentRow)
    created, order = _sequence(DeliveryRow, DocumentRow)
    earlier_created, earlier_order = _sequence(earlier, of)
    return (
        exists()
        .where(
            earlier.study_uid == DeliveryRow.study_uid,
            earlier.destination == DeliveryRow.destination,
            earlier.state == DeliveryState.DUE,
            of.sop_instance_uid == earlier.sop_instance_uid,
            or_(
                earlier_created < created,
                and_(earlier_created == created, earlier_order < order),
            ),
            or_(earlier.next_attempt_at > at, earlier.lease_until > at),
        )
        .correlate(DeliveryRow, DocumentRow)
    )


def _sequence(
    delivery: type[DeliveryRow], document: type[DocumentRow]
) -> tuple[ColumnElement[datetime], ColumnElement[int]]:
    """Return what the documents of a study are ordered by at one destination."""
    return delivery.created_at.expression, sending_order(document)


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
