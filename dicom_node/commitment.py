"""Storage commitment: has the archive taken responsibility for what was sent?

The second writer of delivery state, after `dicom_node.outbox`: it begins where that
ends, at `sent`. Each request has a Transaction UID of its own, entered before it is
sent, because the report may come before the answer. A report counts however it
comes: on our association, on a new one, late, twice.

Source: PS3.4 annex J.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydicom import Dataset
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from dicom_node import outbox
from dicom_node.errors import UnreadableObjectError
from dicom_node.statuses import meaning, written
from dicom_node.study import SopInstanceUid, is_valid_uid
from dicom_node.tables import (
    CommitmentRow,
    CommitmentState,
    DeliveryRow,
    DeliveryState,
    DocumentRow,
)

MAX_TRIES: Final = 5
"""Requests without a report, after which the peer counts as one that never commits."""

MAX_RESENDS: Final = 3
"""How often an object goes out again because the peer says that it has it not."""

UNREACHABLE_PAUSE: Final = timedelta(minutes=5)
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_TRANSACTION: Final = 0x0131


@dataclass(frozen=True, slots=True)
class Request:
    """One request that this process may send now: (class, instance) of its objects."""

    transaction_uid: str
    objects: tuple[tuple[str, SopInstanceUid], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a peer reports on one transaction; `failed` holds a reason for each."""

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One object in one request, as people see it."""

    transaction_uid: str
    sop_instance_uid: SopInstanceUid
    state: CommitmentState
    failure_reason: int | None
    asked_at: datetime
    reported_at: datetime | None


def want(session: Session, delivery_id: str, at: datetime) -> None:
    """Ask for the commitment of a delivery that was sent now."""
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.delivery_id == delivery_id)
        .values(
            commitment=CommitmentState.DUE,
            commitment_at=at,
            commitment_tries=0,
            commitment_note=None,
        )
    )


def claim(
    session: Session, destination: str, timeout: timedelta, at: datetime, limit: int
) -> Request | None:
    """Enter a request for what waits for one; None when nothing does.

    A process that dies before it sends the request has lost nothing: without a report
    within `timeout` another request is made. After `MAX_TRIES` none is made any more,
    and the delivery stays `sent`.
    """
    outbox.serialize(session, destination)
    rows = session.execute(
        select(DeliveryRow, DocumentRow)
        .join(DocumentRow, DocumentRow.sop_instance_uid == DeliveryRow.sent_as)
        .where(DeliveryRow.destination == destination, outbox.is_uncommitted(at))
        .order_by(DeliveryRow.delivery_id)  # as reports lock them
        .limit(limit)
        .with_for_update(of=DeliveryRow)
        .execution_options(populate_existing=True)
    ).all()
    open_rows = [row for row in rows if not _ends_unanswered(row[0])]
    if not open_rows:
        return None
    transaction_uid = f"2.25.{uuid.uuid4().int}"
    for delivery, document in open_rows:
        delivery.commitment = CommitmentState.ASKED
        delivery.commitment_tries += 1
        delivery.commitment_at = at + timeout
        delivery.announced_at = None
        session.add(_asked(transaction_uid, delivery, document, at))
    return Request(
        transaction_uid,
        tuple(
            (document.sop_class_uid, SopInstanceUid(document.sop_instance_uid))
            for _, document in open_rows
        ),
    )


def _ends_unanswered(delivery: DeliveryRow) -> bool:
    if delivery.commitment_tries < MAX_TRIES:
        return False
    delivery.commitment = CommitmentState.UNANSWERED
    delivery.commitment_at = None
    delivery.commitment_note = (
        f"no commitment report came after {MAX_TRIES} requests: does the PACS know "
        "our AE title, host and port?"
    )
    return True


def _asked(
    transaction_uid: str, delivery: DeliveryRow, document: DocumentRow, at: datetime
) -> CommitmentRow:
    return CommitmentRow(
        transaction_uid=transaction_uid,
        delivery_id=delivery.delivery_id,
        sop_class_uid=document.sop_class_uid,
        sop_instance_uid=document.sop_instance_uid,
        state=CommitmentState.ASKED,
        failure_reason=None,
        asked_at=at,
        reported_at=None,
    )


def postponed(
    session: Session, request: Request, why: str, give_up_before: datetime, at: datetime
) -> None:
    """Enter that the peer could not be asked; the request does not count.

    What was sent before `give_up_before` is not asked about any more.
    """
    for delivery in _unreported(session, request.transaction_uid):
        delivery.commitment_tries -= 1
        delivery.commitment_note = why
        late = delivery.sent_at is not None and delivery.sent_at <= give_up_before
        delivery.commitment = (
            CommitmentState.UNANSWERED if late else CommitmentState.DUE
        )
        delivery.commitment_at = None if late else at + UNREACHABLE_PAUSE
    _settle(session, request.transaction_uid, CommitmentState.UNANSWERED, at)


def refused(session: Session, request: Request, why: str, at: datetime) -> None:
    """Enter that the peer does not commit; its deliveries stay `sent`, with a note."""
    for delivery in _unreported(session, request.transaction_uid):
        delivery.commitment = CommitmentState.REFUSED
        delivery.commitment_at = None
        delivery.commitment_note = why
    _settle(session, request.transaction_uid, CommitmentState.REFUSED, at)


def _unreported(session: Session, transaction_uid: str) -> Sequence[DeliveryRow]:
    """Return the deliveries of a request that still wait for its report."""
    return session.scalars(
        select(DeliveryRow)
        .join(CommitmentRow, CommitmentRow.delivery_id == DeliveryRow.delivery_id)
        .where(
            CommitmentRow.transaction_uid == transaction_uid,
            CommitmentRow.state == CommitmentState.ASKED,
            DeliveryRow.state == DeliveryState.SENT,
        )
        .with_for_update(of=DeliveryRow)
        .execution_options(populate_existing=True)
    ).all()


def _settle(
    session: Session, transaction_uid: str, state: CommitmentState, at: datetime
) -> None:
    session.flush()
    session.execute(
        update(CommitmentRow)
        .where(
            CommitmentRow.transaction_uid == transaction_uid,
            CommitmentRow.state == CommitmentState.ASKED,
        )
        .values(state=state, reported_at=at)
    )


def read_report(information: Dataset) -> Report:
    """Read the information of an N-EVENT-REPORT (PS3.4 table J.3-2).

    Raises:
        UnreadableObjectError: It names no transaction, or an object without its UID.
    """
    transaction_uid = _uid(information, "TransactionUID")
    if not is_valid_uid(transaction_uid):
        raise UnreadableObjectError("the commitment report names no transaction")
    failed = {
        _instance(item): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in information.get("FailedSOPSequence") or ()
    }
    named = {_instance(item) for item in information.get("ReferencedSOPSequence") or ()}
    return Report(transaction_uid, frozenset(named - failed.keys()), failed)


def _instance(item: Dataset) -> str:
    uid = _uid(item, "ReferencedSOPInstanceUID")
    if not is_valid_uid(uid):
        raise UnreadableObjectError("the commitment report names no object")
    return uid


def _uid(item: Dataset, keyword: str) -> str:
    """Return a UID as it was sent; pydicom's own judgement would quote it in a log."""
    if keyword not in item:
        return ""
    value = item.get_item(keyword).value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\0 ") if isinstance(value, str) else ""


