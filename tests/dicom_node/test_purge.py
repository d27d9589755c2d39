"""Images go, rows stay, and what is sent again is there again."""

import os
from datetime import timedelta
from io import BytesIO

import pytest
from sqlalchemy import select

from dicom_node import ledger, outbox, purge, replay
from dicom_node.db import now
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.findings import Document
from dicom_node.intake import Intake, StoreRequest
from dicom_node.ledger import Association
from dicom_node.settings import patient_secret
from dicom_node.spool import QUARANTINE, Spool
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import AssociationRow
from tests.dicom_node.conftest import (
    CALLER,
    QUIET,
    SR,
    STUDY,
    dataset,
    encoded,
    store_all,
)
from tests.peers import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]
REPORT = dataset(9, SOPClassUID=SR, Modality="SR")


@pytest.fixture
def spool(settings) -> Spool:
    return Spool(settings.spool)


@pytest.fixture
def intake(settings, spool) -> Intake:
    settings.spool.mkdir(parents=True, exist_ok=True)
    return Intake(spool, patient_secret(settings), 1, 2**30)


def request(made) -> StoreRequest:
    return StoreRequest(
        sop_class_uid=made.SOPClassUID,
        sop_instance_uid=made.SOPInstanceUID,
        transfer_syntax_uid=made.file_meta.TransferSyntaxUID,
        calling_ae=CALLER,
        dataset=BytesIO(encoded(made)),
    )


def settled(sessions) -> None:
    still_open = select(AssociationRow).where(AssociationRow.closed_at.is_(None))

    def none_open():
        with sessions() as session:
            return session.scalars(still_open).first() is None

    wait_until(none_open, "the end of every association", 20)


def conclude(sessions, state: StudyState = StudyState.ANALYZED, uid=STUDY) -> None:
    """Bring a study to the end of an analysis."""
    with sessions.begin() as session:
        ledger.complete(session, uid, now())
    with sessions.begin() as session:
        claim = ledger.claim(session, uid, "test", timedelta(minutes=1), now())
        assert claim is not None
        reason = Reason.NO_ROI if state is StudyState.HELD else None
        ledger.finish(session, claim, state, now(), reason)


def purge_now(sessions, spool, uid=STUDY) -> bool:
    with sessions.begin() as session:
        purge.begin(session, uid, now())
    with sessions.begin() as session:
        return purge.finish(session, uid, spool, now())


def look(sessions, uid=STUDY):
    with sessions() as session:
        return ledger.study(session, uid)


def here(sessions, uid=STUDY) -> list[str]:
    with sessions() as session:
        return [str(one.sop_instance_uid) for one in ledger.instances(session, uid)]


def events(sessions) -> list[str]:
    with sessions() as session:
        return [one.what for one in ledger.events(session, STUDY)]


@pytest.fixture
def received(listener, sessions):
    """A study of two images and a report, analysed."""
    assert store_all(listener.port, dataset(1), dataset(2), REPORT) == [0, 0, 0]
    settled(sessions)
    conclude(sessions)
    return listener


def test_images_go_and_documents_and_rows_stay(received, sessions, spool):
    assert purge_now(sessions, spool)

    with sessions() as session:
        gone = purge.purged(session, STUDY)
        assert ledger.instance(session, dataset(1).SOPInstanceUID) is None
    assert here(sessions) == [REPORT.SOPInstanceUID]
    assert len(list(spool.iter_files())) == 1
    assert gone is not None
    assert len(gone.digests) == 2
    assert gone.late == frozenset()
    assert look(sessions).instances == 3
    assert look(sessions).state is StudyState.ANALYZED
    assert events(sessions)[-1] == "purged"


def test_a_second_purge_changes_nothing(received, sessions, spool):
    purge_now(sessions, spool)
    before = events(sessions)

    assert purge_now(sessions, spool)
    assert events(sessions) == before


