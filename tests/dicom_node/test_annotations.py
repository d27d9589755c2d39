"""Documents that mark images of another study, on both databases."""

from datetime import timedelta

import pytest

from dicom_node import ledger, outbox
from dicom_node.db import now
from dicom_node.findings import Document
from dicom_node.study import Peer, Reason, SopInstanceUid, StudyState, StudyUid
from tests.dicom_node.conftest import QUIET, SR, STUDY, T0, arrival, receive

NOTES = StudyUid("9.9")
MARK = SopInstanceUid("9.9.1")
IMAGE = SopInstanceUid("1.2.3.4.5.1")
LATER = T0 + timedelta(seconds=121)
LEASE = timedelta(minutes=2)
NO_IMAGE = (StudyState.IGNORED, Reason.NOT_BREAST_MR, "no image")
NO_ROI = (StudyState.HELD, Reason.NO_ROI, "no rectangle")


def look(sessions, uid=STUDY):
    with sessions() as session:
        return ledger.study(session, uid)


def history(sessions, uid=STUDY):
    with sessions() as session:
        return [event.what for event in ledger.events(session, uid)]


def receive_mark(sessions, at=T0, **changes):
    mark = arrival(study_uid=NOTES, sop_instance_uid=MARK, sop_class_uid=SR, **changes)
    receive(sessions, mark, at=at)


def claim(sessions, uid=STUDY, at=LATER):
    with sessions.begin() as session:
        ledger.complete_due(session, at)
        return ledger.claim(session, uid, "w1", LEASE, at)


def read_mark(sessions, *images, at=LATER):
    """What a worker does with the study of the mark: remember, and conclude."""
    taken = claim(sessions, NOTES, at)
    with sessions.begin() as session:
        ledger.refer(session, {MARK: images or (IMAGE,)}, at)
    with sessions.begin() as session:
        ledger.conclude(session, taken, NO_IMAGE, at)


def match(sessions, at=LATER):
    with sessions.begin() as session:
        return ledger.match(session, at)


def analyzed(sessions):
    receive(sessions)
    taken = claim(sessions)
    with sessions.begin() as session:
        assert ledger.finish(session, taken, StudyState.ANALYZED, LATER)


def test_a_mark_whose_image_is_not_here_waits_for_it(sessions):
    receive_mark(sessions)
    read_mark(sessions)
    assert match(sessions) == []
    study = look(sessions, NOTES)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.ROI_IMAGE_MISSING)
    assert IMAGE in study.detail


def test_an_image_that_comes_after_years_is_found_by_the_next_sweep(sessions):
    receive_mark(sessions)
    read_mark(sessions)
    years_later = LATER + timedelta(days=1000)
    receive(sessions, at=years_later)
    assert match(sessions, years_later + QUIET.default) == [STUDY]


def test_what_no_sweep_saw_for_days_is_found_when_all_is_looked_at(sessions):
    receive_mark(sessions)
    read_mark(sessions)
    receive(sessions, at=LATER)
    days_later = LATER + timedelta(days=3)
    assert match(sessions, days_later) == []
    with sessions.begin() as session:
        assert ledger.match(session, days_later, ever=True) == [STUDY]


@pytest.mark.parametrize("outcome", [NO_ROI, (StudyState.ANALYZED, None, None)])
def test_the_study_of_the_image_is_queued_and_gets_the_document(sessions, outcome):
    receive(sessions)
    taken = claim(sessions)
    state, reason, detail = outcome
    with sessions.begin() as session:
        ledger.finish(session, taken, state, LATER, reason, detail)
    receive_mark(sessions, at=LATER)
    read_mark(sessions, at=LATER + QUIET.default)

    assert match(sessions) == [STUDY]
    assert match(sessions) == []

    assert look(sessions).state is StudyState.QUEUED
    notes = look(sessions, NOTES)
    assert (notes.state, notes.reason) == (
        StudyState.IGNORED,
        Reason.ANNOTATES_OTHER_STUDY,
    )
    assert STUDY in notes.detail
    (document,) = claim(sessions).foreign
    assert document.stored.sop_instance_uid == MARK
    assert document.study_uid == NOTES


def test_images_that_come_later_find_the_mark_that_waits(sessions):
    receive_mark(sessions)
    read_mark(sessions)
    receive(sessions, at=LATER)

    assert match(sessions) == [STUDY]

    assert look(sessions).state is StudyState.RECEIVING
    assert look(sessions, NOTES).reason is Reason.ANNOTATES_OTHER_STUDY
    taken = claim(sessions, at=LATER + QUIET.default)
    assert [one.study_uid for one in taken.foreign] == [NOTES]


def test_a_mark_takes_the_study_from_a_worker_that_does_not_know_it(sessions):
    receive(sessions)
    receive_mark(sessions)
    lost = claim(sessions)
    read_mark(sessions)
    match(sessions)
    with sessions.begin() as session:
        assert not ledger.finish(session, lost, StudyState.ANALYZED, LATER)
    assert look(sessions).state is StudyState.QUEUED


