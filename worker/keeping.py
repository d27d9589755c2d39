"""The only reader and writer of what is kept of each result.

Each result keeps its crop and its slice. A purge of the images releases those of
superseded results; the newest result of a case keeps its own for as long as it is the
newest, whatever the pathway says: a dissection result may be corrected or withdrawn
at any time, and a result must be replayable. A person may release them too.

Callers own the transaction. Files are shared by results that saw the same pixels.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from dicom_node import kept
from dicom_node.spool import DOCUMENTS, FILE_SUFFIX, Spool
from dicom_node.tables import DocumentRow
from worker.case import KeptInput
from worker.tables import CaseRow, KeptRow

log = logging.getLogger(__name__)

ORPHAN_AGE: Final = timedelta(hours=1)
"""A file that is older and that no row names was left by a lost analysis."""


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """What is kept of one result; nothing any more since `released_at`."""

    result_id: str
    study_uid: str
    crop_sha256: str | None
    slice_sha256: str
    released_at: datetime | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, relative to the spool."""
        crop = () if self.crop_sha256 is None else (kept.crop_path(self.crop_sha256),)
        return (*crop, kept.slice_path(self.slice_sha256))


def write(spool: Spool, inputs: KeptInput) -> None:
    """Make crop and slice of a result durable, ahead of its row. Idempotent.

    Raises:
        UnreadableObjectError: The slice is missing.
        SpoolFullError: The volume cannot take it.
    """
    kept.keep_crop(spool, inputs.crop_sha256, inputs.crop)
    relative = inputs.slice_path.relative_to(spool.root)
    kept.keep_slice(spool, inputs.slice_sha256, relative)


def record(
    session: Session, result_id: str, study_uid: str, digests: tuple[str | None, str]
) -> None:
    """Enter what is kept of a result: the digests of crop and slice."""
    crop_sha256, slice_sha256 = digests
    session.add(
        KeptRow(
            result_id=result_id,
            study_uid=study_uid,
            crop_sha256=crop_sha256,
            slice_sha256=slice_sha256,
            released_at=None,
        )
    )


def retain(session: Session, result_id: str) -> None:
    """Take back that a result was released: its slice is kept again."""
    session.execute(
        update(KeptRow).where(KeptRow.result_id == result_id).values(released_at=None)
    )


def of(session: Session, result_id: str) -> KeptRecord | None:
    """Return what is kept of a result; None for one from before things were kept."""
    row = session.get(KeptRow, result_id)
    return None if row is None else _record(row)


def of_study(session: Session, study_uid: str) -> dict[str, KeptRecord]:
    """Return what is kept of a study, by result."""
    rows = session.scalars(select(KeptRow).where(KeptRow.study_uid == study_uid))
    return {row.result_id: _record(row) for row in rows}


def release(
    session: Session, study_uid: str, at: datetime, *, newest: bool = False
) -> list[KeptRecord]:
    """Give up what is kept of superseded results; with `newest`, of all.

    Returns:
        What was given up now; `drop` removes the files after the commit.
    """
    statement = (
        update(KeptRow)
        .where(KeptRow.study_uid == study_uid, KeptRow.released_at.is_(None))
        .values(released_at=at)
        .returning(KeptRow.result_id)
    )
    if not newest:
        current = select(CaseRow.result_id).where(CaseRow.study_uid == study_uid)
        statement = statement.where(KeptRow.result_id.not_in(current))
    released = list(session.scalars(statement))
    found = of_study(session, study_uid)
    return [found[result_id] for result_id in released]


def drop(session: Session, spool: Spool, records: Sequence[KeptRecord]) -> int:
    """Remove the files of released results that no other result keeps."""
    paths = {path for one in records for path in one.paths}
    digests = [path.stem for path in paths]
    named = or_(KeptRow.crop_sha256.in_(digests), KeptRow.slice_sha256.in_(digests))
    return spool.remove(_unwanted(session, paths, named))


def reconcile(session: Session, spool: Spool, at: datetime) -> int:
    """Remove files that no result keeps or names; return how many there were.

    Files of the last hour may belong to an analysis under way. Every row is compared,
    so call it with a session that only reads: no writer waits for this.
    """
    removed = spool.remove(orphans(session, spool, at))
    removed += spool.remove(loose_documents(session, spool, at))
    if removed:
        log.warning("files removed that no result names", extra={"files": removed})
    return removed


def orphans(session: Session, spool: Spool, at: datetime) -> list[Path]:
    """Return the files that no result keeps, but those of an analysis under way."""
    old = [path for path, since in kept.files(spool) if since <= at - ORPHAN_AGE]
    return _unwanted(session, old)


def loose_documents(session: Session, spool: Spool, at: datetime) -> list[Path]:
    """Return frozen documents that no row names: their analysis died before its commit.

    None of them is ever named later: a document says when it was made, so the next
    analysis of the study froze other bytes.
    """
    known = set(session.scalars(select(DocumentRow.path)))
    found = (path for path, _ in spool.files(DOCUMENTS, FILE_SUFFIX))
    loose = [path for path in found if path.as_posix() not in known]
    written = ((path, spool.written_at(path)) for path in loose)
    return [path for path, since in written if since and since <= at - ORPHAN_AGE]


def current(session: Session) -> list[KeptRecord]:
    """Return all that is to be there."""
    rows = session.scalars(select(KeptRow).where(KeptRow.released_at.is_(None)))
    return [_record(row) for row in rows]


def missing(session: Session, spool: Spool) -> list[KeptRecord]:
    """Return what should be kept and is not there."""
    return [
        one
        for one in current(session)
        if not all(kept.has(spool, path) for path in one.paths)
    ]


def _unwanted(
    session: Session, paths: Iterable[Path], *conditions: ColumnElement[bool]
) -> list[Path]:
    """Return the paths that no row names which is not released.

    The conditions leave out rows that name none of the paths.
    """
    rows = session.execute(
        select(KeptRow.crop_sha256, KeptRow.slice_sha256).where(
            KeptRow.released_at.is_(None), *conditions
        )
    ).all()
    wanted = {kept.slice_name(slice_sha256) for _, slice_sha256 in rows}
    wanted |= {kept.crop_name(crop) for crop, _ in rows if crop is not None}
    return [path for path in paths if path.name not in wanted]


def _record(row: KeptRow) -> KeptRecord:
    return KeptRecord(
        result_id=row.result_id,
        study_uid=row.study_uid,
        crop_sha256=row.crop_sha256,
        slice_sha256=row.slice_sha256,
        released_at=row.released_at,
    )
