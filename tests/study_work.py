"""The database work of one study, by the functions that do it in service.

From the first store to the last delivery sent, each step in the transactions that
listener, sweep, analysis and delivery make of it. Files, networks and models are left
out.
"""

import hashlib
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from dicom_node import (
    commitment,
    counters,
    ledger,
    outbox,
    pauses,
    purge,
    recorder,
    transfers,
)
from dicom_node.completion import QuietPeriods
from dicom_node.counters import Counted
from dicom_node.db import Sessions
from dicom_node.findings import Carrier, Document, Laterality, Roi, Selection
from dicom_node.ledger import Association, Claim
from dicom_node.recorder import Carried, Closed
from dicom_node.study import (
    Peer,
    ReceivedInstance,
    SopInstanceUid,
    StudyState,
    StudyUid,
)
from dicom_node.transfers import Went
from tests.grown import GSPS, INSTANCES, MR, SC, SR, SYNTAX
from tests.report_cases import pending
from worker import case, keeping, outcomes
from worker.case import AnalyzedCase, KeptInput, Timings
from worker.settings import WorkerSettings
from worker.tasks.dispatch import Broker, sweep

QUIET = QuietPeriods(timedelta(seconds=120))
LEASE = timedelta(minutes=10)
TAKEN = Counted(counters.STORES, "MR1", "0x0000")
SILENT = Broker(lambda *_, **__: None, lambda _queue: 0)
PACS = Peer("NEAR", "10.0.0.7", 104)
ARCHIVE = Peer("FAR", "10.0.0.8", 104)
"""Destinations of their own: what waits for others is not sent here."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a study is worked on."""

    sessions: Sessions
    settings: WorkerSettings

    @property
    def engine(self) -> Engine:
        """The database."""
        engine: Engine = self.sessions.kw["bind"]
        return engine


def new_uid(at: datetime) -> StudyUid:
    """Return the UID of a study as a scanner would make it at a time."""
    return StudyUid(f"1.3.12.2.1107.5.2.1.4117.{at:%Y%m%d%H%M%S%f}")


def whole(desk: Desk, at: datetime) -> StudyUid:
    """Receive, complete, analyse and deliver one study; return its UID."""
    uid = new_uid(at)
    receive(desk, uid, at)
    later = at + QUIET.default + timedelta(seconds=2)
    sweep(desk.sessions, SILENT, desk.settings, later)
    claim = take(desk, uid, later)
    analyse(desk, claim, later)
    sweep(desk.sessions, SILENT, desk.settings, later + timedelta(seconds=1))
    for destination in (PACS, ARCHIVE):
        deliver(desk, destination, later + timedelta(seconds=1))
    return uid


def idle_sweep(desk: Desk, at: datetime) -> None:
    """Sweep twice: the second time there is nothing to do."""
    for _ in range(2):
        sweep(desk.sessions, SILENT, desk.settings, at)


def receive(desk: Desk, uid: StudyUid, at: datetime) -> None:
    """Commit the first object alone, as the listener does, and then the others."""
    first, *others = [_arrival(uid, number, at) for number in range(INSTANCES)]
    opened = Association(str(uuid.uuid4()), "SENTINODE@node:11112", "MR1", "10.0.0.9")
    closed = Closed(opened.association_id, {uid: {MR: INSTANCES - 1, GSPS: 1}})
    with desk.sessions.begin() as session:
        recorder.write(session, [first, Carried(opened, uid)], QUIET, at)
    with desk.sessions.begin() as session:
        recorder.write(session, [*others, closed], QUIET, at + timedelta(seconds=1))
    with desk.sessions.begin() as session:
        counters.write(session, Counter({TAKEN: INSTANCES}))


def _arrival(uid: StudyUid, number: int, at: datetime) -> ReceivedInstance:
    sop = f"{uid}.{number}"
    digest = hashlib.sha256(sop.encode()).hexdigest()
    return ReceivedInstance(
        study_uid=uid,
        series_uid=f"{uid}.99",
        sop_instance_uid=SopInstanceUid(sop),
        sop_class_uid=MR if number else GSPS,
        transfer_syntax_uid=SYNTAX,
        path=Path(f"instances/{digest[:2]}/{digest}/{digest}.dcm"),
        size=524288,
        sha256=digest,
        patient_key=hashlib.sha256(uid.encode()).hexdigest(),
        calling_ae="MR1",
        received_at=at,
    )


