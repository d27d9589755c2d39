"""The audit trail on its way to the site's collector: in order, at least once.

The table is the source: a cursor in the database says how far the collector has taken
the entries, so that one that is away for a week loses nothing. Syslog confirms nothing:
when the collector goes away, what it took within the last minutes is sent again, since
it may have died before it wrote that down. Each message has its number in the chain,
by which a repetition shows.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from dicom_node import atna, audit, syslog
from dicom_node.atna import Origin
from dicom_node.audit import Entry
from dicom_node.db import Clock, Sessions, insert_missing, now
from dicom_node.errors import PeerUnavailableError
from dicom_node.syslog import Collector
from dicom_node.tables import AuditRow, RelayRow
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

BATCH: Final = 500
"""Entries that one connection carries."""

TIMEOUT_S: Final = 10.0
LEASE: Final = timedelta(minutes=2)
TURN: Final = timedelta(seconds=45)
"""How long one call goes on with a backlog."""

OVERLAP: Final = timedelta(minutes=1)
"""What was taken longer ago than this is written down at the collector."""

CUT_OFF: Final = (
    "the collector has more entries than the table: some were removed here, run "
    "`sentinode audit verify --against FILE` with what it holds"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How many entries a collector took, and how many wait; since when it fails."""

    taken: int
    waiting: int
    failing_since: datetime | None
    error: str | None


def standing(session: Session, collector: Collector) -> Standing:
    """Return how far a collector is; nothing was taken by one that is new."""
    newest = session.scalar(select(func.max(AuditRow.sequence))) or 0
    row = session.get(RelayRow, str(collector))
    if row is None:
        return Standing(0, newest, None, None)
    waiting, error, since = newest - row.sequence, row.error, row.failing_since
    if waiting < 0:
        since, error = since or now(), CUT_OFF
    return Standing(row.sequence, max(waiting, 0), since, error)


def set_back(session: Session, collector: Collector, sequence: int) -> None:
    """Let the entries from a number on be sent again."""
    _enter(session, collector)
    before = max(sequence - 1, 0)
    session.execute(
        update(RelayRow)
        .where(RelayRow.collector == str(collector))
        .values(sequence=before, anchor=before, recent=before, recent_at=None)
    )


def relay(sessions: Sessions, settings: WorkerSettings, clock: Clock = now) -> int:
    """Send what the collector has not taken yet; return how many entries that was.

    One process at a time sends; another finds that out and does nothing.
    """
    collector = settings.audit_syslog
    if collector is None:
        return 0
    holder, end_at = str(uuid.uuid4()), clock() + TURN
    with sessions.begin() as session:
        if not _take(session, collector, holder, clock()):
            return 0
    sent = 0
    try:
        while clock() < end_at:
            count = _send_batch(sessions, settings, collector, holder, clock)
            sent += count
            if not count:
                break
    except PeerUnavailableError as error:
        extra = {"collector": str(collector), "why": str(error)}
        log.warning("the audit trail waits for its collector", extra=extra)
        with sessions.begin() as session:
            _fell_back(session, collector, str(error), clock())
    finally:
        with sessions.begin() as session:
            _let_go(session, collector, holder)
    return sent


def _send_batch(
    sessions: Sessions,
    settings: WorkerSettings,
    collector: Collector,
    holder: str,
    clock: Clock,
) -> int:
    with sessions() as session:
        row = session.get_one(RelayRow, str(collector))
        found = audit.after(session, row.sequence, BATCH)
    if not found:
        return 0
    origin = Origin(settings.aet)
    lines = [atna.line(one, origin) for one in found]
    syslog.send(collector, lines, settings.audit_identity, TIMEOUT_S)
    with sessions.begin() as session:
        _taken(session, collector, holder, found, clock())
    return len(found)


def _enter(session: Session, collector: Collector) -> None:
    row = {"collector": str(collector), "sequence": 0, "anchor": 0, "recent": 0}
    insert_missing(session, RelayRow, [row], "collector")


def _take(session: Session, collector: Collector, holder: str, at: datetime) -> bool:
    _enter(session, collector)
    taken = session.scalars(
        update(RelayRow)
        .where(
            RelayRow.collector == str(collector),
            or_(RelayRow.holder.is_(None), RelayRow.until < at),
        )
        .values(holder=holder, until=at + LEASE)
        .returning(RelayRow.collector)
    ).all()
    return bool(taken)


def _let_go(session: Session, collector: Collector, holder: str) -> None:
    session.execute(
        update(RelayRow)
        .where(RelayRow.collector == str(collector), RelayRow.holder == holder)
        .values(holder=None, until=None)
    )


def _taken(
    session: Session,
    collector: Collector,
    holder: str,
    found: Sequence[Entry],
    at: datetime,
) -> None:
    """Move the cursor, if it still is where we left it and ours."""
    row = session.get_one(RelayRow, str(collector), with_for_update=True)
    if row.holder != holder or row.sequence != found[0].sequence - 1:
        return
    row.sequence = found[-1].sequence
    row.failing_since = row.error = None
    row.until = at + LEASE
    if _is_settled(row, at):
        row.anchor = row.recent
    if _is_settled(row, at) or row.recent_at is None:
        row.recent, row.recent_at = row.sequence, at


def _fell_back(session: Session, collector: Collector, why: str, at: datetime) -> None:
    """Go back to what the collector has surely written down."""
    row = session.get_one(RelayRow, str(collector), with_for_update=True)
    if _is_settled(row, at):
        row.anchor = row.recent
    row.sequence = row.recent = row.anchor
    row.recent_at = None
    row.failing_since = row.failing_since or at
    row.error = why


def _is_settled(row: RelayRow, at: datetime) -> bool:
    return row.recent_at is not None and at - row.recent_at >= OVERLAP
