"""Associations that were refused, for the audit trail: at most one entry a minute.

A caller who tries all day must not fill the table, so refusals are counted, and an
entry says how many there were since the one before, and names the first callers.
"""

import logging
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import audit
from dicom_node.audit import Action, Code, Event, Kind, Outcome, Trail
from dicom_node.db import Sessions

log = logging.getLogger(__name__)

INTERVAL: Final = timedelta(minutes=1)
NAMED: Final = 5
UNNAMED: Final = "?"
"""A caller that was refused before it gave its AE title."""
UNPRINTABLE: Final = re.compile(r"[^ -~]")
"""What no AE title has; a database would refuse a NUL, and with it every entry."""


@dataclass(slots=True)
class Refusals:
    """What was refused and is not in the trail yet."""

    sessions: Sessions
    trail: Trail
    listener: str
    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _others: int = 0
    _written_at: datetime | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, calling_ae: str, address: str, at: datetime, why: str = "") -> None:
        """Count a refusal; write what has gathered, unless that was done just now."""
        with self._lock:
            caller = (UNPRINTABLE.sub("?", calling_ae) or UNNAMED, address, why)
            if caller in self._counts or len(self._counts) < NAMED:
                self._counts[caller] += 1
            else:
                self._others += 1
            if self._written_at is None or at - self._written_at >= INTERVAL:
                self._write(at)

    def flush(self, at: datetime) -> None:
        """Write what has gathered."""
        with self._lock:
            self._write(at)

    def _write(self, at: datetime) -> None:
        total = self._counts.total() + self._others
        if not total:
            return
        self._written_at = at
        callers = ", ".join(
            f"{ae}@{address} {count}x" + (f" ({why})" if why else "")
            for (ae, address, why), count in self._counts.items()
        )
        more = f", others {self._others}x" if self._others else ""
        first_ae, first_address, _ = next(iter(self._counts))
        refused = Event(
            Code.SECURITY_ALERT,
            Action.EXECUTE,
            "association refused",
            first_ae,
            object_id=self.listener,
            detail=f"{total} refused: {callers}{more}",
            kind=Kind.NODE_AUTHENTICATION,
            outcome=Outcome.MINOR_FAILURE,
            host=first_address,
            at=at,
        )
        try:
            with self.sessions.begin() as session:
                audit.record(session, self.trail, refused)
        except SQLAlchemyError as error:  # counted on, and written by a later one
            extra = {"why": type(error).__name__, "refused": total}
            log.warning("refusals are not in the audit trail yet", extra=extra)
        else:
            self._counts.clear()
            self._others = 0
