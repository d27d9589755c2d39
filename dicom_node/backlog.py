"""What waits to be analysed: live studies, and bulk ones that give way to them."""

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_node.completeness import needs_count
from dicom_node.study import StudyState, StudyUid
from dicom_node.tables import EventRow, StudyRow


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
    """Return bulk studies that nobody has claimed since they were queued, in order.

    One that was given back is left out although its try did not count: it waits for
    its own message.

    Args:
        session: A reading session.
        limit: How many studies at most.
        counted: Leave out those whose counts the archive has not confirmed.
    """
    ready = (~needs_count(),) if counted else ()
    tried = exists().where(
        EventRow.study_uid == StudyRow.study_uid,
        EventRow.what == StudyState.ANALYZING.value,
        EventRow.at >= StudyRow.queued_at,
    )
    found = session.scalars(
        select(StudyRow.study_uid)
        .where(
            StudyRow.state == StudyState.QUEUED,
            StudyRow.bulk.is_(True),
            StudyRow.attempts == 0,
            ~tried.correlate(StudyRow),
            *ready,
        )
        .order_by(StudyRow.queued_at)
        .limit(limit)
    )
    return [StudyUid(uid) for uid in found]