def take(desk: Desk, uid: StudyUid, at: datetime) -> Claim:
    """Claim a study, and read what an analysis reads of the ledger."""
    with desk.sessions() as session:
        pauses.paused(session)
    with desk.sessions.begin() as session:
        claim = ledger.claim(session, uid, "worker", LEASE, at)
    assert claim is not None
    with desk.sessions() as session:
        purge.purged(session, uid)
        outcomes.cases(session, uid)
        outcomes.slnd_results(session, uid)
        outcomes.activations(session)
        outcomes.thresholds(session)
    return claim


def analyse(desk: Desk, claim: Claim, at: datetime) -> None:
    """Record a result with two documents, to two destinations."""
    uid = claim.study_uid
    analyzed = _analyzed(claim, at)
    result_id = analyzed.finding.result_id
    digest = hashlib.sha256(result_id.encode()).hexdigest()
    with desk.sessions.begin() as session:
        assert ledger.finish(session, claim, StudyState.ANALYZED, at, detail="side L")
        outcomes.record(session, uid, analyzed)
        keeping.record(session, result_id, uid, (digest, digest))
        frozen = [(one, Path(f"documents/{one.sha256}")) for one in analyzed.documents]
        outbox.enqueue(session, uid, result_id, frozen, (PACS, ARCHIVE), at)
        outcomes.slnd_results(session, uid)


def _analyzed(claim: Claim, at: datetime) -> AnalyzedCase:
    mark, image = (one.sop_instance_uid for one in claim.instances[:2])
    roi = Roi(image, 1, 20.0, 30.0, 44.0, 50.0, Carrier.GSPS, mark)
    side, path = Laterality.LEFT, Path("slice.dcm")
    why = ("1 rectangle on the left side",)
    chosen = Selection(
        roi, image, 1, path, "post-contrast 1", side, True, 480.0, 1, why
    )
    finding = replace(pending(chosen), result_id=str(uuid.uuid4()), created_at=at)
    documents = (_document("SR", SR), _document("SC", SC))
    kept = KeptInput(b"", "a" * 64, path, "b" * 64)
    return AnalyzedCase(
        case_id=case.case_id(claim.study_uid, side),
        finding=finding,
        documents=documents,
        input_sop_instance_uids=(image, mark),
        input_sha256="c" * 64,
        supersedes=None,
        timings=Timings(10.0, 10.0, 10.0, 10.0, 40.0),
        kept=kept,
        studied_on=at.date(),
        scanner="3.0T",
    )


def _document(kind: str, sop_class: str) -> Document:
    uid = SopInstanceUid(f"2.25.{uuid.uuid4().int}")
    return Document(kind, sop_class, uid, hashlib.sha256(uid.encode()).hexdigest(), b"")


def deliver(desk: Desk, destination: Peer, at: datetime) -> None:
    """Send what is due to one destination; each outcome is a transaction."""
    with desk.sessions() as session:
        pauses.paused(session)
    with desk.sessions.begin() as session:
        claimed = outbox.claim(session, str(destination), LEASE, at, 200)
    assert claimed
    studies = {one.study_uid for one in claimed}
    with desk.sessions.begin() as session:
        transfer = transfers.begin(session, str(destination), studies, at)
    for one in claimed:
        with desk.sessions.begin() as session:
            assert outbox.sent(session, one, 0, at)
    went = {
        uid: Went([one.sop_instance_uid for one in claimed if one.study_uid == uid])
        for uid in studies
    }
    for each in went.values():
        each.answered = True
    with desk.sessions.begin() as session:
        transfers.end(session, transfer, went, at)
    with desk.sessions() as session:
        pauses.paused(session)
    with desk.sessions.begin() as session:
        commitment.claim(session, str(destination), LEASE, at, 200)
