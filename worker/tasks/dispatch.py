"""The sweep: complete what is quiet, expire dead claims, wake workers up."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from celery import current_app, shared_task
from kombu import Queue

from dicom_node import ledger, outbox
from dicom_node.db import Sessions, now
from worker import queues, runtime
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

BATCH = 200
"""Studies and destinations that one sweep announces at most."""

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
    by a later sweep, and one that arrives twice finds the claim taken. While a queue
    holds messages, one that was sent is late, not lost: sending it again would make
    a long queue longer.
    """
    with sessions.begin() as session:
        ledger.expire_leases(session, at, settings.max_attempts)
        ledger.complete_due(session, at, BATCH)
    with sessions() as session:
        patience = {
            queue: BACKLOG_RESEND if broker.waiting(queue) else settings.resend_after
            for queue in (queues.ANALYSIS, queues.DELIVERY)
        }
        studies = ledger.unannounced(session, at, patience[queues.ANALYSIS], BATCH)
        deliveries = outbox.due(session, at, patience[queues.DELIVERY], BATCH)
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


@shared_task(name=queues.SWEEP, ignore_result=True)
def run_sweep() -> None:
    """Run `sweep` with this process's database and broker."""
    broker = Broker(current_app.send_task, _waiting)
    sweep(runtime.sessions(), broker, runtime.settings(), now())


def _waiting(queue: str) -> int:
    """Return how many messages a queue holds; a queue that is not there holds none."""
    with current_app.connection_or_acquire() as connection:
        try:
            # A channel of its own: a broker may close it to say that there is no queue.
            with connection.channel() as channel:
                bound = Queue(queue, channel=channel)
                declared: Any = bound.queue_declare(passive=True)  # its stub is wrong
                return int(declared.message_count)
        except connection.channel_errors:
            return 0
