"""The look at files and database: each check yields findings and changes nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node import kept, ledger, pauses, purge
from dicom_node.completeness import needs_count
from dicom_node.errors import UnreadableObjectError
from dicom_node.spool import INSTANCES, QUARANTINE, Spool
from dicom_node.study import StudyState
from dicom_node.tables import (
    AssociationRow,
    AssociationStudyRow,
    DeliveryRow,
    DeliveryState,
    DocumentRow,
    InstanceRow,
    Pausable,
    StudyRow,
)
from worker import keeping
from worker.keeping import KeptRecord
from worker.reconciliation import Code, Finding, undelivered
from worker.settings import WorkerSettings
from worker.tables import CaseRow, ResultRow

GRACE: Final = timedelta(minutes=2)
"""A file that is younger may still get its row: rows are grouped."""

LONG: Final = timedelta(minutes=15)
"""What stands still for so long is stuck: sweeps come every second."""

BACKLOG: Final = timedelta(hours=2)
"""How long an announced study may stand in a queue that others are ahead of."""

SILENT: Final = timedelta(hours=1)
"""An association that stored nothing for so long has lost its listener."""

REPORT: Final = "SR"
BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Ground:
    """What is looked at, when, and whether the bytes of each file are read."""

    spool: Spool
    settings: WorkerSettings
    at: datetime
    digests: bool = False


Check = Callable[[Session, Ground], Iterator[Finding]]


def file_fault(ground: Ground, path: Path, size: int, sha256: str) -> str | None:
    """Say what is wrong with an instance's file, None when it is what its row says."""
    return _fault(
        ground, path, size, lambda: ground.spool.describe(path).sha256 == sha256
    )


def document_fault(ground: Ground, row: DocumentRow) -> str | None:
    """Say what is wrong with a document's file, None when it is what its row says."""

    def is_whole() -> bool:
        ground.spool.verify(path, row.sha256)
        return True

    path = Path(row.path)
    return _fault(ground, path, row.size, is_whole)


def _fault(
    ground: Ground, path: Path, size: int, is_whole: Callable[[], bool]
) -> str | None:
    try:
        found = ground.spool.absolute(path).stat().st_size
        if found != size:
            return f"its file has {found} bytes, recorded are {size}"
        whole = not ground.digests or is_whole()
    except FileNotFoundError:
        return "its file is missing"
    except UnreadableObjectError:
        whole = False
    return None if whole else "its file has another SHA-256 than recorded"


