"""What a person does to a delivery: take it up again, or end it.

Part of the outbox; import its names from `dicom_node.outbox`. Each intervention is
written into the study's history, with who it was.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from dicom_node.arrivals import add_event
from dicom_node.db import insert_missing
from dicom_node.deliveries import due_values, with_document
from dicom_node.destination import Destination
from dicom_node.errors import DeliveryNotFoundError, DeliveryStateError
from dicom_node.tables import DeliveryRow, DeliveryState, DocumentRow

REVIVABLE: Final = frozenset(
    {DeliveryState.FAILED, DeliveryState.DUE, DeliveryState.CANCELLED}
)
_AGAIN: Final = {
    "state": DeliveryState.DUE,
    "attempts": 0,
    "announced_at": None,
    "commitment": None,
    "commitment_at": None,
    "commitment_tries": 0,
    "resends": 0,
}
CANCELLABLE: Final = frozenset({DeliveryState.FAILED, DeliveryState.DUE})


def retry(
    session: Session, delivery_id: str | None, at: datetime, by: str = "unknown"
) -> list[str]:
    """Make one failed or cancelled delivery due again, or with None all failed ones.

    A delivery that waits out its back-off may be named too: it becomes due now.

    Returns:
        The IDs of the deliveries that are due now.

    Raises:
        DeliveryNotFoundError: There is no such delivery.
        DeliveryStateError: The delivery was sent.
    """
    if delivery_id is None:
        chosen = DeliveryRow.state == DeliveryState.FAILED
    else:
        row = _row(session, delivery_id)
        if row.state not in REVIVABLE:
            raise DeliveryStateError(f"delivery {delivery_id} was {row.state}")
        chosen = DeliveryRow.delivery_id == delivery_id
    revived = session.scalars(
        update(DeliveryRow)
        .where(chosen, DeliveryRow.state.in_(REVIVABLE))
        .values(**_AGAIN, due_since=at, next_attempt_at=at)
        .returning(DeliveryRow.delivery_id)
    ).all()
    for each in revived:
        _audit(session, each, "delivery retried", by, at)
    return list(revived)


def resend(
    session: Session,
    result_id: str,
    more: Sequence[Destination],
    by: str,
    at: datetime,
) -> int:
    """Send the documents of a result again, whatever became of them before.

    The bytes are those that were frozen: an archive that has them recognises the SOP
    Instance UIDs. They go where they went, and to `more`; what is being sent now is
    left alone.

    Returns:
        How many deliveries are due now.
    """
    documents = session.scalars(
        select(DocumentRow).where(
            DocumentRow.result_id == result_id, DocumentRow.variant_of.is_(None)
        )
    ).all()
    insert_missing(
        session,
        DeliveryRow,
        [
            due_values(one.study_uid, result_id, one.sop_instance_uid, name, at)
            for one in documents
            for name in map(str, more)
        ],
        "delivery_id",
    )
    again = session.scalars(
        update(DeliveryRow)
        .where(
            DeliveryRow.result_id == result_id,
            or_(DeliveryRow.lease_until.is_(None), DeliveryRow.lease_until <= at),
        )
        .values(**_AGAIN, due_since=at, next_attempt_at=at)
        .returning(DeliveryRow.delivery_id)
    ).all()
    for each in again:
        _audit(session, each, "delivery repeated", by, at)
    return len(again)


def supplement(
    session: Session, sop_instance_uid: str, destination: str, by: str, at: datetime
) -> None:
    """Put a document on its way to a destination that it never had. Idempotent."""
    document = session.get_one(DocumentRow, sop_instance_uid)
    values = due_values(
        document.study_uid, document.result_id, sop_instance_uid, destination, at
    )
    for each in insert_missing(session, DeliveryRow, [values], "delivery_id"):
        _audit(session, each, "delivery supplied", by, at)


def send_lost(session: Session, delivery_id: str, by: str, at: datetime) -> bool:
    """Make a delivery due again that the archive took and has lost.

    Returns:
        False when it is not a delivery that was sent, any more.
    """
    again = session.scalars(
        update(DeliveryRow)
        .where(
            DeliveryRow.delivery_id == delivery_id,
            DeliveryRow.state.in_((DeliveryState.SENT, DeliveryState.COMMITTED)),
        )
        .values(**_AGAIN, due_since=at, next_attempt_at=at)
        .returning(DeliveryRow.delivery_id)
    ).all()
    for each in again:
        _audit(session, each, "delivery repeated", by, at)
    return bool(again)


def cancel(session: Session, delivery_id: str, at: datetime, by: str) -> None:
    """End a delivery that was not sent; nothing is tried any more.

    Raises:
        DeliveryNotFoundError: There is no such delivery.
        DeliveryStateError: It was sent or cancelled, or is being sent now.
    """
    row = _row(session, delivery_id)
    if row.state not in CANCELLABLE:
        raise DeliveryStateError(f"delivery {delivery_id} was {row.state}")
    if row.lease_until is not None and row.lease_until > at:
        raise DeliveryStateError(
            f"delivery {delivery_id} is being sent now: look again in a moment"
        )
    row.state = DeliveryState.CANCELLED
    row.next_attempt_at = row.claim_token = row.lease_until = None
    session.flush()
    _audit(session, delivery_id, "delivery cancelled", by, at)


def _row(session: Session, delivery_id: str) -> DeliveryRow:
    row = session.get(
        DeliveryRow, delivery_id, populate_existing=True, with_for_update=True
    )
    if row is None:
        raise DeliveryNotFoundError(f"there is no delivery {delivery_id}")
    return row


def _audit(
    session: Session, delivery_id: str, what: str, by: str, at: datetime
) -> None:
    """Write into the study's history what a person did to a delivery."""
    document, destination = session.execute(
        with_document(select(DocumentRow, DeliveryRow.destination)).where(
            DeliveryRow.delivery_id == delivery_id
        )
    ).one()
    detail = f"{document.kind} to {destination}, by {by}"
    add_event(session, document.study_uid, what, detail, at)
