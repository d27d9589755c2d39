"""Objects whose file was lost or damaged on disk, and studies whose rows were.

The row of a lost object stays, marked like one whose image was purged, so that the
same object is taken in when it is sent again. A study that still has to be analysed is
held until then; one that has its result stands.
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from dicom_node.arrivals import CONTRADICTIONS, add_event, forget_queue
from dicom_node.errors import StudyNotFoundError
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import InstanceRow, StudyRow

SETTLED = frozenset({StudyState.ANALYZED, StudyState.IGNORED})
"""States of studies that need their images no more."""


def lose(
    session: Session, uid: StudyUid, lost: Collection[str], at: datetime
) -> StudyState:
    """Enter that the files of objects are gone; hold the study if it needs them.

    A worker that has the study loses it.

    Returns:
        The state that the study is left in.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    study = session.get(StudyRow, uid, with_for_update=True, populate_existing=True)
    if study is None:
        raise StudyNotFoundError(f"there is no study {uid}")
    of_study = (InstanceRow.study_uid == uid, InstanceRow.sop_instance_uid.in_(lost))
    needed = session.scalar(select(exists().where(*of_study, ~InstanceRow.own)))
    session.execute(
        update(InstanceRow)
        .where(*of_study, InstanceRow.purged_at.is_(None))
        .values(purged_at=at)
    )
    detail = (
        f"the files of {len(lost)} object(s) are gone from the spool or damaged; send "
        "the whole study again from the PACS"
    )
    add_event(session, uid, "lost", detail, at)
    if not needed or study.state in SETTLED or _is_stopped(study):
        return study.state
    study.state, study.reason = StudyState.HELD, Reason.INCOMPLETE
    study.detail = detail
    study.revision += 1
    forget_queue(study)
    add_event(session, uid, StudyState.HELD.value, f"{Reason.INCOMPLETE}: {detail}", at)
    return study.state


def _is_stopped(study: StudyRow) -> bool:
    """Say whether a person or a contradiction stops the study already."""
    return study.state is StudyState.HELD and (
        study.reason is Reason.BY_HAND or study.reason in CONTRADICTIONS
    )


def announce_again(session: Session, uid: StudyUid, at: datetime) -> bool:
    """Have a queued study announced anew; False when it is queued no more."""
    study = session.get(StudyRow, uid, with_for_update=True, populate_existing=True)
    if study is None or study.state is not StudyState.QUEUED:
        return False
    study.announced_at = None
    study.queued_at = at
    add_event(session, uid, "queued", "announced again: its message was lost", at)
    return True