def reported(session: Session, report: Report, at: datetime) -> bool:
    """Enter a report; False when the transaction is none of ours. Idempotent.

    An object that the report leaves out keeps waiting, until it is asked for again.
    """
    rows = session.execute(
        select(CommitmentRow, DeliveryRow)
        .join(DeliveryRow, DeliveryRow.delivery_id == CommitmentRow.delivery_id)
        .where(CommitmentRow.transaction_uid == report.transaction_uid)
        .order_by(DeliveryRow.delivery_id)
        .with_for_update(of=DeliveryRow)
        .execution_options(populate_existing=True)
    ).all()
    for request, delivery in rows:
        if request.state is CommitmentState.COMMITTED:
            continue
        if request.sop_instance_uid in report.committed:
            request.state, request.reported_at = CommitmentState.COMMITTED, at
            _commit(delivery, request, at)
        elif request.sop_instance_uid in report.failed and request.reported_at is None:
            reason = report.failed[request.sop_instance_uid]
            request.state, request.reported_at = CommitmentState.FAILED, at
            request.failure_reason = reason
            _send_again(delivery, request, reason, at)
    return bool(rows)


def _commit(delivery: DeliveryRow, request: CommitmentRow, at: datetime) -> None:
    """Enter that the peer keeps an object, also one that was to be sent again."""
    waits = delivery.state is DeliveryState.DUE and (
        delivery.lease_until is None or delivery.lease_until <= at
    )
    is_it = delivery.sent_as == request.sop_instance_uid
    if is_it and (waits or delivery.state is DeliveryState.SENT):
        delivery.state = DeliveryState.COMMITTED
        delivery.commitment = CommitmentState.COMMITTED
        delivery.commitment_at = delivery.next_attempt_at = None
        delivery.commitment_note = delivery.last_error = None


def _send_again(
    delivery: DeliveryRow, request: CommitmentRow, reason: int, at: datetime
) -> None:
    """Answer a failed report: the object goes out again, a few times, then fails."""
    is_it = delivery.sent_as == request.sop_instance_uid
    if delivery.state is not DeliveryState.SENT or not is_it:
        return
    delivery.commitment_note = (
        f"the PACS does not keep it: {written(reason)} ({meaning(reason)})"
    )
    if reason == DUPLICATE_TRANSACTION:
        delivery.commitment, delivery.commitment_at = CommitmentState.DUE, at
        return
    delivery.commitment, delivery.commitment_at = CommitmentState.FAILED, None
    delivery.last_error = delivery.commitment_note
    if delivery.resends >= MAX_RESENDS:
        delivery.state = DeliveryState.FAILED
        return
    delivery.resends += 1
    delivery.state = DeliveryState.DUE
    delivery.due_since = at
    delivery.next_attempt_at = at + outbox.back_off(delivery.resends)
    delivery.announced_at = None


def requests(session: Session, delivery_id: str) -> list[RequestRecord]:
    """Return every request for one delivery, the oldest first."""
    rows = session.scalars(
        select(CommitmentRow)
        .where(CommitmentRow.delivery_id == delivery_id)
        .order_by(CommitmentRow.commitment_id)
    )
    return [
        RequestRecord(
            transaction_uid=row.transaction_uid,
            sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
            state=row.state,
            failure_reason=row.failure_reason,
            asked_at=row.asked_at,
            reported_at=row.reported_at,
        )
        for row in rows
    ]


def waiting(session: Session, transaction_uid: str) -> int:
    """Return how many objects of a request have no report yet."""
    count = session.scalar(
        select(func.count())
        .select_from(CommitmentRow)
        .where(
            CommitmentRow.transaction_uid == transaction_uid,
            CommitmentRow.state == CommitmentState.ASKED,
        )
    )
    return count or 0
