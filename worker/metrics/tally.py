"""Distributions over all results and deliveries, kept up by reading what is new.

Rows are entered in the order of their commits, not of their times: a row may appear
with a time that was read over. So each look begins a little before the last one and
leaves out what it has counted already.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final

from sqlalchemy import Row, Select, and_, select
from sqlalchemy.orm import Session, aliased

from dicom_node.admission import OTHER
from dicom_node.scanner import UNKNOWN
from dicom_node.tables import DeliveryRow, StudyRow
from worker.metrics.counts import Names
from worker.tables import ResultRow, StageRow

OVERLAP: Final = timedelta(minutes=15)
"""Longer than any task may live between the time that it writes and its commit."""

BATCH: Final = 2000
MAX_SERIES: Final = 300
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

PROBABILITY: Final = tuple(n / 10 for n in range(1, 11))
PARTS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAITS_S: Final = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0)
PARTS: Final = ("select", "decode", "inference", "report", "total")


Query = Select[*tuple[Any, ...]]


@dataclass(slots=True)
class Histogram:
    """How many values lie at or below each bound, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The buckets of Prometheus: upper bound, count at or below it."""
        bounds = [*(str(bound) for bound in self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self.counts)), strict=True))


@dataclass(slots=True)
class Distribution:
    """Histograms of one quantity by its labels; too many become "other"."""

    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    series: dict[tuple[str, ...], Histogram] = field(default_factory=dict)

    def at(self, *values: str) -> Histogram:
        """Return the histogram of some labels, empty at first."""
        if values not in self.series and len(self.series) >= MAX_SERIES:
            values = (OTHER,) * len(self.labels)
        return self.series.setdefault(values, Histogram(self.bounds))


@dataclass(slots=True)
class Reader:
    """Where the reading of one kind of row stands."""

    query: Callable[[datetime], Query]
    mark: datetime = EPOCH
    seen: dict[object, datetime] = field(default_factory=dict)

    def fresh(self, session: Session) -> Iterator[Row[*tuple[Any, ...]]]:
        """Yield rows that were not yielded before; each has `key` and `at`."""
        since = max(self.mark - OVERLAP, EPOCH)
        for row in session.execute(self.query(since)).yield_per(BATCH):
            if row.key not in self.seen:
                self.seen[row.key] = row.at
                self.mark = max(self.mark, row.at)
                yield row
        edge = self.mark - OVERLAP
        self.seen = {key: at for key, at in self.seen.items() if at >= edge}


def results_since(since: datetime) -> Query:
    """Select the times that results took, and when their studies were complete."""
    parts = [getattr(ResultRow, f"{part}_ms") for part in PARTS]
    return (
        select(
            ResultRow.result_id.label("key"),
            ResultRow.created_at.label("at"),
            ResultRow.version,
            StudyRow.queued_at,
            *parts,
        )
        .join(StudyRow, StudyRow.study_uid == ResultRow.study_uid)
        .where(ResultRow.created_at >= since)
    )


def scores_since(since: datetime) -> Query:
    """Select what stages said that they had not said of the same case before."""
    before = aliased(StageRow)
    return (
        select(
            (ResultRow.result_id + StageRow.stage).label("key"),
            ResultRow.created_at.label("at"),
            ResultRow.scanner,
            StudyRow.calling_ae,
            StageRow.stage,
            StageRow.model,
            StageRow.probability,
        )
        .join(StageRow, StageRow.result_id == ResultRow.result_id)
        .join(StudyRow, StudyRow.study_uid == ResultRow.study_uid)
        .outerjoin(
            before,
            and_(
                before.result_id == ResultRow.supersedes,
                before.stage == StageRow.stage,
                before.probability == StageRow.probability,
                before.weights_sha256 == StageRow.weights_sha256,
            ),
        )
        .where(
            ResultRow.created_at >= since,
            StageRow.probability.is_not(None),
            before.result_id.is_(None),
        )
    )


def sent_since(since: datetime) -> Query:
    """Select deliveries that went out."""
    return select(
        DeliveryRow.delivery_id.label("key"),
        DeliveryRow.sent_at.label("at"),
        DeliveryRow.created_at,
        DeliveryRow.destination,
    ).where(DeliveryRow.sent_at >= since)


class Tally:
    """What results and deliveries amount to since the first; one thread at a time."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._results = Reader(results_since)
        self._scores = Reader(scores_since)
        self._sent = Reader(sent_since)
        self.parts = Distribution(("stage",), PARTS_S)
        self.turnaround = Distribution((), WAITS_S)
        self.delivery = Distribution(("destination",), WAITS_S)
        self.scores = Distribution(("stage", "site", "scanner", "model"), PROBABILITY)
        for part in PARTS:
            self.parts.at(part)
        self.turnaround.at()
        for label in set(names.destinations.values()) or {OTHER}:
            self.delivery.at(label)

    def update(self, session: Session) -> None:
        """Count the rows that have come since the last time."""
        for row in self._results.fresh(session):
            self._add_times(row)
        for row in self._scores.fresh(session):
            site = self._names.caller(row.calling_ae)
            labels = (str(row.stage), site, row.scanner or UNKNOWN, row.model or OTHER)
            self.scores.at(*labels).add(row.probability)
        for row in self._sent.fresh(session):
            label = self._names.destination(row.destination)
            self.delivery.at(label).add((row.at - row.created_at).total_seconds())

    def _add_times(self, row: Row[*tuple[Any, ...]]) -> None:
        for part in PARTS:
            self.parts.at(part).add(getattr(row, f"{part}_ms") / 1000)
        if row.version == 1 and row.queued_at is not None:
            written = row.at + timedelta(milliseconds=row.report_ms)
            if written >= row.queued_at:  # not queued once more since
                self.turnaround.at().add((written - row.queued_at).total_seconds())
