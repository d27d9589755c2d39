"""Results as a flat table, one row each, for statistics outside of Sentinode."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker import outcomes
from worker.outcomes import ResultRecord
from worker.tables import CaseRow, ResultRow

Cell = str | float | int | bool | datetime | None

BATCH: Final = 500

RESULT_COLUMNS: Final[dict[str, type]] = {
    "result_id": str,
    "study_uid": str,
    "case_id": str,
    "laterality": str,
    "laterality_derived": bool,
    "version": int,
    "newest": bool,
    "created_at": datetime,
    "pathway": str,
    "discordant": bool,
    "phase": str,
    "area_mm2": float,
    "roi_carrier": str,
    "roi_x0": float,
    "roi_y0": float,
    "roi_x1": float,
    "roi_y1": float,
    "source_sop_instance_uid": str,
    "source_frame": int,
    "slnd": str,
    "slnd_deposit": str,
    "slnd_performed_on": str,
    "total_ms": float,
}
STAGE_COLUMNS: Final[dict[str, type]] = {
    "status": str,
    "probability": float,
    "threshold": float,
    "threshold_source": str,
    "risk": str,
    "model": str,
    "weights_sha256": str,
}
COLUMNS: Final[dict[str, type]] = {
    **RESULT_COLUMNS,
    **{
        f"{stage}_{name}": kind
        for stage in ("sln", "nsln")
        for name, kind in STAGE_COLUMNS.items()
    },
    "research_use_only": bool,
}
"""Columns and their types. No label stands without its probability, threshold and
model, and every row says what it is for."""


@dataclass(frozen=True, slots=True)
class Extract:
    """Which results: of a span of time, and every version or only the newest."""

    since: datetime | None = None
    until: datetime | None = None
    all_versions: bool = False


def rows(session: Session, extract: Extract) -> Iterator[dict[str, Cell]]:
    """Yield results, the oldest first; a few hundred are in memory at once."""
    query = select(ResultRow.result_id, CaseRow.result_id).join(
        CaseRow, CaseRow.case_id == ResultRow.case_id
    )
    if extract.since is not None:
        query = query.where(ResultRow.created_at >= extract.since)
    if extract.until is not None:
        query = query.where(ResultRow.created_at < extract.until)
    if not extract.all_versions:
        query = query.where(ResultRow.result_id == CaseRow.result_id)
    found = session.execute(query.order_by(ResultRow.created_at))
    chosen = [(result_id, newest) for result_id, newest in found]
    for start in range(0, len(chosen), BATCH):
        part = dict(chosen[start : start + BATCH])
        for record in outcomes.of_ids(session, list(part)):
            yield _row(record, newest=part[record.result_id] == record.result_id)


def _row(record: ResultRecord, *, newest: bool) -> dict[str, Cell]:
    slnd = record.slnd
    roi = record.roi
    row: dict[str, Cell] = {
        "newest": newest,
        "roi_carrier": roi.carrier,
        "roi_x0": roi.x0,
        "roi_y0": roi.y0,
        "roi_x1": roi.x1,
        "roi_y1": roi.y1,
        "slnd": slnd.result if slnd else None,
        "slnd_deposit": slnd.deposit if slnd else None,
        "slnd_performed_on": (
            slnd.performed_on.isoformat() if slnd and slnd.performed_on else None
        ),
        "total_ms": record.timings.total_ms,
        "research_use_only": True,
    }
    row |= {name: getattr(record, name) for name in RESULT_COLUMNS if name not in row}
    for stage in record.stages:
        prefix = stage.stage.lower()
        row |= {f"{prefix}_{name}": getattr(stage, name) for name in STAGE_COLUMNS}
    return {name: row[name] for name in COLUMNS}
