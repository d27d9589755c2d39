import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node import ledger, outbox
from dicom_node.completion import ABANDONED_AFTER
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.findings import Document
from dicom_node.ledger import Association, Conflict
from dicom_node.study import Peer, Reason, SopInstanceUid, StudyState, StudyUid
from dicom_node.tables import InstanceRow
from tests.dicom_node.conftest import (
    CALLER,
    QUIET,
    SR,
    STUDY,
    T0,
    arrival,
    receive,
)

LATER = T0 + timedelta(seconds=121)
LEASE = timedelta(minutes=2)
LISTENER = "SENTINODE@host:104"


def look(sessions, uid=STUDY):
    with sessions() as session:
        return ledger.study(session, uid)


def history(sessions, uid=STUDY):
    with sessions() as session:
        return [event.what for event in ledger.events(session, uid)]


def complete(sessions, at=LATER):
    with sessions.begin() as session:
        return ledger.complete_due(session, at)


def claim(sessions, at=LATER, worker="w1"):
    with sessions.begin() as session:
        return ledger.claim(session, STUDY, worker, LEASE, at)


def finish(sessions, held, state=StudyState.ANALYZED, **why):
    with sessions.begin() as session:
        return ledger.finish(session, held, state, LATER, **why)


def claimed(sessions, *arrivals):
    receive(sessions, *arrivals)
    complete(sessions)
    return claim(sessions)


def analyzed(sessions):
    assert finish(sessions, claimed(sessions))


def held(sessions, reason=Reason.NO_ROI):
    assert finish(
        sessions, claimed(sessions), StudyState.HELD, reason=reason, detail="why"
    )


def connect(sessions, name="a1", uid=STUDY, at=T0):
    with sessions.begin() as session:
        association = Association(name, LISTENER, CALLER, "127.0.0.1")
        ledger.open_association(session, association, at)
        ledger.carries(session, name, uid)


def disconnect(sessions, name="a1", at=T0):
    with sessions.begin() as session:
        ledger.close_association(session, name, at)


# Arrivals


def test_a_first_instance_opens_a_study_that_waits_for_more(sessions):
    receive(sessions, arrival(1), arrival(2))
    study = look(sessions)
    assert study.state is StudyState.RECEIVING
    assert (study.instances, study.revision) == (2, 2)
    assert study.quiet_until == T0 + QUIET.default
    assert history(sessions) == ["receiving"]


def test_recording_twice_changes_nothing_the_second_time(sessions):
    receive(sessions, arrival(1))
    receive(sessions, arrival(1), arrival(1), at=LATER)
    study = look(sessions)
    assert (study.instances, study.revision) == (1, 1)
    assert study.quiet_until == T0 + QUIET.default


def test_resent_duplicates_do_not_reopen_an_analysed_study(sessions):
    analyzed(sessions)
    receive(sessions, arrival(1))
    assert look(sessions).state is StudyState.ANALYZED


@pytest.mark.parametrize(
    "state",
    [StudyState.ANALYZED, StudyState.HELD, StudyState.IGNORED, StudyState.FAILED],
)
def test_a_new_instance_reopens_a_study_whatever_became_of_it(sessions, state):
    finish(sessions, claimed(sessions), state, reason=Reason.QUALITY)
    receive(sessions, arrival(2), at=LATER)
    study = look(sessions)
    assert (study.state, study.reason) == (StudyState.RECEIVING, None)
    assert study.quiet_until == LATER + QUIET.default
    assert history(sessions)[-1] == "reopened"


def test_a_late_instance_takes_the_study_from_its_worker(sessions):
    lost = claimed(sessions)
    receive(sessions, arrival(2), at=LATER)
    assert not finish(sessions, lost)
    assert look(sessions).state is StudyState.RECEIVING


def test_our_own_report_that_comes_back_reopens_nothing(sessions, tmp_path):
    analyzed(sessions)
    uid = SopInstanceUid("1.2.3.999")
    document = Document("SR", SR, uid, "0" * 64, b"report")
    with sessions.begin() as session:
        outbox.enqueue(
            session, STUDY, "r1", [(document, tmp_path)], [Peer("P", "h", 1)], T0
        )
    receive(sessions, arrival(sop_instance_uid=uid, sop_class_uid=SR))
    study = look(sessions)
    assert (study.state, study.instances) == (StudyState.ANALYZED, 1)
    with sessions() as session:
        assert ledger.instance(session, uid) is not None
        assert [each.sop_instance_uid for each in ledger.instances(session, STUDY)] == [
            "1.2.3.4.5.1"
        ]


