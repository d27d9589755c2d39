"""Sending the documents of one result to one destination."""

import logging

from celery import shared_task

from dicom_node import outbox, sender
from dicom_node.db import Sessions, now
from dicom_node.errors import TransientError, UnreadableObjectError
from dicom_node.outbox import Delivery
from dicom_node.sender import SendOutcome
from dicom_node.spool import Spool
from dicom_node.study import Peer
from worker import queues, runtime
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def deliver(
    claim: tuple[str, str], sessions: Sessions, spool: Spool, settings: WorkerSettings
) -> None:
    """Send what is due of one (result, destination), SR first, in one association.

    The bytes are those that were frozen with the result. A second message finds the
    deliveries claimed or sent, and does nothing. Each outcome is committed as it
    comes, so a process killed half-way repeats at most one object, which the peer
    recognises by its SOP Instance UID.
    """
    result_id, destination = claim
    with sessions.begin() as session:
        claimed = outbox.claim(
            session, result_id, destination, settings.delivery_lease, now()
        )
    if not claimed:
        return
    files = {
        spool.absolute(delivery.path): delivery
        for delivery in claimed
        if _is_whole(sessions, spool, delivery)
    }
    for outcome in sender.send(Peer.parse(destination), settings.aet, files):
        _record(sessions, files[outcome.path], outcome)


def _is_whole(sessions: Sessions, spool: Spool, delivery: Delivery) -> bool:
    """Compare a document with the digest of its result; a damaged one is not sent."""
    try:
        spool.verify(delivery.path, delivery.sha256)
    except UnreadableObjectError as error:
        with sessions.begin() as session:
            outbox.failed(session, delivery, str(error), None, now())
        log.error(  # noqa: TRY400 - the error is the finding, its traceback is not
            "document damaged, not sent", extra={"delivery_id": delivery.delivery_id}
        )
        return False
    return True


def _record(sessions: Sessions, delivery: Delivery, outcome: SendOutcome) -> None:
    extra = {"delivery_id": delivery.delivery_id, "status": outcome.status}
    with sessions.begin() as session:
        if outcome.error is None and outcome.status is not None:
            outbox.sent(session, delivery, outcome.status, now())
            log.info("delivered", extra=extra)
        elif isinstance(outcome.error, TransientError):
            outbox.deferred(
                session, delivery, str(outcome.error), outcome.status, now()
            )
            log.warning("delivery deferred", extra=extra)
        else:
            outbox.failed(session, delivery, str(outcome.error), outcome.status, now())
            log.error("delivery failed", extra=extra)


@shared_task(name=queues.DELIVER, ignore_result=True)
def deliver_result(result_id: str, destination: str) -> None:
    """Run `deliver` with this process's database and spool."""
    deliver(
        (result_id, destination),
        runtime.sessions(),
        runtime.spool(),
        runtime.settings(),
    )
