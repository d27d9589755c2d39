"""Repairs of what a reconciliation found: each in a transaction, with its entry.

Every fault is looked at again before it is mended, because the system is alive. What
cannot be mended now, because a person or a worker has the study, stays and is found
again.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node import audit, kept, ledger, losses, outbox, replay
from dicom_node.audit import Action, Event, Trail
from dicom_node.completion import QuietPeriods
from dicom_node.db import Clock, Sessions
from dicom_node.errors import StateError, UnreadableObjectError
from dicom_node.intake import Intake
from dicom_node.ledger import StudyRecord
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import DeliveryRow, DeliveryState, DocumentRow, InstanceRow
from worker import keeping, outcomes, survey
from worker.reconciliation import Code, Finding
from worker.survey import Ground
from worker.tables import KeptRow, ResultRow

log = logging.getLogger(__name__)

NOBODY: Final = "reconcile"
"""No listener has this name: associations of those that live stay open."""

UNREADABLE: Final = "unreadable"
DAMAGED: Final = "damaged"
BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a repair needs, and who asked for it."""

    sessions: Sessions
    ground: Ground
    intake: Intake
    quiet: QuietPeriods
    trail: Trail
    by: str
    clock: Clock

    def sign(self, session: Session, findings: Iterable[Finding]) -> None:
        """Enter repairs in the audit trail; the last thing in their transaction."""
        audit.record(
            session,
            self.trail,
            *(
                Event(
                    audit.Code.ACCESSED,
                    Action.UPDATE,
                    "reconcile",
                    self.by,
                    study=one.study_uid,
                    object_id=one.subject,
                    detail=one.code,
                )
                for one in findings
            ),
        )


Repair = Callable[[Workshop, Sequence[Finding]], Iterator[Finding]]


