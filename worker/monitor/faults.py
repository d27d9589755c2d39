"""What is wrong with an installation now, as things that somebody should be told of."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import advice
from dicom_node.study import StudyState
from dicom_node.tables import DeliveryRow, DeliveryState, StudyRow
from worker.metrics.counts import Counts, Names
from worker.monitor.readiness import Check
from worker.monitor.status import UID_TAIL

LISTED: Final = 500
"""Failed studies and deliveries that are told one by one at most."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong; as long as it is, its key stays the same.

    The text names no patient. The part of the key before the first slash is its kind.
    """

    key: str
    text: str

    @property
    def kind(self) -> str:
        """What kind of fault it is."""
        return self.key.partition("/")[0]

    def told_as(self, since: str) -> str:
        """Return an identifier of this occurrence."""
        return hashlib.sha256(f"{self.key} {since}".encode()).hexdigest()[:16]


def of_checks(checks: Sequence[Check]) -> Iterator[Fault]:
    """Yield the dependencies that do not work."""
    for check in checks:
        if not check.ok:
            yield Fault(f"not_ready/{check.name}", f"{check.name}: {check.detail}")


def of_counts(counts: Counts, patience: timedelta) -> Iterator[Fault]:
    """Yield what waits too long, and alarms of drift."""
    limit = patience.total_seconds()
    minutes = f"more than {limit / 60:.0f} minutes"
    if counts.queue_age_s > limit:
        yield Fault("backlog/studies", f"a study has been queued for {minutes}")
    if counts.delivery_age_s > limit:
        yield Fault("backlog/deliveries", f"a delivery has been due for {minutes}")
    for one in counts.drift:
        if one.alarm:
            key = f"drift/{one.stage}/{one.scanner}/{one.statistic}"
            yield Fault(key, f"drift of stage {one.stage}: {one.statistic} in alarm")


def of_rows(session: Session, names: Names) -> Iterator[Fault]:
    """Yield the studies and deliveries that failed."""
    studies = session.execute(
        select(StudyRow.study_uid, StudyRow.reason, StudyRow.revision)
        .where(StudyRow.state == StudyState.FAILED)
        .order_by(StudyRow.last_received_at.desc())
        .limit(LISTED)
    )
    for uid, reason, revision in studies:
        said = advice.of(str(reason))
        yield Fault(
            f"study_failed/{uid}/{revision}",
            f"study …{uid[-UID_TAIL:]} failed ({reason}): {said.means}. {said.todo}",
        )
    deliveries = session.execute(
        select(DeliveryRow.delivery_id, DeliveryRow.destination)
        .where(DeliveryRow.state == DeliveryState.FAILED)
        .order_by(DeliveryRow.created_at.desc())
        .limit(LISTED)
    )
    for delivery_id, destination in deliveries:
        yield Fault(
            f"delivery_failed/{delivery_id}",
            f"delivery {delivery_id[:8]} to {names.destination(destination)} failed: "
            "see `sentinode deliveries show`, then `deliveries retry`",
        )


@dataclass(frozen=True, slots=True)
class Told:
    """A fault that was told, and since when it is there."""

    fault: Fault
    since: str


@dataclass(frozen=True, slots=True)
class News:
    """What is to be told: faults that are new, and told ones that are over."""

    opened: tuple[Told, ...]
    resolved: tuple[Told, ...]

    def __bool__(self) -> bool:
        return bool(self.opened or self.resolved)


def compare(
    told: Mapping[str, Told],
    found: Mapping[str, Fault],
    looked_at: frozenset[str],
    at: datetime,
) -> News:
    """Compare what was told with what is; kinds that were not looked at stay."""
    opened = [
        Told(fault, at.isoformat(timespec="seconds"))
        for key, fault in found.items()
        if key not in told
    ]
    over = [
        one
        for key, one in told.items()
        if key not in found and one.fault.kind in looked_at
    ]
    return News(tuple(opened), tuple(over))


def document(news: News, source: str, at: datetime) -> dict[str, object]:
    """Write news as they are posted; `text` is what chat services show."""
    said = [f"Sentinode: {one.fault.text}" for one in news.opened]
    said += [f"Sentinode, over: {one.fault.text}" for one in news.resolved]
    return {
        "source": source,
        "at": at.isoformat(timespec="seconds"),
        "text": "\n".join(said),
        "opened": [_entry(one) for one in news.opened],
        "resolved": [_entry(one) for one in news.resolved],
    }


def _entry(one: Told) -> dict[str, str]:
    return {
        "id": one.fault.told_as(one.since),
        "what": one.fault.kind,
        "text": one.fault.text,
        "since": one.since,
    }
