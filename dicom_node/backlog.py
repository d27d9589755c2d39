"""What waits to be analysed: live studies, and bulk ones that give way to them."""

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from dicom_node.completeness import needs_count
from dicom_node.study import StudyState, StudyUid
from dicom_node.tables import StudyRow


def live_waits(session: Session, *, counted: bool = False) -> bool:
    """Say whether a study waits that bulk work gives way to.

    Args:
        session: A reading session.
        counted: Leave out those whose counts the archive has not confirmed.
    """
    ready = (~needs_count(),) if counted else ()
    waiting = select(StudyRow.study_uid).where(
        StudyRow.state == StudyState.QUEUED, StudyRow.bulk.is_(False), *ready
    )
    return session.scalar(waiting.limit(1)) is not None


def untried_bulk(
    session: Session, limit: int, *, counted: bool = False
) -> list[StudyUid]:
    """Return bulk studies of which `is_untried_bulk` holds, the oldest first.

    Args:
        session: A reading session.
        limit: How many studies at most.
        counted: Leave out those whose counts the archive has not confirmed.
    """
    ready = (~needs_count(),) if counted else ()
    found = session.scalars(
        select(StudyRow.study_uid)
        .where(StudyRow.state == StudyState.QUEUED, is_untried_bulk(), *ready)
        .order_by(StudyRow.queued_at)
        .limit(limit)
    )
    return [StudyUid(uid) for uid in found]


def is_untried_bulk() -> ColumnElement[bool]:
    """Return the condition that any process may take a queued study along.

    It is bulk work, no try of it counts, and no message was sent for it: what was
    announced, or given back a while ago, waits for its own message. Taken along, it
    would leave that in the queue with nothing to do, and a message that was lost could
    not be told from one that is late (see `dicom_node.ledger.announced_since`).
    """
    return and_(
        StudyRow.bulk.is_(True),
        StudyRow.attempts == 0,
        StudyRow.announced_at.is_(None),
    )