@pytest.mark.parametrize(
    "state", [StudyState.RECEIVING, StudyState.QUEUED, StudyState.ANALYZING]
)
def test_a_study_in_work_is_never_purged(listener, sessions, state):
    store_all(listener.port, dataset(1))
    settled(sessions)
    with sessions.begin() as session:
        if state is not StudyState.RECEIVING:
            ledger.complete(session, STUDY, now())
        if state is StudyState.ANALYZING:
            ledger.claim(session, STUDY, "test", timedelta(minutes=1), now())

    with (
        pytest.raises(StudyStateError, match=state.value),
        sessions.begin() as session,
    ):
        purge.begin(session, STUDY, now())
    with sessions() as session:
        assert purge.due(session, now(), 10) == []


@pytest.mark.parametrize(
    "state", [StudyState.HELD, StudyState.FAILED, StudyState.IGNORED]
)
def test_a_study_at_rest_is_due_by_age(listener, sessions, spool, state):
    store_all(listener.port, dataset(1))
    settled(sessions)
    conclude(sessions, state)

    with sessions() as session:
        young = purge.due(session, now() - timedelta(days=1), 10)
        old = purge.due(session, now(), 10)
    purge_now(sessions, spool)
    with sessions() as session:
        done = purge.due(session, now(), 10)
    assert (young, old, done) == ([], [STUDY], [])


def test_a_study_that_is_too_young_is_refused(received, sessions):
    with (
        pytest.raises(StudyStateError, match="long enough"),
        sessions.begin() as session,
    ):
        purge.begin(session, STUDY, now(), now() - timedelta(days=1))


def test_what_is_not_there_is_not_found(sessions):
    with sessions.begin() as session, pytest.raises(StudyNotFoundError):
        purge.begin(session, StudyUid("1.2.999"), now())


def test_a_study_that_contradicts_itself_waits_for_a_person(received, sessions, spool):
    store_all(received.port, dataset(1, Rows=63))
    settled(sessions)

    with sessions.begin() as session:
        assert purge.due(session, now(), 10) == []
        with pytest.raises(StudyStateError, match="Look at the sender"):
            purge.begin(session, STUDY, now())
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, now(), "seen", resolve_conflicts=True)
        claim = ledger.claim(session, STUDY, "test", timedelta(minutes=1), now())
        ledger.finish(session, claim, StudyState.ANALYZED, now())
    assert purge_now(sessions, spool)
    assert list(spool.iter_files(QUARANTINE)) == []


def test_an_image_that_comes_again_is_stored_again(received, sessions, spool):
    purge_now(sessions, spool)

    assert store_all(received.port, dataset(1)) == [0]
    settled(sessions)

    assert dataset(1).SOPInstanceUID in here(sessions)
    assert len(list(spool.iter_files())) == 2
    assert look(sessions).state is StudyState.RECEIVING
    assert look(sessions).instances == 3
    with sessions() as session:
        gone = purge.purged(session, STUDY)
    assert gone is not None
    assert set(gone.digests) == {dataset(2).SOPInstanceUID}
    assert gone.late == {dataset(1).SOPInstanceUID}


def test_a_whole_study_that_comes_again_is_as_before(received, sessions, spool):
    purge_now(sessions, spool)

    store_all(received.port, dataset(1), dataset(2), REPORT)
    settled(sessions)

    with sessions() as session:
        assert purge.purged(session, STUDY) is None
    assert len(here(sessions)) == 3
    assert look(sessions).instances == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 63}, Reason.DUPLICATE_DIFFERS),
        ({"PatientID": "SOMEBODY ELSE"}, Reason.PATIENT_MISMATCH),
    ],
)
def test_an_image_that_comes_again_changed_holds_the_study(
    received, sessions, spool, change, reason
):
    purge_now(sessions, spool)
    assert store_all(received.port, dataset(1, **change)) == [0]
    settled(sessions)

    with sessions.begin() as session:
        assert ledger.complete_due(session, look(sessions).quiet_until) == []
    held = look(sessions)
    with sessions.begin() as session:
        ledger.requeue(session, STUDY, now(), "seen", resolve_conflicts=True)
        stored = ledger.instance(session, dataset(1).SOPInstanceUID)
    assert (held.state, held.reason) == (StudyState.HELD, reason)
    assert stored is not None
    assert spool.describe(stored.path).sha256 == stored.sha256
    assert store_all(received.port, dataset(1, **change)) == [0]


