"""How long the images of a study stay, and what stays when they go.

Before the images of a study are purged, the slice of each newest result is secured:
stage II and corrections may come weeks later. A sweep does the same by age, when the
site has set one, and finishes what a dead process began.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from dicom_node import db, kept, ledger, purge
from dicom_node.db import Sessions
from dicom_node.errors import NodeError, StateError, UnreadableObjectError
from dicom_node.findings import Laterality, Selection
from dicom_node.purge import Extent
from dicom_node.spool import Spool
from dicom_node.study import StudyUid
from worker import keeping, outcomes
from worker.case import PriorResult
from worker.keeping import KeptRecord
from worker.outcomes import CaseRecord, ResultRecord

log = logging.getLogger(__name__)

BATCH: Final = 100
"""Studies that one sweep purges at most."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where studies are known and where their files lie.

    `witness` is told of each purge inside its transaction, as the last thing.
    """

    sessions: Sessions
    spool: Spool
    witness: Callable[[Session, StudyUid], None] = lambda _session, _uid: None


def purge_study(
    store: Store,
    uid: StudyUid,
    at: datetime,
    *,
    before: datetime | None = None,
    with_kept: bool = False,
) -> Extent:
    """Purge the images of one study; safe to repeat, also after a kill.

    Args:
        store: Database and spool.
        uid: The study.
        at: The time of this call.
        before: Purge only when nothing of the study came since then.
        with_kept: Give up what is kept of its results too: no replay then, and no
            stage II.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It may not be purged now; the message says why.
        UnreadableObjectError: An analysed slice is missing; nothing was purged.
        SpoolFullError: The volume fails.
    """
    with store.sessions.begin() as session:
        if not with_kept:
            purge.extent(session, uid, before)  # refused before anything is written
            _secure(session, store.spool, uid)
    with store.sessions.begin() as session:
        found = purge.begin(session, uid, at, before)
        released = keeping.release(session, uid, at, newest=with_kept)
        if with_kept and released:
            detail = f"what was kept of {len(released)} result(s) is given up"
            ledger.note(session, uid, "released", detail, at)
        store.witness(session, uid)
    with store.sessions.begin() as session:
        purge.finish(session, uid, store.spool, at)
        keeping.drop(session, store.spool, released)
    log.info("images purged", extra={"study_uid": uid, "files": found.files})
    return found


def _secure(session: Session, spool: Spool, uid: StudyUid) -> None:
    """Make sure that the slice of each newest result outlives the images."""
    records = keeping.of_study(session, uid)
    for case in outcomes.cases(session, uid):
        newest = case.newest
        instance = ledger.instance(session, newest.source_sop_instance_uid)
        if instance is None:
            continue  # purged before: what was kept then is all there is
        record = records.get(newest.result_id)
        if record is not None and record.slice_sha256 != instance.sha256:
            continue  # another object under its UID since; the kept one counts
        kept.keep_slice(spool, instance.sha256, instance.path)
        if record is None:
            digests = (None, instance.sha256)
            keeping.record(session, newest.result_id, uid, digests)
        elif record.released_at is not None:
            keeping.retain(session, newest.result_id)


def sweep(store: Store, retention: timedelta | None, at: datetime) -> int:
    """Finish what was begun, purge what is old enough, drop what nobody keeps.

    Args:
        store: Database and spool.
        retention: Age from which images go; None: they stay.
        at: The time of this call.

    Returns:
        How many studies were purged now.
    """
    reads = db.reading_of(store.sessions)  # what is long must not hold up a writer
    with reads() as session:
        begun = purge.unfinished(session)
        before = at - retention if retention is not None else None
        old = purge.due(session, before, BATCH) if before is not None else []
    for uid in begun:
        with store.sessions.begin() as session:
            purge.finish(session, uid, store.spool, at)
    purged = sum(_purge_old(store, uid, at, before) for uid in old)
    with reads() as session:
        keeping.reconcile(session, store.spool, at)
    return purged


def _purge_old(
    store: Store, uid: StudyUid, at: datetime, before: datetime | None
) -> bool:
    try:
        with suppress(StateError):  # something came meanwhile
            purge_study(store, uid, at, before=before)
            return True
    except NodeError as error:
        extra = {"study_uid": uid, "why": str(error)}
        log.error("images not purged", extra=extra)  # noqa: TRY400 - the text says all
    return False


def with_kept_slices(
    store: Store, cases: Sequence[CaseRecord], priors: Mapping[Laterality, PriorResult]
) -> dict[Laterality, PriorResult]:
    """Return earlier results with what was chosen then, on the slices that are kept."""
    newest = {case.laterality: case.newest for case in cases}
    with store.sessions() as session:
        records = {
            side: keeping.of(session, one.result_id) for side, one in newest.items()
        }
    return {
        side: replace(prior, kept=_selection(store.spool, newest[side], records[side]))
        for side, prior in priors.items()
    }


def _selection(
    spool: Spool, result: ResultRecord, record: KeptRecord | None
) -> Selection | None:
    """Return what a result was computed on; None when its slice is gone or damaged."""
    if record is None or record.released_at is not None:
        return None
    try:
        path = kept.check_slice(spool, record.slice_sha256)
    except UnreadableObjectError as error:
        extra = {"result_id": result.result_id, "why": str(error)}
        log.error("a kept slice cannot be used", extra=extra)  # noqa: TRY400 - the text says all
        return None
    return Selection(
        roi=result.roi,
        sop_instance_uid=result.source_sop_instance_uid,
        frame=result.source_frame,
        path=path,
        phase=result.phase,
        laterality=result.laterality,
        laterality_derived=result.laterality_derived,
        area_mm2=result.area_mm2,
        candidates=result.candidates,
        why=result.why,
    )
