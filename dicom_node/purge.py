"""Removing the images of studies: what may go, when, and what if it comes again.

In two steps, so that a dead process leaves nothing half-said: `begin` enters in one
transaction that the images are gone, from when on no analysis looks for them;
`finish` removes the files. The rows stay. Documents that people drew or wrote stay
too: they are small, and they say what was marked. An image that comes again is stored
and entered again (`arrivals.record`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.orm import Session

from dicom_node.arrivals import add_event, contradiction
from dicom_node.completion import LACKS_AN_OBJECT
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.spool import QUARANTINE, Spool
from dicom_node.study import Reason, SopInstanceUid, StudyState, StudyUid
from dicom_node.tables import (
    AssociationRow,
    AssociationStudyRow,
    ConflictRow,
    InstanceRow,
    StudyRow,
)

PURGEABLE: Final = frozenset(
    {StudyState.ANALYZED, StudyState.FAILED, StudyState.HELD, StudyState.IGNORED}
)
"""States in which nobody works on a study or is about to."""

BY_AGE: Final = LACKS_AN_OBJECT | {Reason.IMAGES_PURGED}
"""Why a held study may be that age alone purges: the archive must send to it anyway.

Any other held study waits for a person, who has to see its images.
"""

DOCUMENTS: Final = (
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66.",  # segmentations, registrations
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT structure sets
)
"""How the SOP classes begin that are no images: they are never purged."""

FORGOTTEN_AFTER: Final = timedelta(days=7)
"""An association that is open for so long was left behind by a lost listener."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How many image files of a study there are, and how large they are together."""

    study_uid: StudyUid
    state: StudyState
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Purged:
    """What a study has lost: since when, and the digests of the images.

    `late` names the objects that came after that and are there.
    """

    at: datetime
    digests: Mapping[SopInstanceUid, str]
    late: frozenset[SopInstanceUid]


def due(session: Session, before: datetime, limit: int) -> list[StudyUid]:
    """Return studies with images of which nothing came since a time, oldest first.

    Those that contradict themselves or are held for a person are left out: somebody
    must look first.
    """
    found = session.scalars(
        select(StudyRow.study_uid)
        .where(
            StudyRow.state.in_(PURGEABLE),
            or_(StudyRow.state != StudyState.HELD, StudyRow.reason.in_(BY_AGE)),
            StudyRow.last_received_at <= before,
            select(InstanceRow.sop_instance_uid)
            .where(InstanceRow.study_uid == StudyRow.study_uid, *_is_image_here())
            .exists(),
        )
        .order_by(StudyRow.last_received_at)
    ).all()
    in_order = (uid for uid in map(StudyUid, found) if not contradiction(session, uid))
    return list(islice(in_order, limit))


def extent(session: Session, uid: StudyUid, before: datetime | None = None) -> Extent:
    """Say what purging a study would remove; changes nothing.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It may not be purged now; the message says why.
    """
    return _extent(session, _may_go(session, uid, before))


def begin(
    session: Session, uid: StudyUid, at: datetime, before: datetime | None = None
) -> Extent:
    """Enter that the images of a study are gone; call `finish` after the commit.

    Args:
        session: A writing session.
        uid: The study.
        at: The time of this call.
        before: Purge only when nothing of the study came since then, and no person
            has to look at it.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It may not be purged now; the message says why.
    """
    study = _may_go(session, uid, before)
    found = _extent(session, study)
    study.purge_begun_at = at
    session.execute(
        update(InstanceRow)
        .where(InstanceRow.study_uid == uid, *_is_image_here())
        .values(purged_at=at)
    )
    if found.files:
        detail = f"{found.files} image file(s), {found.bytes} bytes; rows are kept"
        add_event(session, uid, "purged", detail, at)
    return found


def finish(session: Session, uid: StudyUid, spool: Spool, at: datetime) -> bool:
    """Remove the files of purged images; the study's row is locked meanwhile.

    A file that came again is left, and all are while an association is open that
    carries the study: `finish` is then called again later.

    Returns:
        False when something is left to do.

    Raises:
        SpoolFullError: The volume fails; what was removed stays so.
    """
    study = _locked(session, uid)
    if is_arriving(session, uid, at):
        return False
    gone = session.execute(
        select(InstanceRow.path, InstanceRow.purged_at).where(
            InstanceRow.study_uid == uid, InstanceRow.purged_at.is_not(None)
        )
    )
    spool.remove([Path(path) for path, since in gone if _is_old(spool, path, since)])
    spool.remove(
        Path(path)
        for path in session.scalars(
            select(ConflictRow.path).where(
                ConflictRow.study_uid == uid, ConflictRow.resolved_at.is_not(None)
            )
        )
        if Path(path).parts[0] == str(QUARANTINE)
    )
    study.purge_begun_at = None
    return True