def test_our_own_report_under_a_study_that_nobody_knows_opens_none(sessions, tmp_path):
    analyzed(sessions)
    enqueued(sessions, tmp_path)
    other = StudyUid("9.9")
    report = SopInstanceUid("1.9")
    back = arrival(sop_instance_uid=report, study_uid=other, sop_class_uid=SR)
    receive(sessions, back)
    receive(sessions, back)
    connect(sessions, uid=other)
    with sessions() as session:
        assert [each.study_uid for each in ledger.studies(session)] == [STUDY]
        assert back.path.as_posix() in ledger.paths(session)
        assert report not in {
            each.sop_instance_uid for each in ledger.instances(session, STUDY)
        }
    receive(sessions, arrival(2, study_uid=other))
    assert complete(sessions) == []  # its association is open
    disconnect(sessions)
    assert complete(sessions) == [other]


def test_a_rectangle_for_a_study_without_one_is_due_at_once(sessions):
    held(sessions)
    receive(sessions, arrival(2, sop_class_uid=SR), at=LATER)
    receive(sessions, arrival(3), at=LATER)  # the same association, another batch
    assert complete(sessions, LATER) == [STUDY]


def test_a_rectangle_for_a_study_held_otherwise_waits(sessions):
    held(sessions, Reason.ROI_CONFLICT)
    receive(sessions, arrival(2, sop_class_uid=SR), at=LATER)
    assert complete(sessions, LATER) == []


def test_a_uid_that_another_study_holds_is_a_conflict_of_the_second(sessions):
    other = StudyUid("9.9")
    receive(sessions, arrival(1), arrival(1, study_uid=other, sha256="b" * 64))
    assert complete(sessions) == [STUDY]
    assert look(sessions, other).reason is Reason.PATIENT_MISMATCH


def test_many_threads_may_record_the_same_instances(sessions):
    numbers = range(40)
    threads = [
        threading.Thread(
            target=receive, args=(sessions, *(arrival(n) for n in numbers))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert look(sessions).instances == len(numbers)


# Completeness


def test_a_study_is_complete_after_its_quiet_period(sessions):
    receive(sessions)
    assert complete(sessions, T0 + timedelta(seconds=119)) == []
    assert complete(sessions, T0 + timedelta(seconds=120)) == [STUDY]
    assert complete(sessions) == []
    assert look(sessions).queued_at == T0 + timedelta(seconds=120)


def test_no_study_completes_while_an_association_carries_it(sessions):
    receive(sessions)
    connect(sessions, "a1")
    connect(sessions, "a2")
    disconnect(sessions, "a1")
    assert complete(sessions) == []
    disconnect(sessions, "a2")
    assert complete(sessions) == [STUDY]


def test_the_association_of_another_study_does_not_matter(sessions):
    other = StudyUid("9.9")
    receive(sessions, arrival(1), arrival(2, study_uid=other))
    connect(sessions, uid=other)
    assert complete(sessions) == [STUDY]


def test_associations_of_a_dead_listener_are_closed_by_its_heir(sessions):
    receive(sessions)
    connect(sessions)
    with sessions.begin() as session:
        ledger.close_stale(session, "ANOTHER@host:104", T0)
    assert complete(sessions) == []
    with sessions.begin() as session:
        ledger.close_stale(session, LISTENER, T0)
    assert complete(sessions) == [STUDY]


def test_an_heir_of_all_closes_the_associations_of_every_listener(sessions):
    receive(sessions)
    connect(sessions)
    with sessions.begin() as session:
        ledger.close_stale(session, None, T0)
    assert complete(sessions) == [STUDY]


def test_an_association_that_brings_nothing_more_does_not_hold_a_study_for_ever(
    sessions,
):
    receive(sessions)
    connect(sessions)
    quiet = look(sessions).quiet_until
    assert complete(sessions, quiet + ABANDONED_AFTER) == [STUDY]


def test_the_longest_waiting_studies_complete_first(sessions):
    for number in range(3):
        uid = StudyUid(f"1.{number}")
        at = T0 - timedelta(seconds=number)
        receive(sessions, arrival(number, study_uid=uid), at=at)
    with sessions.begin() as session:
        assert ledger.complete_due(session, LATER, limit=2) == ["1.2", "1.1"]


def test_a_person_may_say_that_a_study_is_complete(sessions):
    receive(sessions)
    connect(sessions)
    with sessions.begin() as session:
        ledger.complete(session, STUDY, T0)
    assert look(sessions).state is StudyState.QUEUED


def test_only_a_receiving_study_can_be_completed(sessions):
    analyzed(sessions)
    with sessions.begin() as session:
        with pytest.raises(StudyStateError, match="analyzed"):
            ledger.complete(session, STUDY, T0)
        with pytest.raises(StudyNotFoundError):
            ledger.complete(session, StudyUid("9.9"), T0)


# Contradictions


def conflict(sessions, *, patient_differs=False, at=T0, **changes):
    second = arrival(1, sha256="f" * 64, **changes)
    with sessions.begin() as session:
        ledger.record_conflict(session, Conflict(second, patient_differs), at)


def test_differing_objects_under_one_uid_hold_the_study(sessions):
    receive(sessions)
    conflict(sessions)
    assert complete(sessions) == []
    study = look(sessions)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.DUPLICATE_DIFFERS)


def enqueued(sessions, path):
    document = Document("SR", SR, SopInstanceUid("1.9"), "0" * 64, b"report")
    with sessions.begin() as session:
        outbox.enqueue(
            session, STUDY, "r1", [(document, path)], [Peer("P", "h", 1)], T0
        )


def is_frozen(sessions):
    with sessions.begin() as session:
        due = outbox.due(session, LATER, LEASE, 9)
        taken = outbox.claim(session, "P@h:1", LEASE, LATER, 9)
    assert bool(due) == bool(taken)
    return not due


def test_a_conflict_after_the_result_holds_the_study_and_freezes_deliveries(
    sessions, tmp_path
):
    analyzed(sessions)
    enqueued(sessions, tmp_path)
    conflict(sessions)
    assert is_frozen(sessions)
    assert look(sessions).state is StudyState.HELD


def test_another_patient_after_the_result_freezes_deliveries_until_accepted(
    sessions, tmp_path
):
    analyzed(sessions)
    enqueued(sessions, tmp_path)
    receive(sessions, arrival(2, patient_key="b" * 64), at=LATER)
    assert is_frozen(sessions)
    complete(sessions, LATER + QUIET.default)
    assert is_frozen(sessions)
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, LATER, "looked at", resolve_conflicts=True)
    assert not is_frozen(sessions)


