"""What the database says at one moment; each query reads an index or few rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node import counters, pauses
from dicom_node.admission import OTHER
from dicom_node.counters import Counted
from dicom_node.findings import ParkReason, Pathway
from dicom_node.settings import AllowedPeer
from dicom_node.study import Peer, StudyState
from dicom_node.syslog import Collector
from dicom_node.tables import DeliveryRow, DeliveryState, Pausable, StudyRow
from worker import outcomes, relay
from worker.metrics import drift
from worker.metrics.drift import Drift
from worker.outcomes import Activation
from worker.settings import WorkerSettings
from worker.tables import CaseRow, ParkedRow, ParkedState, ResultRow

Column = InstrumentedAttribute[Any]
Condition = ColumnElement[bool]

RECENT: Final = timedelta(hours=24)
FAMILIAR: Final = (
    (counters.ASSOCIATIONS, counters.ACCEPTED),
    (counters.STORES, "0x0000"),
    (counters.STORES, "0xA700"),
    (counters.STORED_BYTES, ""),
)
"""Counters that every caller of the settings has from the start."""


@dataclass(frozen=True, slots=True)
class Names:
    """What labels may say: AE titles of callers, and destinations by their text.

    `collector` is where the audit trail goes.
    """

    callers: frozenset[str]
    destinations: Mapping[str, str]
    collector: Collector | None = None

    @classmethod
    def of(cls, settings: WorkerSettings) -> "Names":
        """Return the names that the settings hold."""
        senders: tuple[AllowedPeer | Peer, ...] = settings.allow or settings.pacs
        return cls(
            frozenset(each.ae_title.strip() for each in senders),
            {
                str(each): each.ae_title if isinstance(each, Peer) else each.host
                for each in settings.destinations
            },
            settings.audit_syslog,
        )

    def caller(self, ae_title: str) -> str:
        """Return the label of a calling AE."""
        return ae_title if ae_title in self.callers else OTHER

    def destination(self, text: str) -> str:
        """Return the label of a destination; one that was taken out is "other"."""
        return self.destinations.get(text, OTHER)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts at one moment; studies are by state and reason ("" without one).

    `recent` are studies that received within the last day. Ages are in seconds, 0
    when nothing waits. `paused` says of each queue whether a person has paused it.
    `audit_waiting` entries of the audit trail wait for its collector, None without one.
    """

    cases: Mapping[str, int]
    discordant_cases: int
    studies: Mapping[tuple[str, str], int]
    recent: Mapping[tuple[str, str], int]
    deliveries: Mapping[tuple[str, str], int]
    slnd_parked: Mapping[str, int]
    queue_age_s: float
    delivery_age_s: float
    paused: Mapping[str, bool]
    counters: Mapping[Counted, int]
    active: tuple[Activation, ...]
    thresholds: Mapping[str, float]
    drift: tuple[Drift, ...]
    audit_waiting: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits; `bulk` of the queued give way to live work, and age like them.

    Ages are those of the oldest, in seconds; None when nothing waits.
    """

    queued: int
    bulk: int
    analyzing: int
    due: int
    queue_age_s: float | None
    delivery_age_s: float | None


def waiting(session: Session, at: datetime) -> Waiting:
    """Count what waits to be analysed and to be sent."""
    is_queued = StudyRow.state == StudyState.QUEUED
    counted = func.count().filter
    queued, bulk, analyzing, oldest = session.execute(
        select(
            counted(is_queued),
            counted(is_queued, StudyRow.bulk),
            counted(StudyRow.state == StudyState.ANALYZING),
            func.min(StudyRow.queued_at).filter(is_queued),
        ).where(StudyRow.state.in_((StudyState.QUEUED, StudyState.ANALYZING)))
    ).one()
    due, first = session.execute(
        select(func.count(), func.min(DeliveryRow.due_since)).where(
            DeliveryRow.state == DeliveryState.DUE
        )
    ).one()
    return Waiting(queued, bulk, analyzing, due, _age(oldest, at), _age(first, at))


def _age(since: datetime | None, at: datetime) -> float | None:
    return None if since is None else max((at - since).total_seconds(), 0.0)


def look(session: Session, names: Names, at: datetime) -> Counts:
    """Count everything, in as many queries however many rows there are."""
    wait = waiting(session, at)
    return Counts(
        cases={str(one): 0 for one in Pathway} | _by(session, CaseRow.pathway),
        discordant_cases=_discordant(session),
        studies=_studies(session),
        recent=_recent(session, at - RECENT),
        deliveries=_deliveries(session, names),
        slnd_parked={str(one): 0 for one in ParkReason}
        | _by(session, ParkedRow.reason, ParkedRow.state == ParkedState.PARKED),
        queue_age_s=wait.queue_age_s or 0.0,
        delivery_age_s=wait.delivery_age_s or 0.0,
        paused=_paused(session),
        counters=_counters(session, names),
        active=tuple(outcomes.activations(session).values()),
        thresholds={
            str(stage): value
            for stage, (value, _) in outcomes.thresholds(session).items()
        },
        drift=drift.newest(session),
        audit_waiting=None
        if names.collector is None
        else relay.standing(session, names.collector).waiting,
    )


def document(counts: Counts) -> dict[str, object]:
    """Return counts as `--json` prints them."""
    deliveries: dict[str, int] = {}
    for (state, _), count in counts.deliveries.items():
        deliveries[state] = deliveries.get(state, 0) + count
    return {
        "cases": dict(counts.cases),
        "discordant_cases": counts.discordant_cases,
        "studies": [
            {"state": state, "reason": reason or None, "count": count}
            for (state, reason), count in sorted(counts.studies.items())
        ],
        "deliveries": deliveries,
        "slnd_parked": dict(counts.slnd_parked),
        "queue_age_s": round(counts.queue_age_s, 3),
        "delivery_age_s": round(counts.delivery_age_s, 3),
        "paused": dict(counts.paused),
    }


def _paused(session: Session) -> dict[str, bool]:
    found = pauses.paused(session)
    return {str(queue): queue in found for queue in Pausable}


def _by(
    session: Session,
    column: Column,
    *conditions: Condition,
) -> dict[str, int]:
    rows = session.execute(
        select(column, func.count()).where(*conditions).group_by(column)
    )
    return {str(name): count for name, count in rows}


def _discordant(session: Session) -> int:
    """Count cases whose newest result is discordant, from the discordant results."""
    found = session.scalar(
        select(func.count())
        .select_from(ResultRow)
        .where(ResultRow.discordant.is_(True), ResultRow.superseded_by.is_(None))
    )
    return found or 0


def _studies(session: Session) -> dict[tuple[str, str], int]:
    rows = session.execute(
        select(StudyRow.state, StudyRow.reason, func.count()).group_by(
            StudyRow.state, StudyRow.reason
        )
    )
    known = {(str(state), ""): 0 for state in StudyState}
    return known | {(str(state), str(why or "")): count for state, why, count in rows}


def _recent(session: Session, since: datetime) -> dict[tuple[str, str], int]:
    """Count here: to group by state, SQLite would read the studies of all years."""
    rows = session.execute(
        select(StudyRow.state, StudyRow.reason).where(
            StudyRow.last_received_at >= since
        )
    )
    known = {(str(state), ""): 0 for state in StudyState}
    return known | Counter((str(state), str(why or "")) for state, why in rows)


def _deliveries(session: Session, names: Names) -> dict[tuple[str, str], int]:
    rows = session.execute(
        select(DeliveryRow.state, DeliveryRow.destination, func.count()).group_by(
            DeliveryRow.state, DeliveryRow.destination
        )
    )
    labels = set(names.destinations.values()) or {OTHER}
    found = {(str(state), label): 0 for state in DeliveryState for label in labels}
    return _add(
        found, (((str(state), names.destination(to)), n) for state, to, n in rows)
    )


def _add(
    totals: dict[tuple[str, str], int], more: Iterable[tuple[tuple[str, str], int]]
) -> dict[tuple[str, str], int]:
    for key, count in more:
        totals[key] = totals.get(key, 0) + count
    return totals


def _counters(session: Session, names: Names) -> dict[Counted, int]:
    """Return every counter; callers that were configured once stay as they are."""
    known = {
        Counted(name, caller, outcome): 0
        for name, outcome in FAMILIAR
        for caller in names.callers or {OTHER}
    }
    refused = Counted(counters.ASSOCIATIONS, OTHER, counters.NOT_ADMITTED)
    return known | {refused: 0} | counters.read(session)
