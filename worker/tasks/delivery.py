"""Sending what is due to one destination, and asking it to keep what it has."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from celery import shared_task

from dicom_node import (
    commitment,
    committer,
    outbox,
    pauses,
    sender,
    stow,
    transfers,
)
from dicom_node.commitment import Report, Request
from dicom_node.committer import Patience
from dicom_node.db import Clock, Sessions, now
from dicom_node.destination import Destination, parse_destination
from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    TransientError,
    UnreadableObjectError,
)
from dicom_node.outbox import Delivery
from dicom_node.report import fallback, gate
from dicom_node.sender import Handling
from dicom_node.spool import Spool
from dicom_node.statuses import SendOutcome, meaning, written
from dicom_node.study import Peer, StudyUid
from dicom_node.tables import Pausable
from dicom_node.transfers import Went
from worker import queues, runtime
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

BATCH: Final = 200
"""Documents that one association carries at most."""

MAX_OBJECTS: Final = 200
"""Objects that one request for storage commitment names at most."""

SHARE_OF_TIME: Final = 0.5
"""The part of the task's time limit after which no further document is begun."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a delivery needs of its installation; `clock` tells the time."""

    sessions: Sessions
    spool: Spool
    settings: WorkerSettings
    clock: Clock = now


@dataclass(slots=True)
class Round:
    """What one exchange with a destination has done so far.

    A document is held back when an earlier one of its study must be sent again: at
    the destination none overtakes another.
    """

    site: Site
    files: Mapping[Path, Delivery]
    end_at: datetime
    waiting: set[StudyUid] = field(default_factory=set)
    settled: set[Path] = field(default_factory=set)
    went: defaultdict[str, Went] = field(default_factory=lambda: defaultdict(Went))

    def skip(self, path: Path) -> bool:
        """Say whether a file must not go out in this round."""
        late = self.site.clock() >= self.end_at
        return late or self.files[path].study_uid in self.waiting

    def note(self, outcome: SendOutcome) -> None:
        """Remember how one file went."""
        delivery = self.files[outcome.path]
        self.settled.add(outcome.path)
        if isinstance(outcome.error, TransientError):
            self.waiting.add(delivery.study_uid)
        went = self.went[delivery.study_uid]
        went.answered |= outcome.status is not None
        if outcome.error is None:
            went.taken.append(outcome.sop_instance_uid or delivery.sop_instance_uid)
        else:
            went.failed += 1

    def stand_in(self, path: Path, sop_class_uid: str) -> Path:
        """Return the frozen file of a report as another SOP class.

        Raises:
            UnreadableObjectError: It cannot be written, or its bytes changed.
            SpoolFullError: There is no room for it now.
        """
        site, delivery = self.site, self.files[path]
        uid = delivery.sop_instance_uid
        with site.sessions() as session:
            known = outbox.variant(session, uid, sop_class_uid)
        if known is not None:
            site.spool.verify(known.path, known.sha256)
            return site.spool.fetch(known.path)
        original = site.spool.read_document(delivery.path)
        document = fallback.as_class(original, delivery.kind, sop_class_uid)
        faults = gate.faults(document)
        if faults:
            raise UnreadableObjectError(f"it must not be sent: {'; '.join(faults)}")
        frozen = site.spool.write_document(document.sha256, document.content)
        with site.sessions.begin() as session:
            outbox.add_variant(session, delivery, document, frozen, site.clock())
        return site.spool.fetch(frozen)


def deliver(destination: str, site: Site) -> None:
    """Send what is due to one destination, over one association, then ask to commit.

    The bytes are those that were frozen with the result. A second message finds the
    deliveries claimed or sent, and does nothing. Each outcome is committed as it
    comes, so a process killed half-way repeats at most one object, which the peer
    recognises by its SOP Instance UID. While the queue is paused nothing is sent: a
    pause ends the round after its batch.
    """
    target = parse_destination(destination)
    end_at = site.clock() + site.settings.delivery_time_limit * SHARE_OF_TIME
    while not _is_paused(site) and _send_due(target, site, end_at):
        pass
    if isinstance(target, Peer) and not _is_paused(site):
        _ask_commitment(target, site)


def _is_paused(site: Site) -> bool:
    with site.sessions() as session:
        return Pausable.DELIVERY in pauses.paused(session)


