"""What an installation did in a span of days, in numbers; read-only, no identifiers."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.tables import DeliveryRow, StudyRow
from worker.tables import ResultRow, StageRow


@dataclass(frozen=True, slots=True)
class Day:
    """One day, UTC: studies by their first object, and results by their time."""

    day: date
    studies: int
    analyzed: int
    results: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 95th percentile and number of some durations."""

    n: int
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class Activity:
    """What was received, found and sent since a time.

    `states` counts studies by state and reason, `latency_s` is from the last object
    to the first result, `delivery_s` from a result to its arrival at a destination.
    """

    since: datetime
    days: tuple[Day, ...]
    states: Mapping[str, int]
    pathways: Mapping[str, int]
    models: Mapping[str, int]
    discordant: int
    latency_s: Spread | None
    processing_ms: Spread | None
    delivery_s: Spread | None


def look(session: Session, days: int, at: datetime) -> Activity:
    """Count the last `days` days, today included."""
    today = at.replace(hour=0, minute=0, second=0, microsecond=0)
    since = today - timedelta(days=days - 1)
    studies = session.execute(
        select(StudyRow.received_at, StudyRow.state, StudyRow.reason).where(
            StudyRow.received_at >= since,
            StudyRow.last_received_at >= since,  # implied; it has the index
        )
    ).all()
    results = session.execute(
        select(
            ResultRow.created_at,
            ResultRow.version,
            ResultRow.total_ms,
            ResultRow.discordant,
            StudyRow.last_received_at,
        )
        .join(StudyRow, StudyRow.study_uid == ResultRow.study_uid)
        .where(ResultRow.created_at >= since)
    ).all()
    arrived = Counter(row.received_at.date() for row in studies)
    analyzed = Counter(
        row.received_at.date() for row in studies if row.state == "analyzed"
    )
    made = Counter(row.created_at.date() for row in results)
    span = [(since + timedelta(days=n)).date() for n in range(days)]
    waits = [
        (row.created_at - row.last_received_at).total_seconds()
        for row in results
        if row.version == 1 and row.created_at >= row.last_received_at
    ]
    return Activity(
        since=since,
        days=tuple(Day(one, arrived[one], analyzed[one], made[one]) for one in span),
        states=dict(Counter(_standing(row.state, row.reason) for row in studies)),
        pathways=_pathways(session, since),
        models=_models(session, since),
        discordant=sum(row.discordant for row in results),
        latency_s=_spread(waits),
        processing_ms=_spread([row.total_ms for row in results]),
        delivery_s=_spread(_sent_after(session, since)),
    )


def _standing(state: str, reason: str | None) -> str:
    return f"{state}: {reason}" if reason else str(state)


def _pathways(session: Session, since: datetime) -> dict[str, int]:
    rows = session.execute(
        select(ResultRow.pathway, func.count())
        .where(ResultRow.created_at >= since, ResultRow.superseded_by.is_(None))
        .group_by(ResultRow.pathway)
    )
    return {str(pathway): count for pathway, count in rows}


def _models(session: Session, since: datetime) -> dict[str, int]:
    recent = select(ResultRow.result_id).where(ResultRow.created_at >= since)
    rows = session.execute(
        select(StageRow.model, func.count())
        .where(StageRow.result_id.in_(recent), StageRow.model.is_not(None))
        .group_by(StageRow.model)
        .order_by(StageRow.model)
    )
    return {str(model): count for model, count in rows}


def _sent_after(session: Session, since: datetime) -> list[float]:
    rows = session.execute(
        select(DeliveryRow.created_at, DeliveryRow.sent_at).where(
            DeliveryRow.created_at >= since, DeliveryRow.sent_at >= since
        )
    )
    return [(sent - made).total_seconds() for made, sent in rows if sent is not None]


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Spread(len(ordered), statistics.median(ordered), p95)
