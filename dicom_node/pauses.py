"""Queues that a person has paused; what waits stays where it is.

Append-only: each turn of the switch is a row that says who turned it, and why.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.study import StudyState
from dicom_node.tables import DeliveryRow, DeliveryState, Pausable, PauseRow, StudyRow


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue that is paused: since when, by whom, and why."""

    queue: Pausable
    note: str
    set_by: str
    set_at: datetime


def paused(session: Session) -> dict[Pausable, Pause]:
    """Return the queues that are paused now."""
    found = {}
    for queue in Pausable:
        row = session.scalar(
            select(PauseRow)
            .where(PauseRow.queue == queue)
            .order_by(PauseRow.pause_id.desc())
            .limit(1)
        )
        if row is not None and row.paused:
            found[queue] = Pause(queue, row.note, row.set_by, row.set_at)
    return found


def pause(session: Session, queue: Pausable, note: str, by: str, at: datetime) -> None:
    """Let nothing more of a queue begin; what runs now runs to its end."""
    row = PauseRow(queue=queue, paused=True, note=note, set_by=by, set_at=at)
    session.add(row)


def resume(session: Session, queue: Pausable, by: str, at: datetime) -> None:
    """Let a queue go on; what waits is announced by the next sweep."""
    row = PauseRow(queue=queue, paused=False, note="", set_by=by, set_at=at)
    session.add(row)
    if queue is Pausable.ANALYSIS:
        waiting = update(StudyRow).where(StudyRow.state == StudyState.QUEUED)
    else:
        waiting = update(DeliveryRow).where(DeliveryRow.state == DeliveryState.DUE)
    session.execute(waiting.values(announced_at=None))
