"""What the database says of an installation in numbers; read-only, no identifiers.

One look gives a Snapshot; `exposition` writes it as Prometheus text. Series of every
known state exist from the start, so that an alert on zero or on a rise works.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.findings import ParkReason, Pathway
from dicom_node.study import StudyState
from dicom_node.tables import DeliveryRow, DeliveryState, StudyRow
from worker.tables import CaseRow, ParkedRow, ParkedState, ResultRow


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counts at one moment; `studies` is by state and reason ("" without one)."""

    cases: Mapping[str, int]
    discordant_cases: int
    studies: Mapping[tuple[str, str], int]
    deliveries: Mapping[str, int]
    slnd_parked: Mapping[str, int]


def look(session: Session) -> Snapshot:
    """Count cases, studies, deliveries and parked results, in five queries."""
    pathways = session.execute(
        select(CaseRow.pathway, func.count()).group_by(CaseRow.pathway)
    )
    discordant = session.scalar(
        select(func.count())
        .select_from(CaseRow)
        .join(ResultRow, ResultRow.result_id == CaseRow.result_id)
        .where(ResultRow.discordant)
    )
    studies = session.execute(
        select(StudyRow.state, StudyRow.reason, func.count()).group_by(
            StudyRow.state, StudyRow.reason
        )
    )
    deliveries = session.execute(
        select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state)
    )
    parked = session.execute(
        select(ParkedRow.reason, func.count())
        .where(ParkedRow.state == ParkedState.PARKED)
        .group_by(ParkedRow.reason)
    )
    states = {(str(state), ""): 0 for state in StudyState}
    return Snapshot(
        cases={str(one): 0 for one in Pathway} | _counts(pathways),
        discordant_cases=discordant or 0,
        studies=states
        | {(str(state), str(why or "")): count for state, why, count in studies},
        deliveries={str(one): 0 for one in DeliveryState} | _counts(deliveries),
        slnd_parked={str(one): 0 for one in ParkReason} | _counts(parked),
    )


def exposition(snapshot: Snapshot) -> str:
    """Write a snapshot in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry).decode()


def document(snapshot: Snapshot) -> dict[str, object]:
    """Return a snapshot as `--json` prints it."""
    return {
        "cases": dict(snapshot.cases),
        "discordant_cases": snapshot.discordant_cases,
        "studies": [
            {"state": state, "reason": reason or None, "count": count}
            for (state, reason), count in sorted(snapshot.studies.items())
        ],
        "deliveries": dict(snapshot.deliveries),
        "slnd_parked": dict(snapshot.slnd_parked),
    }


def _counts(rows: object) -> dict[str, int]:
    return {str(name): count for name, count in rows}  # type: ignore[attr-defined]  # rows of any two columns


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[GaugeMetricFamily]:
        seen = self._snapshot
        yield _gauge("cases", "Cases by place in the pathway", "pathway", seen.cases)
        discordant = GaugeMetricFamily(
            "sentinode_discordant_cases",
            "Cases with a metastasis that stage I called low risk",
        )
        discordant.add_metric([], seen.discordant_cases)
        yield discordant
        studies = GaugeMetricFamily(
            "sentinode_studies",
            "Studies by state and reason",
            labels=["state", "reason"],
        )
        for (state, reason), count in sorted(seen.studies.items()):
            studies.add_metric([state, reason], count)
        yield studies
        yield _gauge("deliveries", "Deliveries by state", "state", seen.deliveries)
        yield _gauge(
            "slnd_parked",
            "SLND results that belong to no case yet",
            "reason",
            seen.slnd_parked,
        )


def _gauge(
    name: str, said: str, label: str, counts: Mapping[str, int]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sentinode_{name}", said, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
