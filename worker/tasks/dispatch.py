"""The sweep: complete what is quiet, expire dead claims, wake workers up."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery import current_app, shared_task
from sqlalchemy.orm import Session

from dicom_node import audit, ledger, outbox, pauses
from dicom_node.db import Sessions, now
from dicom_node.study import StudyUid
from dicom_node.tables import Pausable
from worker import chronicle, parking, queues, relay, retention, runtime
from worker.app import waiting
from worker.retention import Store
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

BATCH = 200
"""Studies and destinations that one sweep announces at most."""

EXAMINED_AT_ONCE: Final = 4
COUNTED_AT_ONCE: Final = 10
COUNT_LEASE: Final = timedelta(minutes=2)
"""After this a count is asked for again: whoever asked has been killed by then."""

DRAFT_AGE: Final = timedelta(hours=1)
"""Nobody writes one file for so long, and every write moves its time of change."""

BACKLOG_RESEND: Final = timedelta(hours=1)
"""How long a message is waited for while others are ahead of it in its queue."""


@dataclass(frozen=True, slots=True)
class Broker:
    """What the sweep needs of the queue: `Celery.send_task`, and a queue's length."""

    send: Callable[..., object]
    waiting: Callable[[str], int]


def sweep(
    sessions: Sessions, broker: Broker, settings: WorkerSettings, at: datetime
) -> int:
    """Bring every study and delivery on by one step; return how many were announced.

    State first, message after its commit: a message that is lost here is sent again
    by a later sweep, and one that arrives twice finds the claim taken. One that may
    be among those that a queue holds is late, not lost: sending it again would make a
    long queue longer.
    """
    with sessions.begin() as session:
        ledger.expire_leases(session, at, settings.max_attempts)
        ledger.match(session, at)
        ledger.complete_due(session, at, BATCH)
        questions = list(_questions(session, settings, at))
    for task, args in questions:
        broker.send(task, args=args)
    with sessions() as session:
        paused = pauses.paused(session)
        studies, deliveries = [], []
        if Pausable.ANALYSIS not in paused:
            studies = _studies(session, broker.waiting(queues.ANALYSIS), settings, at)
        if Pausable.DELIVERY not in paused:
            is_late = broker.waiting(queues.DELIVERY) > 0
            patience = BACKLOG_RESEND if is_late else settings.resend_after
            deliveries = outbox.due(session, at, patience, BATCH)
        parked = parking.due(session, at)
    for parked_id in parked:  # each alone: it locks the study that it belongs to
        with sessions.begin() as session:
            parking.retry(session, parked_id, settings.slnd_window, at)
    if not studies and not deliveries:
        return 0
    for uid in studies:
        broker.send(queues.ANALYZE, args=[uid])
    for destination in deliveries:
        broker.send(queues.DELIVER, args=[destination])
    with sessions.begin() as session:
        ledger.announced(session, studies, at)
        outbox.announced(session, deliveries, at)
    log.info(
        "sweep announced work",
        extra={"studies": len(studies), "destinations": len(deliveries)},
    )
    return len(studies) + len(deliveries)


def _patience(
    session: Session, messages: int, settings: WorkerSettings, at: datetime
) -> timedelta:
    """Return how long the message of a study is waited for.

    A queue that was wiped and fills again holds none of the earlier messages.
    """
    if not messages:
        return settings.resend_after
    since = ledger.announced_since(session, messages)
    if since is None:
        return BACKLOG_RESEND
    passed = at - since + timedelta(microseconds=1)
    return min(BACKLOG_RESEND, max(settings.resend_after, passed))


def _studies(
    session: Session, messages: int, settings: WorkerSettings, at: datetime
) -> list[StudyUid]:
    """Return the studies to announce: live ones first, bulk ones while few wait.

    So a study that has just come stands behind `bulk_ahead` bulk studies at most,
    whatever the broker does about priorities.
    """
    patience = _patience(session, messages, settings, at)
    counted = settings.query is not None
    live = ledger.unannounced(session, at, patience, BATCH, counted=counted)
    room = settings.bulk_ahead - messages - len(live)
    if room <= 0:
        return live
    bulk = ledger.unannounced(session, at, patience, room, counted=counted, bulk=True)
    return live + bulk


def _questions(
    session: Session, settings: WorkerSettings, at: datetime
) -> Iterator[tuple[str, list[Any]]]:
    """Yield the messages that find out whether enough of a study is here."""
    if settings.complete_early:
        for uid in ledger.take_unexamined(session, at, EXAMINED_AT_ONCE):
            yield queues.EXAMINE, [uid]
    if settings.query is not None:
        uids = ledger.take_uncounted(session, at, COUNT_LEASE, COUNTED_AT_ONCE)
        if uids:
            yield queues.COUNT, [uids]


@shared_task(name=queues.SWEEP, ignore_result=True)
def run_sweep() -> None:
    """Run `sweep` with this process's database and broker."""
    broker = Broker(current_app.send_task, _waiting)
    sweep(runtime.sessions(), broker, runtime.settings(), now())


@shared_task(name=queues.PURGE, ignore_result=True)
def run_purge() -> None:
    """Purge what is older than the site's retention; look for what sweeps missed."""
    with runtime.sessions().begin() as session:
        ledger.match(session, now(), ever=True)
    store = Store(runtime.sessions(), runtime.spool())
    retention.sweep(store, runtime.settings().retention, now())


@shared_task(name=queues.TIDY, ignore_result=True)
def run_tidy() -> None:
    """Remove the drafts that writers left who died more than an hour ago."""
    removed = runtime.spool().sweep_partial(datetime.now(UTC) - DRAFT_AGE)
    if removed:
        log.warning("drafts of dead writers removed", extra={"files": removed})


@shared_task(name=queues.FOLLOW, ignore_result=True)
def run_follow() -> None:
    """Enter in the audit trail what the service did since the last time."""
    trail = audit.trail_of(runtime.settings())
    more = 1
    while more:
        with runtime.sessions().begin() as session:
            more = chronicle.follow(session, trail)


@shared_task(name=queues.RELAY, ignore_result=True)
def run_relay() -> None:
    """Send the audit trail on to the site's collector."""
    relay.relay(runtime.sessions(), runtime.settings())


def _waiting(queue: str) -> int:
    with current_app.connection_or_acquire() as connection:
        return waiting(connection, queue)
