"""Documents that mark images of another study, matched by SOP Instance UID alone.

Part of the ledger; import its names from `dicom_node.ledger`. An outside workstation
may store what it draws under a study UID of its own. What such a document refers to is
remembered; the study that holds the image, now or later, is analysed with it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Row, select
from sqlalchemy.orm import Session, aliased

from dicom_node import waivers
from dicom_node.arrivals import add_event, wake
from dicom_node.completion import IMAGES
from dicom_node.db import insert_missing
from dicom_node.study import (
    Patient,
    Reason,
    SopInstanceUid,
    StoredInstance,
    StudyState,
    StudyUid,
)
from dicom_node.tables import AnnotationRow, InstanceRow, StudyRow

CHUNK: Final = 500

RECENT: Final = timedelta(days=1)
"""How long each sweep looks for the image of a reference, and again once it came.

Marks on images that never come are many after years; only `match(ever=True)` looks
for all of them, now and then, in case nobody swept for so long.
"""

AWAITING: Final = frozenset(
    {
        (StudyState.HELD, Reason.NO_ROI),
        (StudyState.HELD, Reason.ROI_IMAGE_MISSING),
        (StudyState.IGNORED, Reason.ANNOTATES_OTHER_STUDY),
    }
)
"""How a study may stand whose detail changes when the images that it marks come."""

Verdict = tuple[StudyState, Reason, str]


@dataclass(frozen=True, slots=True)
class ForeignDocument:
    """A document of another study that marks images of this one."""

    stored: StoredInstance
    study_uid: StudyUid
    received_at: datetime


def refer(
    session: Session,
    references: Mapping[SopInstanceUid, Sequence[SopInstanceUid]],
    at: datetime,
) -> None:
    """Remember which images outside its study each document refers to; idempotent."""
    rows = [
        {
            "document_uid": document,
            "image_uid": image,
            "study_uid": None,
            "patient_differs": False,
            "recorded_at": at,
        }
        for document, images in references.items()
        for image in images
    ]
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        insert_missing(session, AnnotationRow, chunk, "document_uid")


def match(
    session: Session, at: datetime, limit: int = 1000, *, ever: bool = False
) -> list[StudyUid]:
    """Join remembered references with images that are here; wake their studies.

    Never waits for a row: what another transaction holds is left for the next call.

    Args:
        session: A writing session.
        at: The time of this call.
        limit: How many references are joined at most.
        ever: Look also for those whose document and image came more than a day ago.

    Returns:
        The studies whose images are marked from elsewhere, and not by a document of
        another patient.
    """
    pairs: dict[tuple[StudyUid, StudyUid], list[AnnotationRow]] = defaultdict(list)
    since = None if ever else at - RECENT
    for row, document_study, image_study in _unmatched(session, since, limit):
        pairs[StudyUid(document_study), StudyUid(image_study)].append(row)
    studies = _free(session, {uid for pair in pairs for uid in pair})
    woken = []
    for (source, target), rows in pairs.items():
        if source not in studies or target not in studies:
            continue
        if source == target:
            _assign(rows, target)
        elif _join(session, rows, (studies[source], studies[target]), at):
            woken.append(target)
    return woken


def _unmatched(
    session: Session, since: datetime | None, limit: int
) -> Sequence[Row[AnnotationRow, str, str]]:
    document, image = aliased(InstanceRow), aliased(InstanceRow)
    recent = () if since is None else (AnnotationRow.recorded_at >= since,)
    return session.execute(
        select(AnnotationRow, document.study_uid, image.study_uid)
        .join(document, document.sop_instance_uid == AnnotationRow.document_uid)
        .join(image, image.sop_instance_uid == AnnotationRow.image_uid)
        .where(AnnotationRow.study_uid.is_(None), image.own.is_(False), *recent)
        .order_by(AnnotationRow.document_uid, AnnotationRow.image_uid)
        .limit(limit)
    ).all()


def _free(session: Session, uids: set[StudyUid]) -> dict[StudyUid, StudyRow]:
    """Lock those of the studies that no other transaction holds."""
    rows = session.scalars(
        select(StudyRow)
        .where(StudyRow.study_uid.in_(uids))
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return {StudyUid(row.study_uid): row for row in rows}


def _join(
    session: Session,
    rows: Sequence[AnnotationRow],
    studies: tuple[StudyRow, StudyRow],
    at: datetime,
) -> bool:
    """Give a study the documents of another one; False when their patients differ."""
    source, target = studies
    patient = Patient(target.patient_key, target.issuer_key)
    differing = 0
    for row in rows:
        document = session.get_one(InstanceRow, row.document_uid)
        theirs = Patient(document.patient_key, document.issuer_key)
        row.patient_differs = patient.differs(theirs)
        differing += row.patient_differs
    _assign(rows, StudyUid(target.study_uid))
    session.flush()
    _settle(session, source, at)
    if differing == len(rows):
        text = f"a document of study {source.study_uid} marks its images, but names "
        text += "another patient; it is not used"
        add_event(session, target.study_uid, "refused", text, at)
        return False
    waivers.end(session, target, "a mark that came", at)
    wake(session, target, f"study {source.study_uid} holds marks on its images", at)
    return True


def _assign(rows: Sequence[AnnotationRow], uid: StudyUid) -> None:
    for row in rows:
        row.study_uid = uid


def _settle(session: Session, source: StudyRow, at: datetime) -> None:
    """Tell a study that waits for images elsewhere where they are."""
    if (source.state, source.reason) not in AWAITING:
        return
    uid = StudyUid(source.study_uid)
    found = verdict(session, uid)
    if found is None:
        source.detail = f"{source.detail} {elsewhere(session, uid)}".strip()
        return
    source.state, source.reason, source.detail = found
    add_event(session, uid, found[0], f"{found[1]}: {found[2]}", at)


def foreign_documents(session: Session, uid: StudyUid) -> list[ForeignDocument]:
    """Return the documents of other studies that mark images of this one.

    They are of the same patient; paths are relative to the spool.
    """
    marking = select(AnnotationRow.document_uid).where(
        AnnotationRow.study_uid == uid, AnnotationRow.patient_differs.is_(False)
    )
    rows = session.scalars(
        select(InstanceRow)
        .where(
            InstanceRow.sop_instance_uid.in_(marking),
            InstanceRow.study_uid != uid,
            InstanceRow.own.is_(False),
        )
        .order_by(InstanceRow.sop_instance_uid)
    )
    return [
        ForeignDocument(stored(row), StudyUid(row.study_uid), row.received_at)
        for row in rows
    ]


def stored(row: InstanceRow) -> StoredInstance:
    """Return an instance as the readers get it; `path` is relative to the spool."""
    return StoredInstance(
        sop_instance_uid=SopInstanceUid(row.sop_instance_uid),
        series_uid=row.series_uid,
        sop_class_uid=row.sop_class_uid,
        path=Path(row.path),
        sha256=row.sha256,
    )


def verdict(session: Session, uid: StudyUid) -> Verdict | None:
    """Say how a study ends that only annotates others; None when it is not one."""
    rows = _annotations(session, uid)
    if not rows or _holds_an_image(session, uid):
        return None
    strange = sorted({str(row.study_uid) for row in rows if row.patient_differs})
    if strange:
        return (
            StudyState.HELD,
            Reason.PATIENT_MISMATCH,
            (
                "It holds no image; its documents mark images of study "
                f"{', '.join(strange)}, which is of another patient, and are not "
                "used. Correct the patient at the workstation and send them again."
            ),
        )
    if any(row.study_uid for row in rows):
        return (
            StudyState.IGNORED,
            Reason.ANNOTATES_OTHER_STUDY,
            f"It holds no image. {elsewhere(session, uid)}",
        )
    return (
        StudyState.HELD,
        Reason.ROI_IMAGE_MISSING,
        (
            f"It holds no image; its documents refer to {len(rows)} image(s) that are "
            f"not here, such as {rows[0].image_uid}. They are read with the study of "
            "these images as soon as it comes: send it, or mark the images that were "
            "sent."
        ),
    )


def elsewhere(session: Session, uid: StudyUid) -> str:
    """Return a sentence that names the studies that a study annotates, or nothing."""
    rows = _annotations(session, uid)
    known = {row.study_uid for row in rows if not row.patient_differs} - {None, uid}
    if not known:
        return ""
    missing = sum(row.study_uid is None for row in rows)
    named = ", ".join(sorted(map(str, known)))
    text = f"Its documents mark images of study {named} and are read with it."
    return f"{text} {missing} more image(s) are not here." if missing else text


def _annotations(session: Session, uid: StudyUid) -> Sequence[AnnotationRow]:
    return session.scalars(
        select(AnnotationRow)
        .join(InstanceRow, InstanceRow.sop_instance_uid == AnnotationRow.document_uid)
        .where(InstanceRow.study_uid == uid)
        .order_by(AnnotationRow.document_uid, AnnotationRow.image_uid)
    ).all()


def _holds_an_image(session: Session, uid: StudyUid) -> bool:
    found = session.scalar(
        select(InstanceRow.sop_instance_uid)
        .where(
            InstanceRow.study_uid == uid,
            InstanceRow.own.is_(False),
            InstanceRow.sop_class_uid.in_(IMAGES),
        )
        .limit(1)
    )
    return found is not None
