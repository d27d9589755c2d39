"""Group commit: rows follow their durable files into the ledger, many at a time.

One thread writes. Whoever must not answer before a row is committed waits for its
ticket; the others go on. When a commit fails, nothing is dropped: the entries stay
in order, and the recorder says so until a later commit takes them all.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.completion import QuietPeriods
from dicom_node.db import Clock, Sessions, now
from dicom_node.errors import LedgerUnavailableError
from dicom_node.ledger import Association, Conflict
from dicom_node.study import ReceivedInstance, StudyUid

log = logging.getLogger(__name__)

GATHER_S: Final = 0.25
"""How long rows may wait for others: a commit costs more than all its rows."""

MAX_BATCH: Final = 200
RETRY_S: Final = 1.0
COMMIT_TIMEOUT_S: Final = 15.0
"""How long a store waits for its row; longer means that the ledger is not there."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The first instance of a study on an association: both belong together."""

    association: Association
    study_uid: StudyUid


@dataclass(frozen=True, slots=True)
class Closed:
    """An association of which no further entry will come.

    `stored` says of each study how many of which SOP class were answered Success.
    """

    association_id: str
    stored: Mapping[StudyUid, Mapping[str, int]] = field(default_factory=dict)


Entry = ReceivedInstance | Conflict | Carried | Closed


@dataclass(slots=True)
class Ticket:
    """The fate of entries that somebody waits for."""

    settled: threading.Event = field(default_factory=threading.Event)
    committed: bool = False


class Recorder:
    """Commits entries in the order in which they were put, in batches."""

    def __init__(
        self, sessions: Sessions, quiet: QuietPeriods, clock: Clock = now
    ) -> None:
        self._sessions = sessions
        self._quiet = quiet
        self._clock = clock
        self._pending: deque[Entry] = deque()
        self._tickets: list[Ticket] = []
        self._wake = threading.Condition()
        self._failing = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    @property
    def failing(self) -> bool:
        """Say whether the last commit failed."""
        return self._failing

    def start(self) -> None:
        """Start to commit."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Commit what is pending and end; False when something stayed behind.

        What stayed behind has its file, and is replayed at the next start.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._pending

    def put(self, *entries: Entry) -> None:
        """Add entries without waiting for their commit."""
        with self._wake:
            self._pending.extend(entries)
            self._wake.notify()

    def commit(self, *entries: Entry) -> None:
        """Add entries and wait until they, and all before them, are committed.

        Raises:
            LedgerUnavailableError: They are not; they stay pending.
        """
        ticket = Ticket()
        with self._wake:
            self._pending.extend(entries)
            self._tickets.append(ticket)
            self._wake.notify()
        if not ticket.settled.wait(COMMIT_TIMEOUT_S) or not ticket.committed:
            raise LedgerUnavailableError("the ledger cannot be written")

    def require_ready(self) -> None:
        """After a failed commit, commit what is pending before anything new comes.

        Raises:
            LedgerUnavailableError: The ledger still cannot be written.
        """
        if self._failing:
            self.commit()

    def _run(self) -> None:
        while True:
            batch, tickets, last = self._next_batch()
            done = self._commit(batch) if batch else True
            if not done:
                with self._wake:
                    self._pending.extendleft(reversed(batch))
            for ticket in tickets:
                ticket.committed = done
                ticket.settled.set()
            if last:
                return

    def _next_batch(self) -> tuple[list[Entry], list[Ticket], bool]:
        """Wait for entries; whoever holds a ticket is not kept waiting for more."""
        with self._wake:
            if self._failing:
                self._wake.wait_for(self._is_urgent, RETRY_S)
            else:
                self._wake.wait_for(lambda: self._pending or self._is_urgent())
                self._wake.wait_for(self._is_urgent, GATHER_S)
            size = len(self._pending) if self._tickets else MAX_BATCH
            count = min(size, len(self._pending))
            batch = [self._pending.popleft() for _ in range(count)]
            tickets, self._tickets = self._tickets, []
            return batch, tickets, self._stopping and not self._pending

    def _is_urgent(self) -> bool:
        enough = len(self._pending) >= MAX_BATCH and not self._failing
        return bool(self._tickets) or self._stopping or enough

    def _commit(self, batch: Sequence[Entry]) -> bool:
        try:
            with self._sessions.begin() as session:
                write(session, batch, self._quiet, self._clock())
        except Exception as error:  # noqa: BLE001 - without this thread nothing is answered
            if not self._failing:
                extra = {"error": type(error).__name__}
                log.error("rows wait: the ledger cannot be written", extra=extra)  # noqa: TRY400 - its text may hold values
            self._failing = True
            return False
        if self._failing:
            log.warning("the ledger can be written again")
        self._failing = False
        return True


def write(
    session: Session, batch: Sequence[Entry], quiet: QuietPeriods, at: datetime
) -> None:
    """Write entries in an order that every reference allows; all are idempotent."""
    arrivals = [each for each in batch if isinstance(each, ReceivedInstance)]
    for start in range(0, len(arrivals), MAX_BATCH):
        ledger.record(session, arrivals[start : start + MAX_BATCH], quiet, at)
    for entry in batch:
        match entry:
            case Conflict():
                ledger.record_conflict(session, entry, at)
            case Carried(association, study_uid):
                ledger.open_association(session, association, at)
                ledger.carries(session, association.association_id, study_uid)
            case Closed(association_id, stored):
                ledger.close_association(session, association_id, at, stored)
