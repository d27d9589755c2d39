"""What ends or prolongs the wait for a study: what is there, and what the archive has.

Part of the ledger; import its names from `dicom_node.ledger`. A study that receives
is looked at once for each change, to see whether the model needs no more. A queued
study is announced to no worker before the archive's counts agree, where they are asked.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from dicom_node import waivers
from dicom_node.arrivals import (
    add_event,
    carried,
    contradiction,
    is_open,
    lock,
    queue,
)
from dicom_node.completion import IMAGES, ROI_CARRIERS, UNANSWERED_PAUSES
from dicom_node.db import insert_missing
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import (
    AnnotationRow,
    CompletenessRow,
    InstanceRow,
    ManualRoiRow,
    StudyRow,
)


def take_unexamined(session: Session, at: datetime, limit: int) -> list[StudyUid]:
    """Return studies whose wait might end early; each change is looked at once.

    They receive, no association of them is open, and they hold an image and
    something that may carry a rectangle.
    """
    uid = StudyRow.study_uid
    rows = session.execute(
        select(uid, StudyRow.revision)
        .outerjoin(CompletenessRow, CompletenessRow.study_uid == uid)
        .where(
            StudyRow.state == StudyState.RECEIVING,
            StudyRow.quiet_until > at,
            or_(
                CompletenessRow.examined_revision.is_(None),
                CompletenessRow.examined_revision < StudyRow.revision,
            ),
            ~carried(uid),
        )
        .order_by(StudyRow.last_received_at)
    ).all()
    found: list[StudyUid] = []
    for study_uid, revision in rows:
        if len(found) == limit:
            break
        _row(session, StudyUid(study_uid)).examined_revision = revision
        if _may_be_ready(session, study_uid):
            found.append(StudyUid(study_uid))
    return found


def _may_be_ready(session: Session, study_uid: str) -> bool:
    """Say whether a study holds an image, and what may carry a rectangle on it."""
    is_marked = or_(
        _holds(study_uid, ROI_CARRIERS),
        exists().where(AnnotationRow.study_uid == study_uid),
        exists().where(ManualRoiRow.study_uid == study_uid),
    )
    return bool(session.scalar(select(_holds(study_uid, IMAGES) & is_marked)))


def complete_early(
    session: Session, uid: StudyUid, revision: int, at: datetime
) -> bool:
    """Queue a study that still receives, if nothing came since `revision`.

    Returns:
        False when something came, an association is open, or its objects contradict.
    """
    study = lock(session, uid)
    if study.state is not StudyState.RECEIVING or study.revision != revision:
        return False
    if is_open(session, study, at) or contradiction(session, uid) is not None:
        return False
    queue(session, study, "complete: the rectangle and its phases are there", at)
    return True


def take_uncounted(
    session: Session, at: datetime, lease: timedelta, limit: int
) -> list[StudyUid]:
    """Return queued studies whose counts must be asked; nobody else asks for a while.

    None is returned while any is being asked, so that an archive which does not
    answer keeps one caller waiting, not all of them.
    """
    asking = select(CompletenessRow.study_uid).where(CompletenessRow.asking_until > at)
    if session.scalar(asking.limit(1)) is not None:
        return []
    found = session.scalars(
        select(StudyRow.study_uid)
        .outerjoin(CompletenessRow, CompletenessRow.study_uid == StudyRow.study_uid)
        .where(
            StudyRow.state == StudyState.QUEUED,
            needs_count(),
            or_(CompletenessRow.ask_after.is_(None), CompletenessRow.ask_after <= at),
        )
        .order_by(StudyRow.queued_at)
        .limit(limit)
    ).all()
    for uid in found:
        _row(session, StudyUid(uid)).asking_until = at + lease
    return [StudyUid(uid) for uid in found]


def needs_count() -> ColumnElement[bool]:
    """Return the condition that the counts of a study do not stand as it is now."""
    counted = exists().where(
        CompletenessRow.study_uid == StudyRow.study_uid,
        CompletenessRow.counted_instances == StudyRow.instances,
    )
    return ~counted.correlate(StudyRow)


def count_agreed(session: Session, uid: StudyUid, instances: int) -> None:
    """Enter that the archive has no more images than we with so many instances."""
    row = _row(session, uid)
    row.counted_instances = instances
    row.unanswered = 0
    row.ask_after = row.asking_until = None


def count_differed(
    session: Session, uid: StudyUid, instances: int, detail: str, at: datetime
) -> bool:
    """Hold a queued study of which the archive has more images.

    Returns:
        False when it is not queued any more, something came meanwhile, or a person
        accepted that images are lacking.
    """
    study = lock(session, uid)
    row = _row(session, uid)
    row.unanswered = 0
    row.ask_after = row.asking_until = None
    if study.state is not StudyState.QUEUED or study.instances != instances:
        return False
    if Reason.INCOMPLETE in waivers.waived(session, study):
        row.counted_instances = instances
        return False
    study.state = StudyState.HELD
    study.reason, study.detail = Reason.INCOMPLETE, detail
    study.queued_at = study.announced_at = None
    add_event(session, uid, "held", f"{Reason.INCOMPLETE}: {detail}", at)
    return True


def count_unanswered(
    session: Session, uid: StudyUid, why: str, at: datetime
) -> timedelta | None:
    """Enter that the archive did not tell its counts.

    Returns:
        How long to wait before it is asked again; None when it was asked often
        enough and the study goes on as it is, with a warning in its history.
    """
    study = lock(session, uid)
    row = _row(session, uid)
    row.asking_until = None
    tries = row.unanswered = row.unanswered + 1
    if tries <= len(UNANSWERED_PAUSES):
        pause = UNANSWERED_PAUSES[tries - 1]
        row.ask_after = at + pause
        return pause
    row.counted_instances, row.unanswered, row.ask_after = study.instances, 0, None
    text = f"not counted: the archive did not answer in {tries} tries ({why}); "
    text += "analysed with what is here"
    add_event(session, uid, "warning", text, at)
    return None


def _holds(study_uid: str, classes: frozenset[str]) -> ColumnElement[bool]:
    return exists().where(
        InstanceRow.study_uid == study_uid,
        InstanceRow.own.is_(False),
        InstanceRow.sop_class_uid.in_(classes),
    )


def _row(session: Session, uid: StudyUid) -> CompletenessRow:
    row = session.get(CompletenessRow, uid)
    if row is not None:
        return row
    blank = {"study_uid": uid, "examined_revision": 0, "unanswered": 0}
    insert_missing(session, CompletenessRow, [blank], "study_uid")
    return session.get_one(CompletenessRow, uid)
