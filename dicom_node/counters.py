"""Counts of what leaves no row of its own: calls refused, statuses answered, bytes.

They are kept in SQL because several listeners on several hosts count, each is started
anew now and then, and none should need more than its database to be seen. A listener
gathers in memory and adds to the table every few seconds and at its end, so counting
costs a store nothing; while the database is away the counts wait. A listener that is
killed loses what it gathered since: these are numbers for a graph, not records.
"""

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.db import Sessions
from dicom_node.tables import CounterRow

log = logging.getLogger(__name__)

FLUSH_S: Final = 10.0
ASSOCIATIONS: Final = "associations"
STORES: Final = "stores"
STORED_BYTES: Final = "stored_bytes"
ACCEPTED: Final = "accepted"
NOT_ADMITTED: Final = "caller_not_admitted"
NOT_NEGOTIATED: Final = "wrong_called_ae_or_too_many"
HUNG_UP: Final = "hung_up_on"
ABORTED: Final = "aborted"


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted: of which caller, and with which outcome.

    `caller` is an AE title that the settings name, or "other": who calls from outside
    must not be able to write into the monitoring.
    """

    name: str
    caller: str
    outcome: str = ""


class Counters:
    """What one process has counted and not yet written; safe between threads."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._pending: Counter[Counted] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counters", daemon=True)

    def start(self) -> None:
        """Start to write what is counted."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write what is left, and end."""
        self._stopping.set()
        self._thread.join(timeout)

    def add(self, counted: Counted, by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._pending[counted] += by

    def flush(self) -> bool:
        """Add what was counted to the table; False: it stays for the next time."""
        with self._lock:
            taken, self._pending = self._pending, Counter()
        if not taken:
            return True
        try:
            with self._sessions.begin() as session:
                write(session, taken)
        except SQLAlchemyError as error:
            log.warning("counts wait", extra={"error": type(error).__name__})
            with self._lock:
                self._pending.update(taken)
            return False
        return True

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self.flush()
        self.flush()


def write(session: Session, counts: Counter[Counted]) -> None:
    """Add counts to the table, in one order, so that two writers never deadlock."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    for one in sorted(counts, key=lambda each: (each.name, each.caller, each.outcome)):
        key = {"name": one.name, "caller": one.caller, "outcome": one.outcome}
        row = insert(CounterRow).values(**key, value=0)
        session.execute(row.on_conflict_do_nothing())
        session.execute(
            update(CounterRow)
            .filter_by(**key)
            .values(value=CounterRow.value + counts[one])
            .execution_options(synchronize_session=False)
        )


def read(session: Session) -> dict[Counted, int]:
    """Return every count."""
    rows = session.scalars(select(CounterRow))
    return {Counted(row.name, row.caller, row.outcome): row.value for row in rows}
