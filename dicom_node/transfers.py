"""What was sent to whom over one association, for the audit trail."""

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from dicom_node import classes
from dicom_node.tables import DocumentRow, TransferRow


@dataclass(slots=True)
class Went:
    """What became of the documents of one study: who has them, how many did not go.

    `answered` says that the destination said anything about one of them.
    """

    taken: list[str] = field(default_factory=list)
    failed: int = 0
    answered: bool = False


def begin(
    session: Session, destination: str, studies: Iterable[str], at: datetime
) -> str:
    """Enter that documents of studies are about to be sent; return an ID for `end`."""
    transfer_id = str(uuid.uuid4())
    for study in sorted(set(studies)):
        session.add(
            TransferRow(
                transfer_id=transfer_id,
                study_uid=study,
                destination=destination,
                began_at=at,
                failed=0,
            )
        )
    return transfer_id


def end(
    session: Session, transfer_id: str, went: Mapping[str, Went], at: datetime
) -> None:
    """Enter what became of a transfer; one that reached nobody was none."""
    if not any(one.answered for one in went.values()):
        session.execute(
            delete(TransferRow).where(TransferRow.transfer_id == transfer_id)
        )
        return
    named = _classes(session, [uid for one in went.values() for uid in one.taken])
    for study, one in went.items():
        counts = Counter(named[uid] for uid in one.taken if uid in named)
        session.execute(
            update(TransferRow)
            .where(
                TransferRow.transfer_id == transfer_id, TransferRow.study_uid == study
            )
            .values(objects=classes.written(counts), failed=one.failed)
        )
    session.execute(
        update(TransferRow)
        .where(TransferRow.transfer_id == transfer_id)
        .values(ended_at=at)
    )


def _classes(session: Session, uids: Sequence[str]) -> dict[str, str]:
    rows = session.execute(
        select(DocumentRow.sop_instance_uid, DocumentRow.sop_class_uid).where(
            DocumentRow.sop_instance_uid.in_(uids)
        )
    )
    return {uid: sop_class for uid, sop_class in rows}  # noqa: C416 - rows are no pairs to mypy
