"""What the status page shows: the last day, without anything that names a patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.tables import DeliveryRow, StudyRow
from worker.metrics.counts import RECENT, Names
from worker.tables import CaseRow, ResultRow

SHOWN: Final = 100
"""Studies on the page at most; the command line lists the others."""

SAMPLED: Final = 5000
UID_TAIL: Final = 12


@dataclass(frozen=True, slots=True)
class StudyLine:
    """One study; `label` is the end of its UID, which finds it among those of a day."""

    label: str
    state: str
    reason: str
    caller: str
    instances: int
    last_received_at: datetime
    pathways: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Median, 95th percentile and number of some seconds."""

    name: str
    median: float
    p95: float
    n: int


@dataclass(frozen=True, slots=True)
class Day:
    """The last 24 hours: the newest studies, how many there are, how long all took."""

    studies: tuple[StudyLine, ...]
    waits: tuple[Wait, ...]


def look(session: Session, names: Names, at: datetime) -> Day:
    """Read the last day; bounded however much came."""
    return Day(_studies(session, names, at - RECENT), _waits(session, at - RECENT))


def _studies(session: Session, names: Names, since: datetime) -> tuple[StudyLine, ...]:
    rows = session.scalars(
        select(StudyRow)
        .where(StudyRow.last_received_at >= since)
        .order_by(StudyRow.last_received_at.desc())
        .limit(SHOWN)
    ).all()
    pathways: dict[str, list[str]] = {row.study_uid: [] for row in rows}
    cases = select(CaseRow.study_uid, CaseRow.laterality, CaseRow.pathway)
    found = session.execute(cases.where(CaseRow.study_uid.in_(pathways)))
    for uid, side, pathway in found:
        pathways[uid].append(f"{side}: {pathway}")
    return tuple(
        StudyLine(
            label=row.study_uid[-UID_TAIL:],
            state=str(row.state),
            reason=str(row.reason or ""),
            caller=names.caller(row.calling_ae),
            instances=row.instances,
            last_received_at=row.last_received_at,
            pathways=tuple(sorted(pathways[row.study_uid])),
        )
        for row in rows
    )


def _waits(session: Session, since: datetime) -> tuple[Wait, ...]:
    results = session.execute(
        select(
            ResultRow.created_at,
            ResultRow.version,
            ResultRow.total_ms,
            ResultRow.report_ms,
            StudyRow.queued_at,
        )
        .join(StudyRow, StudyRow.study_uid == ResultRow.study_uid)
        .where(ResultRow.created_at >= since)
        .order_by(ResultRow.created_at.desc())
        .limit(SAMPLED)
    ).all()
    sent = session.execute(
        select(DeliveryRow.created_at, DeliveryRow.sent_at)
        .where(DeliveryRow.sent_at >= since)
        .order_by(DeliveryRow.sent_at.desc())
        .limit(SAMPLED)
    ).all()
    first = [row for row in results if row.version == 1 and row.queued_at]
    waits = (
        _wait("study complete to result", _spans(first)),
        _wait("analysis of one case", [row.total_ms / 1000 for row in results]),
        _wait(
            "document to its arrival",
            [max((to - made).total_seconds(), 0.0) for made, to in sent if to],
        ),
    )
    return tuple(one for one in waits if one is not None)


def _spans(rows: Sequence[object]) -> list[float]:
    spans: list[timedelta] = [
        row.created_at + timedelta(milliseconds=row.report_ms) - row.queued_at  # type: ignore[attr-defined]  # rows of `_waits`
        for row in rows
    ]
    return [span.total_seconds() for span in spans if span >= timedelta(0)]


def _wait(name: str, seconds: Sequence[float]) -> Wait | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    last = len(ordered) - 1
    median, p95 = (ordered[min(int(q * len(ordered)), last)] for q in (0.5, 0.95))
    return Wait(name, median, p95, len(ordered))
