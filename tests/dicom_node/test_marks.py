"""Rectangles set by hand, on both databases."""

from datetime import timedelta

import pytest

from dicom_node import ledger
from dicom_node.errors import StudyStateError
from dicom_node.findings import Carrier, Laterality
from dicom_node.ledger import Mark
from dicom_node.study import Reason, StudyState
from tests.dicom_node.conftest import STUDY, T0, arrival, receive

LATER = T0 + timedelta(seconds=121)
LEASE = timedelta(minutes=2)
BOX = (1.5, 2.0, 30.0, 40.25)
LEFT, RIGHT = Laterality.LEFT, Laterality.RIGHT


def put(sessions, box=BOX, side=LEFT, number=1, at=LATER):
    image = arrival(number).sop_instance_uid
    mark = Mark(STUDY, side, image, 1, box, "a note", "operator", at)
    with sessions.begin() as session:
        return ledger.set_mark(session, mark)


def rois(sessions):
    with sessions() as session:
        return ledger.manual_rois(session, STUDY)


def look(sessions):
    with sessions() as session:
        return ledger.study(session, STUDY)


def claim(sessions):
    with sessions.begin() as session:
        ledger.complete_due(session, LATER)
        return ledger.claim(session, STUDY, "w1", LEASE, LATER)


def ended(sessions, state, reason=None):
    receive(sessions, arrival(1), arrival(2))
    taken = claim(sessions)
    with sessions.begin() as session:
        ledger.finish(session, taken, state, LATER, reason, "why")


def test_a_rectangle_set_by_hand_names_who_set_it_and_decides(sessions):
    receive(sessions)
    put(sessions)
    (roi,) = rois(sessions)
    assert roi.box == BOX
    assert (roi.carrier, roi.carrier_sop_instance_uid) == (Carrier.MANUAL, None)
    assert (roi.author, roi.marked_at, roi.adjudicator) == ("operator", LATER, True)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (StudyState.HELD, Reason.NO_ROI),
        (StudyState.ANALYZED, None),
        (StudyState.FAILED, Reason.UNREADABLE),
        (StudyState.IGNORED, Reason.NOT_BREAST_MR),
    ],
)
def test_it_queues_a_study_that_came_to_an_end(sessions, state, reason):
    ended(sessions, state, reason)
    assert put(sessions) is StudyState.QUEUED
    assert claim(sessions).manual == rois(sessions)


def test_it_waits_with_a_study_that_still_receives(sessions):
    receive(sessions)
    assert put(sessions, at=T0) is StudyState.RECEIVING
    assert claim(sessions).manual == rois(sessions)


def test_it_takes_the_study_from_a_worker_that_does_not_know_it(sessions):
    receive(sessions)
    lost = claim(sessions)
    assert put(sessions) is StudyState.QUEUED
    with sessions.begin() as session:
        assert not ledger.finish(session, lost, StudyState.ANALYZED, LATER)


def test_a_study_that_contradicts_itself_takes_none(sessions):
    receive(sessions, arrival(1), arrival(2, patient_key="b" * 64))
    claim(sessions)
    with pytest.raises(StudyStateError, match="another patient"):
        put(sessions)
    assert rois(sessions) == ()


def test_of_each_side_the_newest_counts_and_all_are_kept(sessions):
    receive(sessions, arrival(1), arrival(2))
    put(sessions)
    put(sessions, (3.0, 3.0, 9.0, 9.0), number=2)
    put(sessions, (5.0, 5.0, 20.0, 20.0), RIGHT)
    boxes = {roi.box for roi in rois(sessions)}
    assert boxes == {(3.0, 3.0, 9.0, 9.0), (5.0, 5.0, 20.0, 20.0)}
    with sessions() as session:
        history = ledger.mark_history(session)
    assert history[0].box == BOX
    assert {one.note for one in history} == {"a note"}


def test_what_is_taken_back_counts_no_more_and_is_kept(sessions):
    receive(sessions)
    put(sessions)
    put(sessions, None)
    assert rois(sessions) == ()
    with sessions() as session:
        assert [one.box for one in ledger.mark_history(session, STUDY)] == [BOX, None]
    put(sessions)
    assert len(rois(sessions)) == 1