def unfinished(session: Session) -> list[StudyUid]:
    """Return the studies whose purge was begun and not finished."""
    found = session.scalars(
        select(StudyRow.study_uid).where(StudyRow.purge_begun_at.is_not(None))
    )
    return [StudyUid(uid) for uid in found]


def purged(session: Session, uid: StudyUid) -> Purged | None:
    """Return what a study has lost, None when all that came is there."""
    rows = session.scalars(
        select(InstanceRow).where(
            InstanceRow.study_uid == uid,
            InstanceRow.purged_at.is_not(None),
            InstanceRow.own.is_(False),
        )
    ).all()
    times = [row.purged_at for row in rows if row.purged_at is not None]
    if not times:
        return None
    late = session.scalars(
        select(InstanceRow.sop_instance_uid).where(
            InstanceRow.study_uid == uid,
            InstanceRow.purged_at.is_(None),
            InstanceRow.received_at > max(times),
        )
    )
    return Purged(
        at=max(times),
        digests={SopInstanceUid(row.sop_instance_uid): row.sha256 for row in rows},
        late=frozenset(map(SopInstanceUid, late)),
    )


def purged_paths(session: Session) -> dict[str, datetime]:
    """Return the paths of all purged images, and since when they should be gone."""
    rows = session.execute(
        select(InstanceRow.path, InstanceRow.purged_at).where(
            InstanceRow.purged_at.is_not(None)
        )
    )
    return {path: at for path, at in rows if at is not None}


def _may_go(session: Session, uid: StudyUid, before: datetime | None) -> StudyRow:
    """Lock a study, and make sure that nobody needs its images now."""
    study = _locked(session, uid)
    if study.state not in PURGEABLE:
        raise StudyStateError(
            f"study {uid} is {study.state}; only what is analyzed, held, ignored or "
            "failed may be purged"
        )
    if before is not None and study.last_received_at > before:
        raise StudyStateError(
            f"study {uid} received its last object at {study.last_received_at:%F}, "
            "which is not long enough ago"
        )
    if before is not None and _awaits_a_person(study):
        raise StudyStateError(
            f"study {uid} is held ({study.reason}): a person has to look at its images "
            "first; name it without an age to purge it all the same"
        )
    found = contradiction(session, uid)
    if found is not None:
        raise StudyStateError(f"study {uid} may not be purged: {found[1]}")
    return study


def _awaits_a_person(study: StudyRow) -> bool:
    return study.state is StudyState.HELD and study.reason not in BY_AGE


def _locked(session: Session, uid: StudyUid) -> StudyRow:
    row = session.get(StudyRow, uid, with_for_update=True, populate_existing=True)
    if row is None:
        raise StudyNotFoundError(f"there is no study {uid}")
    return row


def is_arriving(session: Session, uid: StudyUid, at: datetime) -> bool:
    """Say whether an association may have found a file that we are about to remove."""
    carrying = exists().where(
        AssociationStudyRow.study_uid == uid,
        AssociationStudyRow.association_id == AssociationRow.association_id,
        AssociationRow.closed_at.is_(None),
        AssociationRow.opened_at > at - FORGOTTEN_AFTER,
    )
    return bool(session.scalar(select(carrying)))


def _extent(session: Session, study: StudyRow) -> Extent:
    sizes = session.scalars(
        select(InstanceRow.size).where(
            InstanceRow.study_uid == study.study_uid, *_is_image_here()
        )
    ).all()
    return Extent(StudyUid(study.study_uid), study.state, len(sizes), sum(sizes))


def _is_image_here() -> Sequence[ColumnElement[bool]]:
    document = or_(*(InstanceRow.sop_class_uid.startswith(root) for root in DOCUMENTS))
    return (InstanceRow.purged_at.is_(None), ~document)


def _is_old(spool: Spool, path: str, since: datetime | None) -> bool:
    written = spool.written_at(Path(path))
    return written is not None and since is not None and written <= since
