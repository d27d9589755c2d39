"""Objects that come by another way than the listener: from media, or by C-GET.

What they are put through is what the listener puts objects through, so a study is the
same by whatever way it came.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node import contexts, ledger
from dicom_node.completion import QuietPeriods
from dicom_node.db import Clock, Sessions
from dicom_node.errors import LedgerUnavailableError
from dicom_node.intake import (
    SOP_CLASS_NOT_SUPPORTED,
    Intake,
    StoreRefusedError,
    StoreRequest,
)
from dicom_node.ledger import Association, Conflict
from dicom_node.recorder import Carried, Closed, Entry, write
from dicom_node.study import StudyUid

OnFirst = Callable[[Session, StudyUid], None]


class Outcome(StrEnum):
    """What became of an object: new, here before, or other bytes under a known UID."""

    STORED = "stored"
    KNOWN = "known"
    CONFLICT = "conflict"


ACCEPTED: Final = {
    str(context.abstract_syntax): frozenset(map(str, context.transfer_syntax))
    for context in contexts.accepted()
}


@dataclass(frozen=True, slots=True)
class Deposit:
    """One way in; the studies that come by it are not complete before it is closed.

    `on_first` is called in the transaction that enters the first object of a study, as
    the last thing in it: without what it writes, the object is not entered either.
    """

    intake: Intake
    sessions: Sessions
    quiet: QuietPeriods
    association: Association
    clock: Clock
    on_first: OnFirst | None = None
    _carried: set[StudyUid] = field(default_factory=set)
    _stored: defaultdict[StudyUid, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )

    @staticmethod
    def takes(request: StoreRequest) -> bool:
        """Say whether an object is of a kind that can be for us at all."""
        return request.sop_class_uid in ACCEPTED

    def put(self, request: StoreRequest) -> tuple[StudyUid, Outcome]:
        """Make an object durable and enter it; both are done when this returns.

        Raises:
            StoreRefusedError: It is not an object that the listener would take.
            SpoolFullError: There is no room for it now.
            LedgerUnavailableError: It has no row; a repetition finds its file.
        """
        demand_accepted(request)
        kept = self.intake.keep(request)
        instance = kept.instance if isinstance(kept, Conflict) else kept
        uid = instance.study_uid
        entries: list[Entry] = [Carried(self.association, uid)]
        is_first = uid not in self._carried
        entries = [*(entries if is_first else ()), kept]
        try:
            with self.sessions.begin() as session:
                sop_uid = instance.sop_instance_uid
                known = ledger.instance(session, sop_uid) is not None
                write(session, entries, self.quiet, self.clock())
                if is_first and self.on_first is not None:
                    self.on_first(session, uid)
        except SQLAlchemyError as error:
            text = "the ledger cannot be written; try again when the database answers"
            raise LedgerUnavailableError(text) from error
        self._carried.add(uid)
        self._stored[uid][instance.sop_class_uid] += 1
        if not self.intake.spool.written_at(instance.path):
            self.intake.keep(request)  # a purge took the file that it was found to be
        if isinstance(kept, Conflict):
            return uid, Outcome.CONFLICT
        return uid, Outcome.KNOWN if known else Outcome.STORED

    def closed(self) -> Closed:
        """Return the entry of this way's end: what came by it."""
        return Closed(self.association.association_id, dict(self._stored))


def demand_accepted(request: StoreRequest) -> None:
    """Refuse what the listener offers no presentation context for.

    Raises:
        StoreRefusedError: The SOP class, or its transfer syntax, is not accepted.
    """
    syntaxes = ACCEPTED.get(request.sop_class_uid)
    if syntaxes is None:
        raise StoreRefusedError(
            SOP_CLASS_NOT_SUPPORTED, f"SOP class {request.sop_class_uid} is not for us"
        )
    if request.transfer_syntax_uid not in syntaxes:
        raise StoreRefusedError(
            SOP_CLASS_NOT_SUPPORTED,
            f"transfer syntax {request.transfer_syntax_uid} is not accepted for it",
        )


@contextmanager
def depositing(  # noqa: PLR0913, PLR0917 - what a listener has too, and the hook
    intake: Intake,
    sessions: Sessions,
    quiet: QuietPeriods,
    calling_ae: str,
    clock: Clock,
    on_first: OnFirst | None = None,
) -> Iterator[Deposit]:
    """Open a way in and close it afterwards; what was put stays, whatever happens."""
    association = Association(str(uuid.uuid4()), "deposit", calling_ae, "local")
    deposit = Deposit(intake, sessions, quiet, association, clock, on_first)
    try:
        yield deposit
    finally:
        closed = deposit.closed()
        with sessions.begin() as session:
            write(session, [closed], quiet, clock())
