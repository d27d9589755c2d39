"""What age purges and what it never does, over every state that a study can be in."""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select, update

from dicom_node import kept, ledger, outbox
from dicom_node.db import now
from dicom_node.ledger import Conflict
from dicom_node.study import Peer, Reason, SopInstanceUid, StudyState, StudyUid
from dicom_node.tables import DeliveryRow, DeliveryState, DocumentRow, StudyRow
from tests import archives, dicom_objects
from tests.live_site import Crowd
from worker import keeping, retention
from worker.retention import Store

RETENTION = timedelta(days=90)
PACS = Peer("PACS", "127.0.0.1", 9)
AT_REST = {StudyState.ANALYZED, StudyState.FAILED, StudyState.IGNORED}
LACKING = {Reason.NO_ROI, Reason.ROI_IMAGE_MISSING, Reason.INCOMPLETE}
HELD_FOR = (Reason.NO_ROI, Reason.IMAGES_PURGED, Reason.QUALITY, Reason.BY_HAND)
STANDINGS = [
    *((state, None) for state in StudyState if state is not StudyState.HELD),
    *((StudyState.HELD, reason) for reason in HELD_FOR),
]


@dataclass(frozen=True)
class Kind:
    """One combination of what decides whether images are still needed."""

    state: StudyState
    reason: Reason | None
    old: bool
    contradicts: bool
    has_case: bool

    @property
    def may_go(self) -> bool:
        """Say what the policy promises, in other words than the code."""
        if not self.old or self.contradicts:
            return False
        if self.state is StudyState.HELD:
            return self.reason in LACKING | {Reason.IMAGES_PURGED}
        return self.state in AT_REST


@dataclass(frozen=True)
class Made:
    kind: Kind
    uid: StudyUid
    image: Path
    mark: Path


@pytest.fixture
def studies(bench, study, slices):
    """One study of each kind, each with its image, its mark and a due report."""
    crowd = Crowd(bench, study, slices[4])
    kinds = [
        Kind(*standing, *flags)
        for standing, flags in (
            (standing, flags)
            for standing in STANDINGS
            for flags in product((False, True), repeat=3)
        )
    ]
    return [make(bench, crowd, kind) for kind in kinds]


def make(bench, crowd: Crowd, kind: Kind) -> Made:
    if kind.has_case:
        _, uid = crowd.add(positive=True, labelled=False)  # awaits the dissection
    else:
        uid = bench.receive(crowd.draw(positive=False, gain=1.0))
    image = path_of(bench, uid)
    mark = add_mark(bench, image)
    if kind.contradicts:
        contradict(bench, image)
    add_delivery(bench, uid)
    age = RETENTION + timedelta(days=1) if kind.old else timedelta(days=1)
    with bench.sessions.begin() as session:
        session.execute(
            update(StudyRow)
            .where(StudyRow.study_uid == uid)
            .values(state=kind.state, reason=kind.reason, last_received_at=now() - age)
        )
    return Made(kind, uid, image, mark)


def path_of(bench, uid: StudyUid) -> Path:
    with bench.sessions() as session:
        (one,) = ledger.instances(session, uid)
    return one.path


def add_mark(bench, image: Path) -> Path:
    mark = dicom_objects.gsps_rectangle([dcmread(bench.site.spool.absolute(image))])
    mark.SOPInstanceUID = f"2.25.{uuid.uuid4().int}"
    mark.file_meta.MediaStorageSOPInstanceUID = mark.SOPInstanceUID
    bench.receive(mark)
    with bench.sessions() as session:
        found = ledger.instance(session, SopInstanceUid(mark.SOPInstanceUID))
    return found.path


def contradict(bench, image: Path) -> None:
    """Let an image come again with other pixels."""
    again = dcmread(bench.site.spool.absolute(image))
    again.PixelData = bytes(len(again.PixelData))
    kept_one = bench.keep(again)
    assert isinstance(kept_one, Conflict)
    with bench.sessions.begin() as session:
        ledger.record_conflict(session, kept_one, now())


def add_delivery(bench, uid: StudyUid) -> None:
    report = archives.document("SC", f"2.25.{uuid.uuid4().int}", uid)
    path = bench.site.spool.write_document(report.sha256, report.content)
    with bench.sessions.begin() as session:
        outbox.enqueue(session, uid, str(uuid.uuid4()), [(report, path)], [PACS], now())


def test_age_purges_what_the_policy_names_and_nothing_that_is_needed(bench, studies):
    spool = bench.site.spool
    retention.sweep(Store(bench.sessions, spool), RETENTION, now())
    there = {one.uid: spool.absolute(one.image).exists() for one in studies}
    assert {one.kind for one in studies if not there[one.uid]} == {
        one.kind for one in studies if one.kind.may_go
    }
    assert all(spool.absolute(one.mark).exists() for one in studies)
    with bench.sessions() as session:
        wanted = keeping.current(session)
        due = session.scalars(
            select(DocumentRow)
            .join(
                DeliveryRow,
                DeliveryRow.sop_instance_uid == DocumentRow.sop_instance_uid,
            )
            .where(DeliveryRow.state == DeliveryState.DUE)
        ).all()
        assert keeping.missing(session, spool) == []
    assert {one.uid for one in studies if one.kind.has_case} <= {
        one.study_uid for one in wanted
    }
    for one in wanted:  # stage II of every open case can still run
        kept.check_slice(spool, one.slice_sha256)
        kept.read_crop(spool, one.crop_sha256)
    assert len(due) >= len(studies)
    for row in due:
        spool.verify(Path(row.path), row.sha256)
    by_name = Kind(StudyState.HELD, Reason.QUALITY, True, False, False)
    (held,) = (one for one in studies if one.kind == by_name)
    retention.purge_study(Store(bench.sessions, spool), held.uid, now())
    assert not spool.absolute(held.image).exists()  # a person may, age may not
