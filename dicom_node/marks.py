"""Rectangles that a person set by hand: append-only, the newest of a side counts.

Part of the ledger; import its names from `dicom_node.ledger`. There is no document
that carries such a rectangle: its record is the row, with who set it and when.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import waivers
from dicom_node.arrivals import contradiction, lock, wake
from dicom_node.errors import StudyStateError
from dicom_node.findings import Carrier, Laterality, Roi
from dicom_node.study import SopInstanceUid, StudyState, StudyUid
from dicom_node.tables import ManualRoiRow

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """One entry: a rectangle on an image, or its withdrawal when `box` is None.

    `box` is (x0, y0, x1, y1) in continuous pixels, as in an Roi. `side_stated` says
    that the person named the side, which is else that of the image.
    """

    study_uid: StudyUid
    laterality: Laterality
    sop_instance_uid: SopInstanceUid
    frame: int
    box: Box | None
    note: str | None
    set_by: str
    set_at: datetime
    side_stated: bool = False


def set_mark(session: Session, mark: Mark) -> StudyState:
    """Append an entry and let its study be analysed with it.

    Returns:
        The state of the study now.

    Raises:
        StudyStateError: Its objects contradict one another: a person looks first.
    """
    study = lock(session, mark.study_uid)
    found = contradiction(session, mark.study_uid)
    if found is not None:
        raise StudyStateError(
            f"study {mark.study_uid} takes no rectangle now: {found[1]}"
        )
    x0, y0, x1, y1 = mark.box or (None, None, None, None)
    session.add(
        ManualRoiRow(
            study_uid=mark.study_uid,
            laterality=mark.laterality,
            sop_instance_uid=mark.sop_instance_uid,
            frame=mark.frame,
            x0=x0,
            y0=y0,
            x1=x1,
            y1=y1,
            note=mark.note,
            set_by=mark.set_by,
            set_at=mark.set_at,
            side_stated=mark.side_stated,
        )
    )
    done = "set" if mark.box else "taken back"
    why = f"rectangle {done} by hand, side {mark.laterality}, by {mark.set_by}"
    waivers.end(session, study, mark.set_by, mark.set_at)
    wake(session, study, why, mark.set_at)
    return study.state


def mark_history(session: Session, uid: StudyUid | None = None) -> list[Mark]:
    """Return all entries, of one study or of all, oldest first."""
    query = select(ManualRoiRow).order_by(ManualRoiRow.manual_roi_id)
    if uid is not None:
        query = query.where(ManualRoiRow.study_uid == uid)
    return [_mark(row) for row in session.scalars(query)]


def manual_rois(session: Session, uid: StudyUid) -> tuple[Roi, ...]:
    """Return the rectangle set by hand that counts, of each side that has one."""
    return tuple(
        _roi(mark, mark.box)
        for mark in current_marks(mark_history(session, uid))
        if mark.box is not None
    )


def current_marks(history: Sequence[Mark]) -> list[Mark]:
    """Return the entries of a history that count: the newest of each side."""
    newest = {(mark.study_uid, mark.laterality): mark for mark in history}
    return [mark for mark in newest.values() if mark.box is not None]


def _roi(mark: Mark, box: Box) -> Roi:
    return Roi(
        mark.sop_instance_uid,
        mark.frame,
        *box,
        carrier=Carrier.MANUAL,
        carrier_sop_instance_uid=None,
        author=mark.set_by,
        marked_at=mark.set_at,
        adjudicator=True,
        laterality=mark.laterality if mark.side_stated else None,
    )


def _mark(row: ManualRoiRow) -> Mark:
    return Mark(
        study_uid=StudyUid(row.study_uid),
        laterality=row.laterality,
        sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
        frame=row.frame,
        box=_box(row),
        note=row.note,
        set_by=row.set_by,
        set_at=row.set_at,
        side_stated=row.side_stated,
    )


def _box(row: ManualRoiRow) -> Box | None:
    if row.x0 is None or row.y0 is None or row.x1 is None or row.y1 is None:
        return None
    return (row.x0, row.y0, row.x1, row.y1)
