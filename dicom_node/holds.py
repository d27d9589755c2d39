"""Studies that a person stops: held, or ignored for good.

Nothing of such a study is analysed and nothing leaves. New objects are stored and
noted, and change nothing, until a person requeues the study.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from dicom_node.arrivals import CONTRADICTIONS, add_event, forget_queue
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import StudyRow


def hold(session: Session, uid: StudyUid, why: str, by: str, at: datetime) -> None:
    """Hold a study; a worker that has it loses it.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It is stopped already, or its objects contradict.
    """
    _stop(session, uid, StudyState.HELD, f"held by {by}: {why}", at)


def ignore(session: Session, uid: StudyUid, why: str, by: str, at: datetime) -> None:
    """Ignore a study for good; a worker that has it loses it.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It is stopped already, or its objects contradict.
    """
    _stop(session, uid, StudyState.IGNORED, f"ignored by {by}: {why}", at)


def _stop(
    session: Session, uid: StudyUid, state: StudyState, detail: str, at: datetime
) -> None:
    study = session.get(StudyRow, uid, with_for_update=True, populate_existing=True)
    if study is None:
        raise StudyNotFoundError(f"there is no study {uid}")
    if study.state is StudyState.HELD and study.reason in CONTRADICTIONS:
        raise StudyStateError(
            f"study {uid} is held for {study.reason}: that stops it already, and must "
            "be looked at first"
        )
    if study.state is state and study.reason is Reason.BY_HAND:
        raise StudyStateError(f"study {uid} is {state} by hand already")
    study.state, study.reason, study.detail = state, Reason.BY_HAND, detail
    study.revision += 1
    forget_queue(study)
    add_event(session, uid, state.value, f"{Reason.BY_HAND}: {detail}", at)
