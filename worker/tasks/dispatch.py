"""The sweep: complete what is quiet, expire dead claims, wake workers up."""

import logging
from collections.abc import Callable
from datetime import datetime

from celery import current_app, shared_task

from dicom_node import ledger, outbox
from dicom_node.db import Sessions, now
from worker import queues, runtime
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

BATCH = 200
"""Studies and deliveries that one sweep announces at most."""

Send = Callable[..., object]
"""`Celery.send_task`: (name, args)."""


def sweep(
    sessions: Sessions, send: Send, settings: WorkerSettings, at: datetime
) -> int:
    """Bring every study and delivery on by one step; return how many were announced.

    State first, message after its commit: a message that is lost here is sent again
    by a later sweep, and one that arrives twice finds the claim taken.
    """
    with sessions.begin() as session:
        ledger.expire_leases(session, at, settings.max_attempts)
        ledger.complete_due(session, at, BATCH)
    with sessions() as session:
        studies = ledger.unannounced(session, at, settings.resend_after, BATCH)
        deliveries = outbox.due(session, at, settings.resend_after, BATCH)
    if not studies and not deliveries:
        return 0
    for uid in studies:
        send(queues.ANALYZE, args=[uid])
    for result_id, destination in deliveries:
        send(queues.DELIVER, args=[result_id, destination])
    with sessions.begin() as session:
        ledger.announced(session, studies, at)
        outbox.announced(session, deliveries, at)
    log.info(
        "sweep announced work",
        extra={"studies": len(studies), "deliveries": len(deliveries)},
    )
    return len(studies) + len(deliveries)


@shared_task(name=queues.SWEEP, ignore_result=True)
def run_sweep() -> None:
    """Run `sweep` with this process's database and broker."""
    sweep(runtime.sessions(), current_app.send_task, runtime.settings(), now())