def test_the_contradiction_of_another_study_freezes_nothing_here(sessions, tmp_path):
    analyzed(sessions)
    enqueued(sessions, tmp_path)
    other = StudyUid("9.9")
    receive(
        sessions,
        arrival(2, study_uid=other),
        arrival(3, study_uid=other, patient_key="b" * 64),
        arrival(1, study_uid=other, sha256="f" * 64),
    )
    complete(sessions)
    assert look(sessions, other).reason is Reason.PATIENT_MISMATCH
    assert not is_frozen(sessions)


@pytest.mark.parametrize("reason", [Reason.PATIENT_MISMATCH, Reason.DUPLICATE_DIFFERS])
def test_a_study_held_for_a_contradiction_freezes_deliveries(
    sessions, tmp_path, reason
):
    held(sessions, reason)
    enqueued(sessions, tmp_path)
    assert is_frozen(sessions)


def test_a_conflict_takes_the_study_from_its_worker(sessions):
    lost = claimed(sessions)
    conflict(sessions)
    assert not finish(sessions, lost)


def test_a_conflict_is_entered_once_and_stays_resolved(sessions):
    receive(sessions)
    conflict(sessions)
    complete(sessions)
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, LATER, "looked at", resolve_conflicts=True)
    conflict(sessions)
    taken = claim(sessions)
    assert taken is not None
    assert taken.contradiction is None


def test_only_a_person_who_looked_requeues_what_contradicts(sessions):
    receive(sessions)
    conflict(sessions)
    complete(sessions)
    with (
        sessions.begin() as session,
        pytest.raises(StudyStateError, match="studies requeue"),
    ):
        ledger.requeue(session, STUDY, LATER, "a new model")
    assert look(sessions).state is StudyState.HELD
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, LATER, "looked at", resolve_conflicts=True)
    assert look(sessions).state is StudyState.QUEUED


def test_another_patient_under_one_uid_is_a_patient_mismatch(sessions):
    receive(sessions)
    conflict(sessions, patient_differs=True)
    complete(sessions)
    assert look(sessions).reason is Reason.PATIENT_MISMATCH


def test_two_patients_in_one_study_are_analysed_once_a_person_accepts_them(sessions):
    receive(sessions, arrival(1), arrival(2, patient_key="b" * 64))
    assert complete(sessions) == []
    assert look(sessions).reason is Reason.PATIENT_MISMATCH
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, LATER, "looked at", resolve_conflicts=True)
    taken = claim(sessions)
    assert taken is not None
    assert taken.contradiction is None
    assert len(taken.instances) == 2