@pytest.mark.parametrize(
    "changes",
    [{"patient_key": "b" * 64}, {"issuer_key": "j" * 64}],
    ids=["another ID", "another issuer"],
)
def test_a_mark_of_another_patient_is_never_used(sessions, changes):
    receive(sessions, arrival(issuer_key="i" * 64))
    receive_mark(sessions, **changes)
    read_mark(sessions)

    assert match(sessions) == []

    notes = look(sessions, NOTES)
    assert (notes.state, notes.reason) == (StudyState.HELD, Reason.PATIENT_MISMATCH)
    assert STUDY in notes.detail
    assert claim(sessions).foreign == ()
    assert "refused" in history(sessions)


def test_a_study_with_images_of_its_own_ends_as_it_would_and_says_where(sessions):
    receive(sessions)
    receive(sessions, arrival(7, study_uid=NOTES))
    receive_mark(sessions)
    taken = claim(sessions, NOTES)
    with sessions.begin() as session:
        ledger.refer(session, {MARK: (IMAGE,)}, LATER)
    with sessions.begin() as session:
        ledger.conclude(session, taken, NO_ROI, LATER)
    match(sessions)

    notes = look(sessions, NOTES)
    assert (notes.state, notes.reason) == (StudyState.HELD, Reason.NO_ROI)
    assert notes.detail.startswith("no rectangle")
    assert STUDY in notes.detail


def test_a_mark_read_again_queues_nothing_again(sessions):
    analyzed(sessions)
    receive_mark(sessions, at=LATER)
    read_mark(sessions, at=LATER + QUIET.default)
    match(sessions)
    taken = claim(sessions)
    with sessions.begin() as session:
        ledger.finish(session, taken, StudyState.ANALYZED, LATER)
        ledger.requeue(session, NOTES, LATER, "by hand")
    read_mark(sessions)

    assert match(sessions) == []
    assert look(sessions).state is StudyState.ANALYZED
    assert look(sessions, NOTES).reason is Reason.ANNOTATES_OTHER_STUDY


def test_a_study_that_contradicts_itself_is_not_queued_by_a_mark(sessions):
    receive(sessions, arrival(1), arrival(2, patient_key="b" * 64))
    receive_mark(sessions)
    assert claim(sessions) is None
    read_mark(sessions)
    match(sessions)
    assert look(sessions).reason is Reason.PATIENT_MISMATCH


def test_a_contradiction_of_the_annotating_study_stays_what_it_is(sessions):
    receive_mark(sessions)
    with sessions.begin() as session:
        ledger.refer(session, {MARK: (IMAGE,)}, T0)
    taken = claim(sessions, NOTES)
    clash = (StudyState.HELD, Reason.DUPLICATE_DIFFERS, "look at the sender")
    with sessions.begin() as session:
        ledger.conclude(session, taken, clash, LATER)
    assert look(sessions, NOTES).reason is Reason.DUPLICATE_DIFFERS


def test_our_own_report_is_no_image_to_mark(sessions, tmp_path):
    analyzed(sessions)
    document = Document("SC", "1.2", SopInstanceUid("1.9"), "0" * 64, b"x")
    with sessions.begin() as session:
        outbox.enqueue(
            session, STUDY, "r1", [(document, tmp_path)], [Peer("P", "h", 1)], now()
        )
    receive(sessions, arrival(sop_instance_uid=SopInstanceUid("1.9")))
    receive_mark(sessions, at=LATER)
    read_mark(sessions, SopInstanceUid("1.9"), at=LATER + QUIET.default)
    assert match(sessions) == []


def test_an_image_that_comes_under_the_documents_own_study_is_its_own(sessions):
    receive_mark(sessions)
    read_mark(sessions)
    receive(sessions, arrival(1, study_uid=NOTES), at=LATER)
    assert match(sessions) == []
    taken = claim(sessions, NOTES, LATER + QUIET.default)
    assert taken.foreign == ()
    assert len(taken.instances) == 2


def test_a_document_about_two_studies_counts_for_both(sessions):
    prior = StudyUid("7.7")
    receive(sessions, arrival(1), arrival(2, study_uid=prior))
    receive_mark(sessions)
    read_mark(sessions, IMAGE, arrival(2).sop_instance_uid)

    assert sorted(match(sessions)) == [STUDY, prior]
    detail = look(sessions, NOTES).detail
    assert STUDY in detail
    assert prior in detail
    assert [one.study_uid for one in claim(sessions, prior).foreign] == [NOTES]


def test_many_references_are_remembered_whole(sessions):
    receive_mark(sessions)
    images = [SopInstanceUid(f"1.2.3.4.5.{number}") for number in range(1, 1500)]
    with sessions.begin() as session:
        ledger.refer(session, {MARK: images}, T0)
        ledger.refer(session, {MARK: images}, T0)
    receive(sessions, arrival(1400))
    assert match(sessions) == [STUDY]