def instances(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for instances whose file is gone or is another."""
    rows = select(InstanceRow).where(InstanceRow.purged_at.is_(None))
    for row in session.scalars(rows.execution_options(yield_per=BATCH)):
        fault = file_fault(ground, Path(row.path), row.size, row.sha256)
        if fault is not None:
            gone = not ground.spool.absolute(Path(row.path)).exists()
            code = Code.FILE_MISSING if gone else Code.FILE_DIFFERS
            uid = row.sop_instance_uid
            yield Finding(code, uid, fault, row.study_uid, row.path)


def rowless(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for durable instances that the ledger does not know."""
    known = ledger.paths(session)
    gone = purge.purged_paths(session)
    for folder in (INSTANCES, QUARANTINE):
        for path in ground.spool.iter_files(folder):
            name = path.as_posix()
            since = ground.spool.written_at(path)
            if since is None or since > ground.at - GRACE:
                continue
            if name not in known or (name in gone and since > gone[name]):
                detail = "a durable file has no row"
                yield Finding(Code.ROW_MISSING, name, detail, path=name)


def documents(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for documents that are still needed and whose bytes are not there.

    Needed are those of the newest results, unless they are being written anew, and
    those that still have to go somewhere.
    """
    newest = set(session.scalars(select(CaseRow.result_id).where(~CaseRow.rewrite)))
    waiting = set(
        session.scalars(
            select(DeliveryRow.sop_instance_uid).where(
                DeliveryRow.state == DeliveryState.DUE
            )
        )
    )
    for row in session.scalars(select(DocumentRow).execution_options(yield_per=BATCH)):
        uid = row.sop_instance_uid
        if row.result_id not in newest and uid not in waiting:
            continue
        fault = document_fault(ground, row)
        if fault is not None:
            gone = not ground.spool.absolute(Path(row.path)).exists()
            code = Code.DOCUMENT_MISSING if gone else Code.DOCUMENT_DIFFERS
            yield Finding(code, uid, f"{row.kind}: {fault}", row.study_uid, row.path)


def document_orphans(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for document files that no row names."""
    for path in keeping.loose_documents(session, ground.spool, ground.at):
        name = path.as_posix()
        detail = "a document's file has no row"
        yield Finding(Code.DOCUMENT_ORPHAN, name, detail, path=name)


def kept_files(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for what must be kept and is not there, and what nobody keeps."""
    for one in keeping.current(session):
        faults = [f"{path} {why}" for path, why in kept_faults(ground, one)]
        if faults:
            detail = "; ".join(faults)
            yield Finding(Code.KEPT_MISSING, one.result_id, detail, one.study_uid)
    for path in keeping.orphans(session, ground.spool, ground.at):
        name = path.as_posix()
        yield Finding(Code.KEPT_ORPHAN, name, "no result keeps it", path=name)


def kept_faults(ground: Ground, one: KeptRecord) -> Iterator[tuple[Path, str]]:
    """Yield the kept files of a result that are missing or damaged."""
    for path in one.paths:
        if not kept.has(ground.spool, path):
            yield path, "is missing"
            continue
        try:
            if ground.digests and path.suffix == kept.CROP_SUFFIX:
                kept.read_crop(ground.spool, path.stem)
            elif ground.digests:
                kept.check_slice(ground.spool, path.stem)
        except UnreadableObjectError:
            yield path, "is damaged"


def reports(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for newest results without a report."""
    del ground
    has_report = exists().where(
        DocumentRow.result_id == CaseRow.result_id,
        DocumentRow.kind == REPORT,
        DocumentRow.variant_of.is_(None),
    )
    query = select(CaseRow.result_id, CaseRow.study_uid).where(
        ~has_report, ~CaseRow.rewrite, ~CaseRow.stale
    )
    for result_id, uid in session.execute(query):
        yield Finding(Code.REPORT_MISSING, result_id, "it has no report", uid)


def deliveries(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for documents of newest results that were never put on their way.

    A destination counts from its first delivery on: what came before one was
    configured is not sent there by itself. Where rules say what goes where, a result's
    documents must go where any of them goes.
    """
    of_newest = CaseRow.result_id
    written: dict[str, list[str]] = defaultdict(list)
    study_of: dict[str, str] = {}
    for row in session.scalars(
        select(DocumentRow)
        .join(CaseRow, of_newest == DocumentRow.result_id)
        .where(DocumentRow.variant_of.is_(None))
    ):
        written[row.result_id].append(row.sop_instance_uid)
        study_of[row.result_id] = row.study_uid
    sent: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for result_id, uid, destination in session.execute(
        select(
            DeliveryRow.result_id, DeliveryRow.sop_instance_uid, DeliveryRow.destination
        ).join(CaseRow, of_newest == DeliveryRow.result_id)
    ):
        sent[result_id].add((uid, destination))
    expected = _expected(session, ground)
    for result_id, uid, destination in undelivered(written, sent, expected):
        detail = f"document {uid} of the result was not put on its way to {destination}"
        study_uid = study_of[result_id]
        yield Finding(
            Code.DELIVERY_MISSING, uid, detail, study_uid, destination=destination
        )


def _expected(session: Session, ground: Ground) -> dict[str, set[str]]:
    if ground.settings.routing is not None:
        return {}
    configured = set(map(str, ground.settings.destinations))
    since: dict[str, datetime] = {
        destination: at
        for destination, at in session.execute(
            select(DeliveryRow.destination, func.min(DeliveryRow.created_at)).group_by(
                DeliveryRow.destination
            )
        )
        if destination in configured
    }
    rows = session.execute(
        select(ResultRow.result_id, ResultRow.created_at).join(
            CaseRow, CaseRow.result_id == ResultRow.result_id
        )
    )
    return {
        result_id: {name for name, first in since.items() if first <= at}
        for result_id, at in rows
    }


def associations(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for open associations that nobody stores over any more."""
    recent = exists().where(
        AssociationStudyRow.association_id == AssociationRow.association_id,
        InstanceRow.study_uid == AssociationStudyRow.study_uid,
        InstanceRow.received_at > ground.at - SILENT,
    )
    stale = select(AssociationRow).where(
        AssociationRow.closed_at.is_(None),
        AssociationRow.opened_at <= ground.at - SILENT,
        ~recent,
    )
    for row in session.scalars(stale):
        detail = f"open since {row.opened_at:%Y-%m-%d %H:%M} and silent"
        yield Finding(Code.ASSOCIATION_STALE, row.association_id, detail)


def stuck(session: Session, ground: Ground) -> Iterator[Finding]:
    """Look for studies that a sweep should have moved on."""
    at = ground.at
    analyzing = (
        StudyRow.state == StudyState.ANALYZING,
        StudyRow.lease_until <= at - GRACE,
    )
    receiving = (
        StudyRow.state == StudyState.RECEIVING,
        StudyRow.quiet_until <= at - LONG,
    )
    checks = [
        (Code.LEASE_EXPIRED, analyzing, "its worker is gone"),
        (Code.RECEIVING_LONG, receiving, "quiet for long and not complete"),
    ]
    if Pausable.ANALYSIS not in pauses.paused(session):
        counted = (~needs_count(),) if ground.settings.query is not None else ()
        queued = (
            StudyRow.state == StudyState.QUEUED,
            ~StudyRow.bulk,
            StudyRow.queued_at <= at - LONG,
            or_(StudyRow.announced_at.is_(None), StudyRow.announced_at <= at - BACKLOG),
            *counted,
        )
        checks.append((Code.QUEUED_LONG, queued, "queued for long, and no message"))
    for code, conditions, why in checks:
        for uid in session.scalars(select(StudyRow.study_uid).where(*conditions)):
            yield Finding(code, uid, f"{why}: does the dispatcher run?", uid)


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("files of instances", instances),
    ("files without rows", rowless),
    ("files of documents", documents),
    ("documents without rows", document_orphans),
    ("crops and slices", kept_files),
    ("reports of results", reports),
    ("deliveries of documents", deliveries),
    ("open associations", associations),
    ("studies that stand still", stuck),
)