def mend(shop: Workshop, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Mend what was found, and yield each finding that is no more."""
    by_code: dict[Code, list[Finding]] = defaultdict(list)
    for one in findings:
        by_code[one.code].append(one)
    for code, repair in REPAIRS.items():
        if by_code[code]:
            yield from repair(shop, by_code[code])


def _associations(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        for one in found:
            ledger.close_association(session, one.subject, shop.clock())
        shop.sign(session, found)
    yield from found


def _rows(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    """Rebuild rows from files; set aside what cannot be read, for a person."""
    spool = shop.ground.spool
    replay.recover(shop.intake, shop.sessions, shop.quiet, NOBODY, shop.clock)
    with shop.sessions.begin() as session:
        left = {one.subject for one in survey.rowless(session, shop.ground)}
        shop.sign(session, found)
    for one in found:
        if one.subject in left:
            spool.set_aside(Path(one.subject), UNREADABLE)
        yield one


def _files(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    """Enter lost instances, study by study; a damaged file is set aside first."""
    by_study: dict[str, list[Finding]] = defaultdict(list)
    for one in found:
        by_study[str(one.study_uid)].append(one)
    for uid, faults in by_study.items():
        with shop.sessions.begin() as session:
            ledger.lock(session, StudyUid(uid))
            still = [one for one in faults if _is_faulty(session, shop.ground, one)]
            for one in still:
                shop.ground.spool.set_aside(Path(str(one.path)), DAMAGED)
            if still:
                lost = {one.subject for one in still}
                losses.lose(session, StudyUid(uid), lost, shop.clock())
            shop.sign(session, still)
        yield from faults


def _is_faulty(session: Session, ground: Ground, one: Finding) -> bool:
    row = session.get(InstanceRow, one.subject, populate_existing=True)
    if row is None or row.purged_at is not None:
        return False
    return survey.file_fault(ground, Path(row.path), row.size, row.sha256) is not None


def _documents(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    """Have lost documents written anew, and do not send what is not there."""
    for one in found:
        with suppress(StateError), shop.sessions.begin() as session:
            uid = StudyUid(str(one.study_uid))
            row = session.get(DocumentRow, one.subject)
            if row is None or survey.document_fault(shop.ground, row) is None:
                yield one
                continue
            newest = {case.newest.result_id for case in outcomes.cases(session, uid)}
            if row.result_id in newest:
                _rewrite(session, shop, uid)
            _end_deliveries(session, shop, one.subject)
            shop.ground.spool.set_aside(Path(row.path), DAMAGED)
            shop.sign(session, [one])
            yield one


def _end_deliveries(session: Session, shop: Workshop, sop_instance_uid: str) -> None:
    waiting = session.scalars(
        select(DeliveryRow.delivery_id).where(
            DeliveryRow.sop_instance_uid == sop_instance_uid,
            DeliveryRow.state == DeliveryState.DUE,
        )
    )
    for delivery_id in waiting.all():
        outbox.cancel(session, delivery_id, shop.clock(), shop.by)


def _rewrite(session: Session, shop: Workshop, uid: StudyUid) -> None:
    """Have the reports of a study written anew; its numbers stand.

    Raises:
        StudyStateError: A person stopped it, or it moves on now.
    """
    study: StudyRecord = ledger.lock(session, uid)
    if study.reason is Reason.BY_HAND:
        raise StateError(f"study {uid} is {study.state} by hand")
    if study.state is not StudyState.QUEUED:
        why = f"a document was lost; written anew for {shop.by}"
        ledger.requeue(session, uid, shop.clock(), why)
    outcomes.mark_rewrite(session, uid)


def _reports(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    for one in found:
        with suppress(StateError), shop.sessions.begin() as session:
            _rewrite(session, shop, StudyUid(str(one.study_uid)))
            shop.sign(session, [one])
            yield one


def _document_orphans(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        paths = [one.subject for one in found]
        known = set(
            session.scalars(select(DocumentRow.path).where(DocumentRow.path.in_(paths)))
        )
        gone = [one for one in found if one.subject not in known]
        shop.ground.spool.remove([Path(one.subject) for one in gone])
        shop.sign(session, gone)
    yield from found


def _kept_orphans(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        keeping.reconcile(session, shop.ground.spool, shop.ground.at)
        shop.sign(session, found)
    yield from found


def _kept(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    """Keep a slice again where its image is there; give up what is gone for good."""
    for one in found:
        with shop.sessions.begin() as session:
            record = keeping.of(session, one.subject)
            faults = list(survey.kept_faults(shop.ground, record)) if record else []
            for path, _ in faults:
                _keep_again(session, shop, one, path)
            shop.sign(session, [one])
        yield one


def _keep_again(session: Session, shop: Workshop, one: Finding, path: Path) -> None:
    spool = shop.ground.spool
    spool.set_aside(path, DAMAGED)
    uid = StudyUid(str(one.study_uid))
    lost: dict[str, object] = {"released_at": shop.clock()}
    if path.suffix == kept.CROP_SUFFIX:
        lost = {"crop_sha256": None}
    else:
        source = session.get(ResultRow, one.subject)
        image = source and session.get(InstanceRow, source.source_sop_instance_uid)
        with suppress(UnreadableObjectError):
            if image and image.purged_at is None and image.sha256 == path.stem:
                kept.keep_slice(spool, path.stem, Path(image.path))
                return
    session.execute(
        update(KeptRow).where(KeptRow.result_id == one.subject).values(**lost)
    )
    what = "crop" if path.suffix == kept.CROP_SUFFIX else "slice"
    detail = f"the {what} of result {one.subject} was lost: it cannot be replayed"
    ledger.note(session, uid, "lost", detail, shop.clock())


def _deliveries(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        for one in found:
            to = str(one.destination)
            outbox.supplement(session, one.subject, to, shop.by, shop.clock())
        shop.sign(session, found)
    yield from found


def _lost_at_archive(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        for one in found:
            outbox.send_lost(session, one.subject, shop.by, shop.clock())
        shop.sign(session, found)
    yield from found


def _leases(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        ledger.expire_leases(session, shop.clock(), shop.ground.settings.max_attempts)
        shop.sign(session, found)
    yield from found


def _queued(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        for one in found:
            losses.announce_again(session, StudyUid(one.subject), shop.clock())
        shop.sign(session, found)
    yield from found


def _receiving(shop: Workshop, found: Sequence[Finding]) -> Iterator[Finding]:
    with shop.sessions.begin() as session:
        ledger.complete_due(session, shop.clock(), BATCH)
        session.flush()
        moved = [
            one
            for one in found
            if ledger.study(session, StudyUid(one.subject)).state
            is not StudyState.RECEIVING
        ]
        shop.sign(session, moved)
    yield from moved


REPAIRS: Final[dict[Code, Repair]] = {
    Code.ASSOCIATION_STALE: _associations,
    Code.ROW_MISSING: _rows,
    Code.FILE_MISSING: _files,
    Code.FILE_DIFFERS: _files,
    Code.KEPT_MISSING: _kept,
    Code.KEPT_ORPHAN: _kept_orphans,
    Code.DOCUMENT_ORPHAN: _document_orphans,
    Code.DOCUMENT_MISSING: _documents,
    Code.DOCUMENT_DIFFERS: _documents,
    Code.REPORT_MISSING: _reports,
    Code.DELIVERY_MISSING: _deliveries,
    Code.LEASE_EXPIRED: _leases,
    Code.QUEUED_LONG: _queued,
    Code.RECEIVING_LONG: _receiving,
    Code.LOST_AT_ARCHIVE: _lost_at_archive,
}
"""In this order: what a later repair needs is mended before it."""
