"""Storage commitment in SQL: requests, reports, and what follows from them."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node import commitment, outbox
from dicom_node.commitment import MAX_RESENDS, MAX_TRIES, Report
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Document
from dicom_node.study import Peer, SopInstanceUid
from dicom_node.tables import CommitmentState, DeliveryState
from tests.dicom_node.conftest import SR, STUDY, T0, receive

PACS = Peer("PACS", "pacs", 104)
LEASE = timedelta(minutes=5)
HOUR = timedelta(hours=1)
FIRST, SECOND = "1.2.9.1", "1.2.9.2"


def document(uid: str) -> tuple[Document, Path]:
    digest = hashlib.sha256(uid.encode()).hexdigest()
    return (
        Document("SR", SR, SopInstanceUid(uid), digest, b"bytes"),
        Path(f"documents/{uid}.dcm"),
    )


@pytest.fixture
def sessions(sessions):
    receive(sessions)
    with sessions.begin() as session:
        documents = [document(FIRST), document(SECOND)]
        outbox.enqueue(session, STUDY, "r1", documents, [PACS], T0)
    send(sessions, T0)
    return sessions


def send(sessions, at) -> int:
    with sessions.begin() as session:
        claimed = outbox.claim(session, str(PACS), LEASE, at, 9)
        for each in claimed:
            outbox.sent(session, each, 0, at)
            commitment.want(session, each.delivery_id, at)
    return len(claimed)


def ask(sessions, at=T0):
    with sessions.begin() as session:
        return commitment.claim(session, str(PACS), HOUR, at, 9)


def report(sessions, request, failed=None, committed=(FIRST, SECOND), at=T0):
    failed = failed or {}
    kept = frozenset(committed) - failed.keys()
    with sessions.begin() as session:
        told = Report(request.transaction_uid, kept, failed)
        return commitment.reported(session, told, at)


def look(sessions):
    with sessions() as session:
        found = outbox.deliveries(session)
    return {each.sop_instance_uid: each for each in found}


def states(sessions):
    return [str(look(sessions)[uid].state) for uid in (FIRST, SECOND)]


def test_a_report_commits_what_was_sent(sessions):
    request = ask(sessions)
    assert {uid for _, uid in request.objects} == {FIRST, SECOND}
    assert {sop_class for sop_class, _ in request.objects} == {SR}
    assert {each.commitment for each in look(sessions).values()} == {
        CommitmentState.ASKED
    }
    assert report(sessions, request)
    assert states(sessions) == ["committed", "committed"]
    assert ask(sessions, T0 + 9 * HOUR) is None


def test_only_one_of_two_workers_asks(sessions):
    assert ask(sessions) is not None
    assert ask(sessions) is None


def test_a_report_that_comes_twice_changes_nothing(sessions):
    request = ask(sessions)
    assert report(sessions, request)
    before = look(sessions)
    assert report(sessions, request, failed={FIRST: 0x0112}, at=T0 + HOUR)
    assert look(sessions) == before


def test_a_report_of_another_transaction_is_unknown(sessions):
    ask(sessions)
    stranger = commitment.Request("1.2.3", ())
    assert not report(sessions, stranger)
    assert states(sessions) == ["sent", "sent"]


def test_without_a_report_it_is_asked_again_in_a_new_transaction(sessions):
    first = ask(sessions)
    assert ask(sessions, T0 + timedelta(minutes=59)) is None
    with sessions() as session:
        assert outbox.due(session, T0 + HOUR, LEASE, 9) == [str(PACS)]
    second = ask(sessions, T0 + HOUR)
    assert second.transaction_uid != first.transaction_uid
    assert look(sessions)[FIRST].commitment_tries == 2


def test_a_late_report_on_an_earlier_transaction_counts(sessions):
    first = ask(sessions)
    ask(sessions, T0 + HOUR)
    assert report(sessions, first, at=T0 + 2 * HOUR)
    assert states(sessions) == ["committed", "committed"]


def test_an_archive_that_never_reports_is_not_asked_for_ever(sessions):
    requests = [ask(sessions, T0 + number * HOUR) for number in range(MAX_TRIES + 2)]
    assert sum(each is not None for each in requests) == MAX_TRIES
    found = look(sessions)[FIRST]
    assert (found.state, found.commitment) == (
        DeliveryState.SENT,
        CommitmentState.UNANSWERED,
    )
    assert "no commitment report came" in found.commitment_note
    with sessions() as session:
        assert outbox.due(session, T0 + 99 * HOUR, LEASE, 9) == []


def test_what_the_archive_does_not_keep_is_sent_again_and_fails_in_the_end(sessions):
    at = T0
    for number in range(MAX_RESENDS + 1):
        assert report(sessions, ask(sessions, at), failed={FIRST: 0x0112}, at=at)
        found = look(sessions)[FIRST]
        if number < MAX_RESENDS:
            assert (found.state, found.resends) == (DeliveryState.DUE, number + 1)
            at += HOUR
            assert send(sessions, at) == 1
    assert (found.state, found.resends) == (DeliveryState.FAILED, MAX_RESENDS)
    assert "0x0112 (no such object instance)" in found.last_error
    assert states(sessions)[1] == "committed"
    with sessions() as session:
        told = commitment.requests(session, found.delivery_id)
    assert [each.failure_reason for each in told] == [0x0112] * (MAX_RESENDS + 1)


def test_a_duplicate_transaction_is_asked_again_without_sending(sessions):
    report(sessions, ask(sessions), failed={FIRST: 0x0131})
    assert states(sessions) == ["sent", "committed"]
    again = ask(sessions)
    assert [uid for _, uid in again.objects] == [FIRST]


def test_an_object_that_the_report_leaves_out_is_asked_for_again(sessions):
    report(sessions, ask(sessions), committed=(SECOND,))
    assert states(sessions) == ["sent", "committed"]
    assert [uid for _, uid in ask(sessions, T0 + HOUR).objects] == [FIRST]


def test_a_success_takes_back_what_was_to_be_sent_again(sessions):
    first = ask(sessions)
    second = ask(sessions, T0 + HOUR)
    report(sessions, second, failed={FIRST: 0x0112}, at=T0 + HOUR)
    assert states(sessions) == ["due", "committed"]
    report(sessions, first, at=T0 + HOUR)
    assert states(sessions) == ["committed", "committed"]
    assert send(sessions, T0 + 9 * HOUR) == 0


def test_an_archive_that_refuses_is_not_asked_again(sessions):
    request = ask(sessions)
    with sessions.begin() as session:
        commitment.refused(session, request, "accepted no presentation context", T0)
    found = look(sessions)[FIRST]
    assert (found.state, found.commitment) == (
        DeliveryState.SENT,
        CommitmentState.REFUSED,
    )
    assert found.commitment_note == "accepted no presentation context"
    assert ask(sessions, T0 + 99 * HOUR) is None


def test_an_archive_that_is_away_is_asked_later_and_it_does_not_count(sessions):
    at = T0
    for _ in range(3 * MAX_TRIES):
        request = ask(sessions, at)
        with sessions.begin() as session:
            commitment.postponed(session, request, "cannot be reached", T0 - HOUR, at)
        at += HOUR
    assert look(sessions)[FIRST].commitment_tries == 0
    assert report(sessions, ask(sessions, at))
    assert states(sessions) == ["committed", "committed"]


def test_a_retried_delivery_is_asked_for_anew(sessions):
    report(sessions, ask(sessions), failed={FIRST: 0x0112})
    one = look(sessions)[FIRST].delivery_id
    with sessions.begin() as session:
        outbox.retry(session, one, T0)
    assert send(sessions, T0) == 1
    assert report(sessions, ask(sessions))
    assert states(sessions) == ["committed", "committed"]


def information(**changes) -> Dataset:
    item, made = Dataset(), Dataset()
    item.ReferencedSOPInstanceUID = FIRST
    made.TransactionUID = "1.2.3"
    made.ReferencedSOPSequence = [item]
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def test_a_report_is_read():
    failed = Dataset()
    failed.ReferencedSOPInstanceUID = SECOND
    failed.FailureReason = 0x0213
    read = commitment.read_report(information(FailedSOPSequence=[failed]))
    assert read == Report("1.2.3", frozenset({FIRST}), {SECOND: 0x0213})


def test_what_is_said_to_have_failed_is_not_committed():
    failed = Dataset()
    failed.ReferencedSOPInstanceUID = FIRST
    read = commitment.read_report(information(FailedSOPSequence=[failed]))
    assert read == Report("1.2.3", frozenset(), {FIRST: 0x0110})


@pytest.mark.parametrize(
    "changes",
    [{"TransactionUID": ""}, {"ReferencedSOPSequence": [Dataset()]}],
)
def test_a_report_without_uids_is_refused(changes):
    with pytest.raises(UnreadableObjectError, match="names no"):
        commitment.read_report(information(**changes))
