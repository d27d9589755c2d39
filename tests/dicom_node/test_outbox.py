import hashlib
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node import ledger, outbox
from dicom_node.errors import DeliveryNotFoundError, DeliveryStateError
from dicom_node.findings import Document
from dicom_node.outbox import DeliveryState
from dicom_node.study import Peer, SopInstanceUid
from tests.dicom_node.conftest import SR, STUDY, T0, arrival, receive

PACS = Peer("PACS", "pacs", 104)
SECOND = Peer("SECOND", "pacs2", 104)
LEASE = timedelta(minutes=5)
RESEND = timedelta(minutes=1)
DAY = timedelta(days=1)


def document(kind: str, number: int) -> tuple[Document, Path]:
    content = f"{kind} {number}".encode()
    digest = hashlib.sha256(content).hexdigest()
    uid = SopInstanceUid(f"1.2.9.{number}")
    return Document(kind, SR, uid, digest, content), Path(f"documents/{number}.dcm")


DOCUMENTS = [document("SC", 1), document("SC", 2), document("SR", 3)]


@pytest.fixture
def sessions(sessions):
    receive(sessions)
    return sessions


def enqueue(sessions, *peers: Peer, result="r1", at=T0, documents=DOCUMENTS):
    with sessions.begin() as session:
        outbox.enqueue(session, STUDY, result, documents, peers or (PACS,), at)


def claim(sessions, at=T0, peer=PACS, limit=99):
    with sessions.begin() as session:
        return outbox.claim(session, str(peer), LEASE, at, limit)


def due(sessions, at=T0):
    with sessions.begin() as session:
        return outbox.due(session, at, RESEND, 99)


def look(sessions, **narrow):
    with sessions() as session:
        return outbox.deliveries(session, **narrow)


def test_every_document_goes_to_every_destination_once(sessions):
    enqueue(sessions, PACS, SECOND)
    enqueue(sessions, PACS, SECOND)
    found = look(sessions)
    assert len(found) == 6
    assert {each.destination for each in found} == {str(PACS), str(SECOND)}
    assert sorted(due(sessions)) == [str(PACS), str(SECOND)]


def test_documents_are_kept_without_a_destination(sessions):
    with sessions.begin() as session:
        outbox.enqueue(session, STUDY, "r1", DOCUMENTS, (), T0)
        kept = outbox.documents(session, "r1")
    assert [(each.kind, each.size) for each in kept] == [
        ("SR", 4),
        ("SC", 4),
        ("SC", 4),
    ]
    assert kept[0].path == Path("documents/3.dcm")
    assert due(sessions) == []


def test_a_delivery_says_which_bytes_it_sends(sessions):
    enqueue(sessions)
    digests = {each.sop_instance_uid: each.sha256 for each, _ in DOCUMENTS}
    assert {each.sop_instance_uid: each.sha256 for each in claim(sessions)} == digests


def test_reports_go_before_captures(sessions):
    enqueue(sessions)
    assert [each.kind for each in claim(sessions)] == ["SR", "SC", "SC"]


def test_what_one_process_sends_no_other_does_until_the_lease_ends(sessions):
    enqueue(sessions)
    assert len(claim(sessions)) == 3
    assert claim(sessions) == []
    assert due(sessions) == []
    again = claim(sessions, T0 + LEASE)
    assert [each.attempts for each in again] == [2, 2, 2]


def test_a_sent_delivery_is_not_due_again(sessions):
    enqueue(sessions)
    for each in claim(sessions):
        with sessions.begin() as session:
            assert outbox.sent(session, each, 0xB000, T0)
    assert due(sessions, T0 + DAY) == []
    found = look(sessions)
    assert {each.state for each in found} == {DeliveryState.SENT}
    assert {each.last_status for each in found} == {0xB000}
    assert {each.sent_at for each in found} == {T0}


def test_who_lost_the_lease_changes_nothing(sessions):
    enqueue(sessions)
    lost = claim(sessions)[0]
    claim(sessions, T0 + LEASE)
    with sessions.begin() as session:
        assert not outbox.sent(session, lost, 0, T0)
        assert not outbox.deferred(session, lost, "no answer", None, T0)
        assert not outbox.failed(session, lost, "refused", 0xC000, T0)
    assert {each.state for each in look(sessions)} == {DeliveryState.DUE}