def test_another_object_of_another_patient_contradicts_anew(sessions):
    receive(sessions, arrival(1), arrival(2, patient_key="b" * 64))
    complete(sessions)
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, LATER, "looked at", resolve_conflicts=True)
    receive(sessions, arrival(3), at=LATER)
    after = LATER + QUIET.default
    assert complete(sessions, after) == [STUDY]
    receive(sessions, arrival(4, patient_key="b" * 64), at=after)
    assert complete(sessions, after + QUIET.default) == []
    assert look(sessions).reason is Reason.PATIENT_MISMATCH


@pytest.mark.parametrize("issuers", [("i" * 64, None), (None, "i" * 64), (None, None)])
def test_an_object_without_an_issuer_is_of_the_same_patient(sessions, issuers):
    numbered = enumerate(issuers, start=1)
    receive(sessions, *(arrival(n, issuer_key=issuer) for n, issuer in numbered))
    assert complete(sessions) == [STUDY]
    assert look(sessions).issuer_key == (issuers[0] or issuers[1])


def test_the_same_id_of_two_issuers_is_a_patient_mismatch(sessions):
    receive(sessions, arrival(1), arrival(2, issuer_key="i" * 64))
    receive(sessions, arrival(3, issuer_key="j" * 64))
    assert complete(sessions) == []
    assert look(sessions).reason is Reason.PATIENT_MISMATCH


def test_a_study_that_a_conflict_opened_takes_the_patient_of_its_own_objects(sessions):
    other = StudyUid("9.9")
    receive(sessions, arrival(1))
    stray = arrival(1, study_uid=other, sha256="b" * 64, patient_key="b" * 64)
    receive(sessions, stray)
    receive(sessions, arrival(2, study_uid=other, patient_key="c" * 64))
    assert look(sessions, other).patient_key == "c" * 64


def test_a_study_that_contradicts_itself_is_not_completed_by_hand(sessions):
    receive(sessions)
    conflict(sessions)
    with sessions.begin() as session, pytest.raises(StudyStateError, match="differ"):
        ledger.complete(session, STUDY, T0)


# Claims


def test_a_claim_holds_the_instances_and_counts_attempts(sessions):
    taken = claimed(sessions, arrival(1), arrival(2))
    assert [each.path.name for each in taken.instances] == ["1.dcm", "2.dcm"]
    assert (taken.attempts, taken.revision) == (1, 2)
    assert look(sessions).state is StudyState.ANALYZING
    assert look(sessions).lease_until == LATER + LEASE


def test_only_one_of_two_workers_gets_the_study(sessions):
    assert claimed(sessions) is not None
    assert claim(sessions, worker="w2") is None


def test_only_one_of_many_threads_gets_the_study(sessions):
    receive(sessions)
    complete(sessions)
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(claim(sessions))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in got) == 1


def test_an_outcome_is_kept_with_its_reason(sessions):
    held(sessions)
    study = look(sessions)
    assert (study.state, study.reason, study.detail) == (
        StudyState.HELD,
        Reason.NO_ROI,
        "why",
    )
    assert history(sessions)[-1] == "held"


def test_a_claim_ends_with_its_first_outcome(sessions):
    taken = claimed(sessions)
    assert finish(sessions, taken)
    assert not finish(sessions, taken, StudyState.FAILED)
    assert look(sessions).state is StudyState.ANALYZED


def test_a_study_given_back_is_queued_and_not_announced_at_once(sessions):
    taken = claimed(sessions)
    with sessions.begin() as session:
        assert ledger.give_back(session, taken, LATER, "spool is full")
        assert not ledger.give_back(session, taken, LATER, "spool is full")
        assert ledger.unannounced(session, LATER, LEASE, 9) == []
        assert ledger.unannounced(session, LATER + LEASE, LEASE, 9) == [STUDY]


@pytest.mark.parametrize(("transient", "attempts"), [(True, 1), (False, 2)])
def test_only_a_failure_of_the_study_itself_uses_up_an_attempt(
    sessions, transient, attempts
):
    taken = claimed(sessions)
    with sessions.begin() as session:
        ledger.give_back(session, taken, LATER, "why", transient=transient)
    assert claim(sessions).attempts == attempts


def test_an_expired_lease_queues_the_study_for_another_worker(sessions):
    lost = claimed(sessions)
    after = LATER + LEASE
    with sessions.begin() as session:
        assert ledger.expire_leases(session, after - timedelta(seconds=1)) == []
        assert ledger.expire_leases(session, after) == [STUDY]
        assert ledger.unannounced(session, after, LEASE, 9) == [STUDY]
    assert not finish(sessions, lost)
    assert claim(sessions, after).attempts == 2


