"""Early ends of the wait, and counts of the archive, on both databases."""

from datetime import timedelta

import pytest

from dicom_node import ledger
from dicom_node.completion import UNANSWERED_PAUSES
from dicom_node.findings import Laterality
from dicom_node.ledger import Association, Mark
from dicom_node.study import Reason, StudyState
from tests.dicom_node.conftest import CALLER, QUIET, SR, STUDY, T0, arrival, receive

LATER = T0 + timedelta(seconds=121)
LEASE = timedelta(minutes=2)


def look(sessions, uid=STUDY):
    with sessions() as session:
        return ledger.study(session, uid)


def history(sessions):
    with sessions() as session:
        return [event.what for event in ledger.events(session, STUDY)]


def unexamined(sessions, at=T0):
    with sessions.begin() as session:
        return ledger.take_unexamined(session, at, 9)


def early(sessions, revision, at=T0):
    with sessions.begin() as session:
        return ledger.complete_early(session, STUDY, revision, at)


def connect(sessions, name="a1"):
    with sessions.begin() as session:
        association = Association(name, "L@h:104", CALLER, "127.0.0.1")
        ledger.open_association(session, association, T0)
        ledger.carries(session, name, STUDY)


def disconnect(sessions, name="a1"):
    with sessions.begin() as session:
        ledger.close_association(session, name, T0)


def queued(sessions, *arrivals, at=LATER):
    receive(sessions, *arrivals)
    with sessions.begin() as session:
        assert ledger.complete_due(session, at) == [STUDY]


def uncounted(sessions, at=LATER):
    with sessions.begin() as session:
        return ledger.take_uncounted(session, at, LEASE, 9)


def announced(sessions, at=LATER):
    with sessions() as session:
        return ledger.unannounced(session, at, LEASE, 9, counted=True)


# Early ends of the wait


def test_a_study_with_image_and_rectangle_is_looked_at_once_for_each_change(sessions):
    receive(sessions, arrival(1))
    assert unexamined(sessions) == []
    receive(sessions, arrival(2, sop_class_uid=SR))
    assert unexamined(sessions) == [STUDY]
    assert unexamined(sessions) == []
    receive(sessions, arrival(1))  # the same once more
    assert unexamined(sessions) == []
    receive(sessions, arrival(3))
    assert unexamined(sessions) == [STUDY]


def test_a_study_is_not_looked_at_while_an_association_carries_it(sessions):
    receive(sessions, arrival(1), arrival(2, sop_class_uid=SR))
    connect(sessions)
    assert unexamined(sessions) == []
    disconnect(sessions)
    assert unexamined(sessions) == [STUDY]


def test_a_study_that_is_due_anyway_is_not_looked_at(sessions):
    receive(sessions, arrival(1), arrival(2, sop_class_uid=SR))
    assert unexamined(sessions, LATER) == []


def test_a_rectangle_set_by_hand_makes_a_study_worth_a_look(sessions):
    receive(sessions, arrival(1))
    box = (1.0, 2.0, 9.0, 9.0)
    uid = arrival(1).sop_instance_uid
    mark = Mark(STUDY, Laterality.LEFT, uid, 1, box, None, "me", T0)
    with sessions.begin() as session:
        ledger.set_mark(session, mark)
    assert unexamined(sessions) == [STUDY]


def test_a_ready_study_is_queued_at_once(sessions):
    receive(sessions, arrival(1), arrival(2, sop_class_uid=SR))
    assert early(sessions, 2)
    assert look(sessions).state is StudyState.QUEUED
    assert not early(sessions, 2)


@pytest.mark.parametrize("change", ["arrival", "association", "contradiction"])
def test_what_changed_since_the_look_keeps_a_study_waiting(sessions, change):
    receive(sessions, arrival(1), arrival(2, sop_class_uid=SR))
    revision = 2
    if change == "arrival":
        receive(sessions, arrival(3))
    elif change == "association":
        connect(sessions)
    else:
        receive(sessions, arrival(4, patient_key="b" * 64))
        revision = 3
    assert not early(sessions, revision)
    assert look(sessions).state is StudyState.RECEIVING


