"""What was sent where, and what waits: the outbox as people and scripts see it.

Part of the outbox; import its names from `dicom_node.outbox`. Nothing is changed here.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, case, select
from sqlalchemy.orm import Session, aliased

from dicom_node.errors import DeliveryNotFoundError
from dicom_node.study import SopInstanceUid, StudyUid
from dicom_node.tables import (
    CommitmentState,
    DeliveryRow,
    DeliveryState,
    DocumentRow,
)

FIRST_KIND: Final = "SR"


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery as people and scripts see it.

    `sop_instance_uid` and `sop_class_uid` are those of the object that went out, or
    will: when it is a variant, `variant_of` names the report that it repeats.
    """

    delivery_id: str
    study_uid: StudyUid
    result_id: str
    sop_instance_uid: SopInstanceUid
    sop_class_uid: str
    variant_of: SopInstanceUid | None
    kind: str
    destination: str
    state: DeliveryState
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: datetime
    next_attempt_at: datetime | None
    sent_at: datetime | None
    commitment: CommitmentState | None
    commitment_at: datetime | None
    commitment_tries: int
    commitment_note: str | None
    resends: int


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document of a result; `path` is relative to the spool.

    `variant_of` names the report that this one repeats as another SOP class.
    """

    study_uid: StudyUid
    result_id: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: SopInstanceUid
    sha256: str
    path: Path
    size: int
    created_at: datetime
    variant_of: SopInstanceUid | None = None


def deliveries(
    session: Session,
    *,
    result_id: str | None = None,
    study_uid: StudyUid | None = None,
    state: DeliveryState | None = None,
    limit: int | None = None,
) -> list[DeliveryRecord]:
    """Return deliveries, the newest first, narrowed by what is given."""
    query = _listing().order_by(
        DeliveryRow.created_at.desc(),
        DeliveryRow.destination,
        sending_order(DocumentRow),
        DeliveryRow.sop_instance_uid,
    )
    if result_id is not None:
        query = query.where(DeliveryRow.result_id == result_id)
    if study_uid is not None:
        query = query.where(DocumentRow.study_uid == study_uid)
    if state is not None:
        query = query.where(DeliveryRow.state == state)
    return [_delivery_record(*row) for row in session.execute(query.limit(limit))]


def lookup(session: Session, delivery_id: str) -> DeliveryRecord:
    """Return one delivery.

    Raises:
        DeliveryNotFoundError: There is no such delivery.
    """
    query = _listing().where(DeliveryRow.delivery_id == delivery_id)
    row = session.execute(query).one_or_none()
    if row is None:
        raise DeliveryNotFoundError(f"there is no delivery {delivery_id}")
    return _delivery_record(*row)


def _listing() -> Any:  # noqa: ANN401 - a selection, as `with_document` returns it
    """Select deliveries with their document, and the one that went out."""
    went_out = aliased(DocumentRow)
    return with_document(select(DeliveryRow, DocumentRow, went_out)).outerjoin(
        went_out, went_out.sop_instance_uid == DeliveryRow.sent_as
    )


def documents(
    session: Session, result_id: str, *, variants: bool = False
) -> list[DocumentRecord]:
    """Return the documents of a result in sending order, on demand with variants."""
    query = select(DocumentRow).where(DocumentRow.result_id == result_id)
    if not variants:
        query = query.where(DocumentRow.variant_of.is_(None))
    rows = session.scalars(
        query.order_by(
            sending_order(DocumentRow),
            DocumentRow.variant_of.is_not(None),
            DocumentRow.sop_instance_uid,
        )
    )
    return [_document_record(row) for row in rows]


def with_document(query: Any) -> Any:  # noqa: ANN401 - a selection of any columns
    """Join deliveries with the documents that they send."""
    return query.join(
        DocumentRow, DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid
    )


def variant(
    session: Session, original: SopInstanceUid, sop_class_uid: str
) -> DocumentRecord | None:
    """Return a report's variant of a class, None when there is none yet."""
    row = session.scalar(
        select(DocumentRow).where(
            DocumentRow.variant_of == original,
            DocumentRow.sop_class_uid == sop_class_uid,
        )
    )
    return None if row is None else _document_record(row)


def due_values(
    study_uid: str,
    result_id: str,
    sop_instance_uid: str,
    destination: str,
    at: datetime,
) -> dict[str, Any]:
    """Return the columns of a fresh delivery of one document to one destination."""
    return {
        "delivery_id": str(uuid.uuid4()),
        "sop_instance_uid": sop_instance_uid,
        "study_uid": study_uid,
        "result_id": result_id,
        "destination": destination,
        "state": DeliveryState.DUE,
        "attempts": 0,
        "created_at": at,
        "due_since": at,
        "next_attempt_at": at,
    }


def sending_order(document: type[DocumentRow]) -> ColumnElement[int]:
    """Return what a result's documents are ordered by: reports go before captures."""
    return case((document.kind == FIRST_KIND, 0), else_=1)


def _delivery_record(
    row: DeliveryRow, document: DocumentRow, went_out: DocumentRow | None
) -> DeliveryRecord:
    shown = went_out or document
    variant_of = shown.variant_of
    return DeliveryRecord(
        delivery_id=row.delivery_id,
        study_uid=StudyUid(document.study_uid),
        result_id=row.result_id,
        sop_instance_uid=SopInstanceUid(shown.sop_instance_uid),
        sop_class_uid=shown.sop_class_uid,
        variant_of=None if variant_of is None else SopInstanceUid(variant_of),
        kind=document.kind,
        destination=row.destination,
        state=row.state,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        sent_at=row.sent_at,
        commitment=row.commitment,
        commitment_at=row.commitment_at,
        commitment_tries=row.commitment_tries,
        commitment_note=row.commitment_note,
        resends=row.resends,
    )


def _document_record(row: DocumentRow) -> DocumentRecord:
    variant_of = row.variant_of
    return DocumentRecord(
        study_uid=StudyUid(row.study_uid),
        result_id=row.result_id,
        kind=row.kind,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
        sha256=row.sha256,
        path=Path(row.path),
        size=row.size,
        created_at=row.created_at,
        variant_of=None if variant_of is None else SopInstanceUid(variant_of),
    )