def test_a_study_that_kills_its_workers_fails_after_three(sessions):
    at = LATER
    claimed(sessions)
    for _ in range(2):
        at += LEASE
        with sessions.begin() as session:
            ledger.expire_leases(session, at)
        claim(sessions, at)
    with sessions.begin() as session:
        assert ledger.expire_leases(session, at + LEASE) == []
    study = look(sessions)
    assert (study.state, study.reason) == (StudyState.FAILED, Reason.WORKER_LOST)


def test_a_restart_queues_and_announces_everything_again(sessions):
    claimed(sessions)
    other = StudyUid("9.9")
    receive(sessions, arrival(2, study_uid=other))
    complete(sessions)
    with sessions.begin() as session:
        ledger.announced(session, [other], LATER)
        assert ledger.release_all(session, LATER) == 1
        assert set(ledger.unannounced(session, LATER, LEASE, 9)) == {STUDY, other}


def test_a_message_is_sent_again_only_when_it_seems_lost(sessions):
    receive(sessions)
    complete(sessions)
    with sessions.begin() as session:
        assert ledger.unannounced(session, LATER, LEASE, 9) == [STUDY]
        ledger.announced(session, [STUDY], LATER)
        assert ledger.unannounced(session, LATER, LEASE, 9) == []
        assert ledger.unannounced(session, LATER + LEASE, LEASE, 9) == [STUDY]


def test_a_person_may_queue_a_study_again(sessions):
    analyzed(sessions)
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, LATER, "a new model")
    assert look(sessions).state is StudyState.QUEUED
    assert claim(sessions).revision == 2


def test_a_study_that_is_received_or_analysed_is_not_requeued(sessions):
    receive(sessions)
    with sessions.begin() as session, pytest.raises(StudyStateError):
        ledger.requeue(session, STUDY, LATER, "why")
    complete(sessions)
    claim(sessions)
    with sessions.begin() as session, pytest.raises(StudyStateError):
        ledger.requeue(session, STUDY, LATER, "why")
    with sessions.begin() as session, pytest.raises(StudyNotFoundError):
        ledger.requeue(session, StudyUid("9.9"), LATER, "why")


# Looking


def test_studies_are_listed_newest_first_and_by_state(sessions):
    receive(sessions)
    complete(sessions)
    receive(sessions, arrival(2, study_uid=StudyUid("9.9")), at=LATER)
    with sessions() as session:
        assert [each.study_uid for each in ledger.studies(session)] == ["9.9", STUDY]
        queued = ledger.studies(session, StudyState.QUEUED)
        assert [each.study_uid for each in queued] == [STUDY]
        assert len(ledger.studies(session, limit=1)) == 1


def test_times_come_back_aware_on_every_database(sessions):
    receive(sessions)
    assert look(sessions).received_at == T0
    assert look(sessions).received_at.utcoffset() == timedelta(0)


def test_a_patient_key_depends_on_id_and_secret_but_not_on_padding_or_issuer():
    key = ledger.patient_key(b"secret", "4711")
    assert key == ledger.patient_key(b"secret", " 4711 ")
    others = {
        ledger.patient_key(b"secret", "4712"),
        ledger.patient_key(b"another", "4711"),
    }
    assert key not in others
    assert len(others) == 2


def test_an_issuer_key_depends_on_issuer_id_and_secret():
    key = ledger.issuer_key(b"secret", "HOSPITAL", "4711")
    assert key == ledger.issuer_key(b"secret", "HOSPITAL ", " 4711 ")
    others = {
        ledger.patient_key(b"secret", "4711"),
        ledger.issuer_key(b"secret", "CLINIC", "4711"),
        ledger.issuer_key(b"secret", "HOSPITAL", "4712"),
        ledger.issuer_key(b"another", "HOSPITAL", "4711"),
    }
    assert key not in others
    assert len(others) == 4
    assert ledger.issuer_key(b"secret", " ", "4711") is None


def test_rows_with_and_without_a_value_go_by_one_statement(sessions):
    said = []
    engine = sessions.kw["bind"]
    listening = (engine, "before_cursor_execute", lambda *a: said.append(a[2]))
    sa.event.listen(*listening)
    receive(
        sessions,
        *(arrival(n, issuer_key="b" * 64 if n % 2 else None) for n in range(8)),
    )
    sa.event.remove(*listening)
    assert sum(one.startswith("INSERT INTO instance ") for one in said) == 1
    with sessions.begin() as session:
        found = session.scalars(sa.select(InstanceRow.issuer_key)).all()
    assert sorted(found, key=str) == [None] * 4 + ["b" * 64] * 4