def _send_due(target: Destination, site: Site, end_at: datetime) -> bool:
    """Send one batch; say whether to go on with the next: all is well, and more due."""
    settings = site.settings
    with site.sessions.begin() as session:
        claimed = outbox.claim(
            session, str(target), settings.delivery_lease, site.clock(), BATCH
        )
    files = {
        site.spool.fetch(delivery.path): delivery
        for delivery in claimed
        if _is_whole(site, delivery)
    }
    if not files:
        return False
    this = Round(site, files, end_at)
    studies = {delivery.study_uid for delivery in files.values()}
    with site.sessions.begin() as session:
        transfer = transfers.begin(session, str(target), studies, site.clock())
    for outcome in _exchange(target, this):
        this.note(outcome)
        _record(target, site, files[outcome.path], outcome)
    _give_back(this)
    with site.sessions.begin() as session:
        transfers.end(session, transfer, this.went, site.clock())
    return len(claimed) == BATCH and not this.waiting and site.clock() < end_at


def _exchange(target: Destination, this: Round) -> Iterator[SendOutcome]:
    settings = this.site.settings
    timeout = settings.answer_timeout.total_seconds()
    handling = Handling(this.skip, this.stand_in, settings.native_store)
    if isinstance(target, Peer):
        return sender.send(target, settings.caller, this.files, timeout, handling)
    credentials = settings.stow_credentials
    return stow.send(target, this.files, credentials, timeout, handling)


def _give_back(this: Round) -> None:
    """Let go of what had no turn; what waits for an earlier document, waits as long."""
    site = this.site
    with site.sessions.begin() as session:
        for path, delivery in this.files.items():
            if path not in this.settled:
                outbox.give_back(session, delivery)


def _is_whole(site: Site, delivery: Delivery) -> bool:
    """Compare a document with the digest of its result; a damaged one is not sent."""
    try:
        site.spool.verify(delivery.path, delivery.sha256)
    except UnreadableObjectError as error:
        with site.sessions.begin() as session:
            outbox.failed(session, delivery, str(error), None, site.clock())
        log.error(  # noqa: TRY400 - the error is the finding, its traceback is not
            "document damaged, not sent", extra={"delivery_id": delivery.delivery_id}
        )
        return False
    return True


def _record(
    target: Destination, site: Site, delivery: Delivery, outcome: SendOutcome
) -> None:
    status, error, at = outcome.status, outcome.error, site.clock()
    extra = {
        "delivery_id": delivery.delivery_id,
        "destination": str(target),
        "status": None if status is None else f"{written(status)} {meaning(status)}",
    }
    with site.sessions.begin() as session:
        if error is None and status is not None:
            sent_as = outcome.sop_instance_uid
            kept = outbox.sent(session, delivery, status, at, sent_as)
            if kept and site.settings.commits(target):
                commitment.want(session, delivery.delivery_id, at)
            log.log(logging.WARNING if status else logging.INFO, "sent", extra=extra)
        elif isinstance(error, TransientError):
            endurance = _endurance(site.settings)
            outbox.deferred(session, delivery, str(error), status, at, endurance)
            log.warning("delivery deferred", extra=extra)
        else:
            outbox.failed(session, delivery, str(error), status, at)
            log.error("delivery failed", extra=extra)


def _endurance(settings: WorkerSettings) -> outbox.Endurance:
    return outbox.Endurance(settings.retry_after, settings.give_up_after)


def _ask_commitment(peer: Peer, site: Site) -> None:
    """Ask for the commitment of what is due for it, and enter what is reported."""
    settings = site.settings
    with site.sessions.begin() as session:
        request = commitment.claim(
            session, str(peer), settings.commit_timeout, site.clock(), MAX_OBJECTS
        )
    if request is None:
        return
    extra = {"destination": str(peer), "transaction_uid": request.transaction_uid}
    try:
        committer.ask(
            peer, settings.caller, request, _entering(site), _patience(settings)
        )
    except PeerUnavailableError as error:
        _postpone(site, request, str(error))
        log.warning("commitment not asked for", extra=extra)
    except PeerRejectedError as error:
        with site.sessions.begin() as session:
            commitment.refused(session, request, str(error), site.clock())
        log.warning("commitment refused", extra=extra)
    else:
        log.info("commitment asked for", extra=extra)


def _entering(site: Site) -> committer.Enter:
    def enter(report: Report) -> bool:
        with site.sessions.begin() as session:
            return commitment.reported(session, report, site.clock())

    return enter


def _patience(settings: WorkerSettings) -> Patience:
    return Patience(
        settings.answer_timeout.total_seconds(), settings.commit_wait.total_seconds()
    )


def _postpone(site: Site, request: Request, why: str) -> None:
    at = site.clock()
    give_up_before = at - site.settings.give_up_after
    with site.sessions.begin() as session:
        commitment.postponed(session, request, why, give_up_before, at)


@shared_task(name=queues.DELIVER, ignore_result=True)
def deliver_due(destination: str) -> None:
    """Run `deliver` with this process's database and spool."""
    site = Site(runtime.sessions(), runtime.spool(), runtime.settings())
    deliver(destination, site)