def test_an_open_association_keeps_the_files_until_it_ends(received, sessions, spool):
    association = Association("a1", "another listener", "SCANNER", "127.0.0.1")
    with sessions.begin() as session:
        ledger.open_association(session, association, now())
        ledger.carries(session, "a1", STUDY)

    assert not purge_now(sessions, spool)
    left = len(list(spool.iter_files()))
    with sessions.begin() as session:
        ledger.close_association(session, "a1", now())
        assert purge.unfinished(session) == [STUDY]
        assert purge.finish(session, STUDY, spool, now())
        assert purge.unfinished(session) == []
    assert (left, len(list(spool.iter_files()))) == (3, 1)


def test_a_listener_that_starts_in_the_middle_of_a_purge_does_not_undo_it(
    received, sessions, spool, intake
):
    with sessions.begin() as session:
        purge.begin(session, STUDY, now())

    replay.recover(intake, sessions, QUIET, None, now)

    assert here(sessions) == [REPORT.SOPInstanceUID]
    with sessions.begin() as session:
        assert purge.finish(session, STUDY, spool, now())
    assert len(list(spool.iter_files())) == 1


def test_a_file_that_came_again_gets_its_row_back_when_the_listener_was_killed(
    received, sessions, spool, intake
):
    purge_now(sessions, spool)
    kept = intake.keep(request(dataset(1)))  # and the process dies before the row
    later = (now() + timedelta(seconds=1)).timestamp()
    os.utime(spool.absolute(kept.path), (later, later))

    replay.recover(intake, sessions, QUIET, None, now)

    assert dataset(1).SOPInstanceUID in here(sessions)


def test_finishing_leaves_a_file_that_came_again(received, sessions, spool, intake):
    with sessions.begin() as session:
        purge.begin(session, STUDY, now())
    with sessions.begin() as session:  # found there, before it was removed
        ledger.record(session, [intake.keep(request(dataset(1)))], QUIET, now())
    with sessions.begin() as session:
        assert purge.finish(session, STUDY, spool, now())

    assert dataset(1).SOPInstanceUID in here(sessions)
    assert all(spool.absolute(path).is_file() for path in spool.iter_files())
    assert len(list(spool.iter_files())) == 2


def test_a_file_that_a_purge_took_meanwhile_is_written_again(
    listener, sessions, spool, monkeypatch
):
    """Success stands for a durable file, also when the purge was faster."""
    store_all(listener.port, dataset(1))
    settled(sessions)
    conclude(sessions)
    keep = Intake.keep_draft
    calls = []

    def kept_and_lost(self, meta, draft):
        found = keep(self, meta, draft)
        calls.append(found)
        if len(calls) == 1:
            purge_now(sessions, spool)
        return found

    monkeypatch.setattr(Intake, "keep_draft", kept_and_lost)
    assert store_all(listener.port, dataset(1)) == [0]
    settled(sessions)

    assert len(calls) == 2
    assert here(sessions) == [dataset(1).SOPInstanceUID]
    assert len(list(spool.iter_files())) == 1


def test_our_own_capture_that_comes_back_twice_opens_nothing(
    received, sessions, spool, tmp_path
):
    capture = dataset(7)
    document = Document(
        "SC", capture.SOPClassUID, capture.SOPInstanceUID, "0" * 64, b""
    )
    with sessions.begin() as session:
        outbox.enqueue(session, STUDY, "r1", [(document, tmp_path)], [], now())
    store_all(received.port, capture)
    settled(sessions)
    purge_now(sessions, spool)

    store_all(received.port, capture)
    settled(sessions)

    assert look(sessions).state is StudyState.ANALYZED
    assert look(sessions).instances == 3
