"""At start: give every durable file its row, then end what a dead process left open.

A listener that was killed between a file and its row has answered for that file
with Success, so the ledger is made to agree with the disk before anything new comes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dicom_node import ledger, purge
from dicom_node.completion import QuietPeriods
from dicom_node.db import Clock, Sessions
from dicom_node.errors import UnreadableObjectError
from dicom_node.intake import Intake
from dicom_node.ledger import Conflict
from dicom_node.recorder import Entry, write
from dicom_node.spool import INSTANCES, QUARANTINE
from dicom_node.study import ReceivedInstance

log = logging.getLogger(__name__)

CHUNK: Final = 200
PARTIAL_AGE: Final = timedelta(minutes=1)
"""Older drafts are nobody's: an instance is written within seconds."""


def recover(
    intake: Intake,
    sessions: Sessions,
    quiet: QuietPeriods,
    listener: str | None,
    clock: Clock,
) -> int:
    """Make ledger and spool agree; return how many rows were missing.

    Args:
        intake: Describes files.
        sessions: Writing sessions.
        quiet: How long each sender's studies must be quiet.
        listener: Whose associations end, after all rows are there; None: everyone's.
        clock: Tells the time.

    Raises:
        SQLAlchemyError: The database does not answer.
        SpoolFullError: The volume fails.
    """
    intake.spool.sweep_partial(datetime.now(UTC) - PARTIAL_AGE)  # the files' own clock
    with sessions.begin() as session:
        known = ledger.paths(session)
        gone = purge.purged_paths(session)
    known -= set(_come_again(intake, gone))
    instances = _without_row(intake, INSTANCES, known)
    quarantined = _without_row(intake, QUARANTINE, known)
    entries: list[Entry] = list(instances)
    for start in range(0, len(entries), CHUNK):
        with sessions.begin() as session:
            write(session, entries[start : start + CHUNK], quiet, clock())
    with sessions.begin() as session:
        for each in quarantined:
            first = ledger.patient_of(session, each.sop_instance_uid)
            differs = first is not None and first.differs(each.patient)
            ledger.record_conflict(session, Conflict(each, differs), clock())
        ledger.close_stale(session, listener, clock())
    if entries:
        log.warning("rows rebuilt from files", extra={"instances": len(entries)})
    return len(entries)


def _come_again(intake: Intake, gone: Mapping[str, datetime]) -> Iterator[str]:
    """Yield the paths of purged images that were stored again after their purge."""
    for path in intake.spool.iter_files(INSTANCES):
        since = gone.get(path.as_posix())
        written = intake.spool.written_at(path) if since else None
        if since and written and written > since:
            yield path.as_posix()


def _without_row(
    intake: Intake, folder: Path, known: set[str]
) -> Sequence[ReceivedInstance]:
    paths = (path for path in intake.spool.iter_files(folder))
    found = [_rebuild(intake, path) for path in paths if path.as_posix() not in known]
    return [each for each in found if each is not None]


def _rebuild(intake: Intake, path: Path) -> ReceivedInstance | None:
    try:
        return intake.rebuild(path)
    except UnreadableObjectError as error:
        extra = {"path": path.as_posix(), "why": str(error)}
        log.error("a file without a row cannot be read", extra=extra)  # noqa: TRY400 - the text says all
        return None
