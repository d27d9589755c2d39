"""Which studies are analysed in company: bulk ones, when more of them wait.

They share forward passes (see `worker.together`). A live study is always alone, and so
is what was tried before: what kills a process costs its neighbours one try at most.
"""

import logging
import time
from collections.abc import Iterator
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dicom_node import backlog, ledger, pauses
from dicom_node.db import Sessions, now
from dicom_node.ledger import Claim
from dicom_node.study import StudyUid
from dicom_node.tables import Pausable
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Studies that are analysed together. A crop costs as little in a pass of 16 as in one
of 32 (on a Zen 4 core 20 ms; 38 ms alone, 22 ms in a pass of 8)."""

LISTED: Final = 4 * AT_ONCE
"""Candidates that are looked up at once: other processes take from the same."""

PART_OF_LIMIT: Final = 4
"""Nothing is claimed along after this part of the task's time limit, which kills all:
the rest is for what was claimed."""


def along(
    claim: Claim, sessions: Sessions, settings: WorkerSettings, worker: str
) -> Iterator[Claim]:
    """Claim studies to be analysed beside one, each when it is asked for.

    Nothing is claimed any more once a live study waits or a person has paused the
    queue, so either waits for the studies that were read, not for more. A claim holds
    longer than the task that makes it can live, however late it is made.
    """
    if not _may_have_company(claim, settings):
        return
    until = (
        time.monotonic() + settings.analysis_time_limit.total_seconds() / PART_OF_LIMIT
    )
    taken = 1
    try:
        for uid in _candidates(sessions, settings):
            if taken == AT_ONCE or time.monotonic() >= until:
                return
            with sessions.begin() as session:
                if not _has_room(session, settings):
                    return
                found = _claim(session, uid, settings, worker)
            if found is not None:
                taken += 1
                yield found
    except DBAPIError as error:  # those that were claimed meet it, and say so
        log.warning("no more company", extra={"error": type(error).__name__})


def _may_have_company(claim: Claim, settings: WorkerSettings) -> bool:
    """Say whether a study is bulk work of its first try, and another one is left."""
    return claim.bulk and claim.attempts == 1 and settings.max_attempts > 1


def _candidates(sessions: Sessions, settings: WorkerSettings) -> list[StudyUid]:
    with sessions() as session:
        return backlog.untried_bulk(session, LISTED, counted=settings.query is not None)


def _has_room(session: Session, settings: WorkerSettings) -> bool:
    if Pausable.ANALYSIS in pauses.paused(session):
        return False
    return not backlog.live_waits(session, counted=settings.query is not None)


def _claim(
    session: Session, uid: StudyUid, settings: WorkerSettings, worker: str
) -> Claim | None:
    return ledger.claim(session, uid, worker, settings.lease, now(), untried_bulk=True)