@pytest.mark.parametrize(
    ("attempts", "minutes"), [(1, 1), (2, 5), (3, 15), (4, 60), (5, 60), (400, 60)]
)
def test_waits_grow_to_an_hour(attempts, minutes):
    assert outbox.back_off(attempts) == timedelta(minutes=minutes)


def test_a_deferred_delivery_waits_and_says_why(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    each = claim(sessions)[0]
    with sessions.begin() as session:
        outbox.deferred(session, each, "no association", None, T0)
    assert due(sessions, T0 + timedelta(seconds=59)) == []
    assert due(sessions, T0 + timedelta(seconds=60)) == [str(PACS)]
    found = look(sessions)[0]
    assert (found.last_error, found.attempts) == ("no association", 1)
    assert found.next_attempt_at == T0 + timedelta(minutes=1)


def test_a_delivery_fails_after_fourteen_days_of_trying(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    late = T0 + 14 * DAY
    each = claim(sessions, late)[0]
    with sessions.begin() as session:
        outbox.deferred(session, each, "no association", 0xA700, late)
    found = look(sessions)[0]
    assert (found.state, found.last_status) == (DeliveryState.FAILED, 0xA700)


def failed(sessions):
    for each in claim(sessions):
        with sessions.begin() as session:
            outbox.failed(session, each, "refused", 0xC000, T0)


def test_a_failed_delivery_waits_for_a_person(sessions):
    enqueue(sessions)
    failed(sessions)
    assert due(sessions, T0 + 30 * DAY) == []
    assert len(look(sessions, state=DeliveryState.FAILED)) == 3


def test_a_person_revives_all_failed_deliveries_or_one(sessions):
    enqueue(sessions)
    failed(sessions)
    one = look(sessions)[0].delivery_id
    with sessions.begin() as session:
        assert outbox.retry(session, one, T0 + DAY) == [one]
    assert len(claim(sessions, T0 + DAY)) == 1
    with sessions.begin() as session:
        assert len(outbox.retry(session, None, T0 + DAY)) == 2


def test_a_revived_delivery_has_fourteen_days_again(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    failed(sessions)
    late = T0 + 20 * DAY
    with sessions.begin() as session:
        outbox.retry(session, None, late)
    each = claim(sessions, late)[0]
    with sessions.begin() as session:
        outbox.deferred(session, each, "no association", None, late)
    assert look(sessions)[0].state is DeliveryState.DUE


def test_only_what_exists_and_was_not_sent_is_revived(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    each = claim(sessions)[0]
    with sessions.begin() as session:
        outbox.sent(session, each, 0, T0)
        with pytest.raises(DeliveryStateError, match="sent"):
            outbox.retry(session, each.delivery_id, T0)
        with pytest.raises(DeliveryNotFoundError):
            outbox.retry(session, "nothing", T0)


def test_a_message_is_sent_again_only_when_it_seems_lost(sessions):
    enqueue(sessions)
    with sessions.begin() as session:
        outbox.announced(session, outbox.due(session, T0, RESEND, 9), T0)
    assert due(sessions) == []
    assert due(sessions, T0 + RESEND) == [str(PACS)]


def test_a_restart_ends_every_lease(sessions):
    enqueue(sessions)
    claim(sessions)
    with sessions.begin() as session:
        outbox.release_all(session, T0)
    assert len(claim(sessions)) == 3


def test_the_oldest_study_goes_first_and_a_limit_cuts_behind_it(sessions):
    enqueue(sessions, result="r2", at=T0 + DAY, documents=[document("SR", 9)])
    enqueue(sessions)
    first = claim(sessions, T0 + DAY, limit=2)
    rest = claim(sessions, T0 + DAY)
    assert [each.result_id for each in first] == ["r1", "r1"]
    assert rest == []  # the same study: nothing overtakes what is on its way


def test_a_later_version_waits_for_the_earlier_one(sessions):
    enqueue(sessions, documents=[document("SR", 1)])
    (first,) = claim(sessions)
    with sessions.begin() as session:
        outbox.deferred(session, first, "no association", None, T0)
    second = T0 + timedelta(seconds=30)
    enqueue(sessions, result="r2", at=second, documents=[document("SR", 2)])
    assert due(sessions, second) == []
    assert claim(sessions, second) == []
    later = T0 + timedelta(minutes=1)
    assert [each.result_id for each in claim(sessions, later)] == ["r1", "r2"]


def test_two_workers_at_once_let_nothing_overtake(sessions):
    enqueue(sessions, documents=DOCUMENTS[2:])
    enqueue(sessions, result="r2", at=T0 + DAY, documents=DOCUMENTS[:1])
    taken, started = [], threading.Event()

    def second() -> None:
        started.set()
        taken.extend(claim(sessions, T0 + DAY))

    other = threading.Thread(target=second)
    with sessions.begin() as session:
        (first,) = outbox.claim(session, str(PACS), LEASE, T0 + DAY, 1)
        other.start()
        started.wait(5)
        other.join(0.5)
        assert taken == []
    other.join(20)
    assert first.result_id == "r1"
    assert taken == []


def test_what_waits_at_one_destination_holds_up_no_other(sessions):
    enqueue(sessions, PACS, SECOND, documents=DOCUMENTS[:1])
    (first,) = claim(sessions)
    with sessions.begin() as session:
        outbox.deferred(session, first, "no association", None, T0)
    assert due(sessions) == [str(SECOND)]
    assert len(claim(sessions, peer=SECOND)) == 1


def test_a_turn_that_did_not_come_is_no_attempt(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    (each,) = claim(sessions)
    with sessions.begin() as session:
        assert outbox.give_back(session, each)
    assert [each.attempts for each in claim(sessions)] == [1]


def test_a_cancelled_delivery_stays_so_until_it_is_named_again(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    (one,) = look(sessions)
    with sessions.begin() as session:
        outbox.cancel(session, one.delivery_id, T0, "anna")
    assert claim(sessions, T0 + DAY) == []
    with sessions.begin() as session:
        assert outbox.retry(session, None, T0) == []
        assert outbox.retry(session, one.delivery_id, T0, "anna") == [one.delivery_id]
        told = ledger.events(session, STUDY)
    assert [event.what for event in told][-2:] == [
        "delivery cancelled",
        "delivery retried",
    ]
    assert told[-1].detail == f"SC to {PACS}, by anna"


def test_what_was_sent_or_is_being_sent_cannot_be_cancelled(sessions):
    enqueue(sessions, documents=DOCUMENTS[:1])
    (one,) = claim(sessions)
    with sessions.begin() as session:
        with pytest.raises(DeliveryStateError, match="being sent now"):
            outbox.cancel(session, one.delivery_id, T0, "anna")
        outbox.sent(session, one, 0, T0)
        with pytest.raises(DeliveryStateError, match="was sent"):
            outbox.cancel(session, one.delivery_id, T0, "anna")


def test_a_variant_that_went_out_is_listed_and_known_as_ours(sessions):
    enqueue(sessions, documents=DOCUMENTS[2:])
    (one,) = claim(sessions)
    variant, path = document("SR", 4)
    with sessions.begin() as session:
        for _ in range(2):
            outbox.add_variant(session, one, variant, path, T0)
        assert outbox.variant(session, one.sop_instance_uid, SR).path == path
        outbox.sent(session, one, 0, T0, variant.sop_instance_uid)
    receive(sessions, arrival(9, sop_instance_uid=variant.sop_instance_uid))
    (found,) = look(sessions)
    with sessions() as session:
        plain = outbox.documents(session, "r1")
        both = outbox.documents(session, "r1", variants=True)
        study = ledger.study(session, STUDY)
    assert found.sop_instance_uid == variant.sop_instance_uid
    assert found.variant_of == one.sop_instance_uid
    assert [each.variant_of for each in plain] == [None]
    assert [each.variant_of for each in both] == [None, one.sop_instance_uid]
    assert study.instances == 1


def test_deliveries_are_listed_newest_first_and_narrowed(sessions):
    enqueue(sessions)
    enqueue(sessions, result="r2", at=T0 + DAY, documents=[document("SR", 9)])
    assert [each.result_id for each in look(sessions)] == ["r2", "r1", "r1", "r1"]
    assert len(look(sessions, result_id="r1")) == 3
    assert len(look(sessions, study_uid=STUDY)) == 4
    assert len(look(sessions, limit=2)) == 2
    assert look(sessions, study_uid="9.9") == []