# Counts of the archive


def test_a_queued_study_is_announced_when_its_counts_agree(sessions):
    queued(sessions)
    assert announced(sessions) == []
    assert uncounted(sessions) == [STUDY]
    with sessions.begin() as session:
        ledger.count_agreed(session, STUDY, 1)
    assert announced(sessions) == [STUDY]
    assert uncounted(sessions) == []


def test_without_an_archive_to_ask_nothing_is_waited_for(sessions):
    queued(sessions)
    with sessions() as session:
        assert ledger.unannounced(session, LATER, LEASE, 9) == [STUDY]


def test_one_caller_asks_at_a_time_and_a_lost_one_is_replaced(sessions):
    queued(sessions)
    assert uncounted(sessions) == [STUDY]
    assert uncounted(sessions) == []
    assert uncounted(sessions, LATER + LEASE) == [STUDY]


def test_a_study_with_more_at_the_archive_is_held_with_the_numbers(sessions):
    queued(sessions)
    with sessions.begin() as session:
        assert ledger.count_differed(session, STUDY, 1, "1 here, 2 there", LATER)
    study = look(sessions)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.INCOMPLETE)
    assert study.detail == "1 here, 2 there"
    assert history(sessions)[-1] == "held"


def test_an_arrival_makes_an_incomplete_study_due_and_counted_anew(sessions):
    queued(sessions)
    with sessions.begin() as session:
        ledger.count_differed(session, STUDY, 1, "why", LATER)
    receive(sessions, arrival(2), at=LATER)
    with sessions.begin() as session:
        assert ledger.complete_due(session, LATER) == [STUDY]
    assert uncounted(sessions) == [STUDY]


def test_a_person_who_requeues_an_incomplete_study_has_it_counted_anew(sessions):
    queued(sessions)
    with sessions.begin() as session:
        ledger.count_differed(session, STUDY, 1, "why", LATER)
        ledger.requeue(session, STUDY, LATER, "by hand")
    assert announced(sessions) == []
    assert uncounted(sessions) == [STUDY]


def test_counts_stand_until_another_object_comes(sessions):
    queued(sessions)
    with sessions.begin() as session:
        ledger.count_agreed(session, STUDY, 1)
        taken = ledger.claim(session, STUDY, "w", LEASE, LATER)
        ledger.finish(session, taken, StudyState.ANALYZED, LATER)
        ledger.requeue(session, STUDY, LATER, "SLND")
    assert announced(sessions) == [STUDY]
    receive(sessions, arrival(2), at=LATER)
    with sessions.begin() as session:
        ledger.complete_due(session, LATER + QUIET.default)
    assert uncounted(sessions, LATER + QUIET.default) == [STUDY]


def test_counts_of_a_study_that_changed_meanwhile_hold_nothing(sessions):
    queued(sessions)
    receive(sessions, arrival(2), at=LATER)
    with sessions.begin() as session:
        assert not ledger.count_differed(session, STUDY, 1, "why", LATER)
    assert look(sessions).state is StudyState.RECEIVING


def test_an_archive_that_never_answers_stops_no_study_for_ever(sessions):
    queued(sessions)
    at = LATER
    for pause in UNANSWERED_PAUSES:
        assert uncounted(sessions, at) == [STUDY]
        with sessions.begin() as session:
            assert ledger.count_unanswered(session, STUDY, "no one", at) == pause
        assert uncounted(sessions, at + pause - timedelta(seconds=1)) == []
        at += pause
    assert uncounted(sessions, at) == [STUDY]
    with sessions.begin() as session:
        assert ledger.count_unanswered(session, STUDY, "no one", at) is None
    assert announced(sessions, at) == [STUDY]
    assert history(sessions)[-1] == "warning"
