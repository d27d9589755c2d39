"""Storage commitment with archives that report on this association, or on theirs."""

from datetime import timedelta

import pytest
from pydicom import Dataset
from pynetdicom import AE

from dicom_node import commitment, outbox
from dicom_node.association import pausing
from dicom_node.contexts import COMMITMENT, COMMITMENT_INSTANCE
from dicom_node.listener import Listener
from dicom_node.report.fallback import ENHANCED
from dicom_node.settings import NodeSettings, load
from dicom_node.study import Peer
from tests.archives import SC, Archive
from tests.peers import Orthanc, free_port, wait_until

HOUR = timedelta(hours=1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def desk(desk):
    return desk.with_settings(commit=("all",))


@pytest.fixture
def listener(desk):
    settings = load(
        NodeSettings,
        data_dir=desk.settings.data_dir,
        database_url=desk.settings.database_url,
        host="127.0.0.1",
        port=0,
        allow="ARCHIVE@127.0.0.1,ORTHANC@127.0.0.1",
        min_free_bytes=1,
    )
    running = Listener(settings, desk.sessions, lambda: desk.at)
    running.start()
    yield Peer("SENTINODE", "127.0.0.1", running.port)
    running.stop()


@pytest.fixture
def archive():
    made = Archive(commits="same")
    yield made
    made.stop()


def states(desk):
    return [(str(each.state), str(each.commitment)) for each in desk.look()]


COMMITTED = [("committed", "committed")] * 2


def test_a_report_on_the_same_association_commits(desk, archive):
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    archive.join()
    assert states(desk) == COMMITTED
    assert archive.report_statuses == [0x0000]
    assert archive.associations == 2
    assert len(archive.transactions) == 1


def test_a_report_on_a_new_association_commits(desk, archive, listener):
    archive.commits, archive.call_back = "new", listener
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    archive.join()
    assert states(desk) == COMMITTED
    assert archive.report_statuses == [0x0000]


def test_a_variant_is_committed_under_its_own_uid(desk, archive):
    archive.takes = (ENHANCED, SC)
    archive.keeps = lambda uid: uid in archive.objects
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    archive.join()
    assert states(desk) == COMMITTED


def test_what_the_archive_does_not_keep_is_sent_again(desk, archive):
    lost = "1.2.3.1.7.1.1"
    archive.keeps = lambda uid: uid != lost
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    archive.join()
    assert states(desk) == [("due", "failed"), ("committed", "committed")]
    archive.keeps = lambda _: True
    desk.at += HOUR
    desk.sweep()
    archive.join()
    assert states(desk) == COMMITTED
    assert [uid for _, uid in archive.received].count(lost) == 2


def test_an_archive_that_always_loses_it_ends_in_failed(desk, archive):
    archive.keeps = lambda uid: not uid.endswith(".1")
    desk.result("r1", archive.start())
    for _ in range(6):
        desk.sweep()
        archive.join()
        desk.at += HOUR
    assert states(desk) == [("failed", "failed"), ("committed", "committed")]
    assert "0x0112" in desk.look()[0].last_error
    assert len(archive.received) == 5


def test_an_archive_that_never_reports_stays_sent(desk, archive):
    archive.commits = "never"
    desk.result("r1", archive.start())
    for _ in range(8):
        desk.sweep()
        desk.at += HOUR
    assert states(desk) == [("sent", "unanswered")] * 2
    assert len(archive.transactions) == len(set(archive.transactions)) == 5
    assert len(archive.received) == 2


@pytest.mark.parametrize("way", ["same", "new"])
def test_a_report_on_a_wrong_transaction_changes_nothing(desk, archive, listener, way):
    archive.commits, archive.call_back = "wrong", listener
    if way == "same":
        archive.call_back = None
        archive._send = lambda report, _: None  # noqa: SLF001 - a report that is lost
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    archive.join()
    assert states(desk) == [("sent", "asked")] * 2
    assert archive.report_statuses == ([0x0115] if way == "new" else [])


def test_an_archive_that_refuses_the_context_stays_sent(desk, archive):
    archive.commits = None
    desk.result("r1", archive.start())
    for _ in range(3):
        desk.sweep()
        desk.at += HOUR
    assert states(desk) == [("sent", "refused")] * 2
    assert "no presentation context" in desk.look()[0].commitment_note
    assert archive.associations <= 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0x0211, "refused"), (0x0124, "refused"), (0x0110, "asked"), (0x0213, "asked")],
)
def test_the_status_of_the_request_decides(desk, archive, status, expected):
    archive.action_status = status
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == [("sent", expected)] * 2


def test_only_those_are_asked_that_the_site_names(desk, archive):
    desk = desk.with_settings(commit=("OTHER",))
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == [("sent", "None")] * 2
    assert archive.transactions == []


def test_an_archive_that_is_away_after_the_transfer_is_asked_later(desk, archive):
    port = free_port()
    desk.result("r1", peer := archive.start(port))
    desk = desk.with_settings(commit=())
    desk.deliver(peer)
    archive.stop()
    desk = desk.with_settings(commit=("all",))
    with desk.sessions.begin() as session:
        for each in outbox.deliveries(session):
            commitment.want(session, each.delivery_id, desk.at)
    desk.sweep()
    assert states(desk) == [("sent", "due")] * 2
    again = Archive(commits="same")
    again.start(port)
    desk.at += HOUR
    desk.sweep()
    again.join()
    again.stop()
    assert states(desk) == COMMITTED


def report_of(uid: str) -> Dataset:
    made = Dataset()
    made.TransactionUID = uid
    made.ReferencedSOPSequence = []
    return made


def call(listener: Peer, calling_ae: str):
    entity = AE(calling_ae)
    entity.add_requested_context(COMMITMENT)
    asked = entity.associate(listener.host, listener.port, ae_title=listener.ae_title)
    return pausing(asked)


def test_who_is_not_on_the_list_reports_nothing(listener):
    assert call(listener, "STRANGER").is_rejected


def test_a_report_without_role_selection_is_taken(listener):
    association = call(listener, "ARCHIVE")
    answer, _ = association.send_n_event_report(
        report_of("1.2.3.4"), 1, COMMITMENT, COMMITMENT_INSTANCE
    )
    association.release()
    assert answer.Status == 0x0115


def test_a_report_that_makes_no_sense_is_answered(listener):
    association = call(listener, "ARCHIVE")
    answer, _ = association.send_n_event_report(
        report_of(""), 1, COMMITMENT, COMMITMENT_INSTANCE
    )
    association.release()
    assert answer.Status == 0x0115


def test_we_commit_to_keep_nothing(listener):
    association = call(listener, "ARCHIVE")
    answer, _ = association.send_n_action(
        report_of("1.2.3.4"), 1, COMMITMENT, COMMITMENT_INSTANCE
    )
    association.release()
    assert answer.Status == 0x0123


def test_a_real_archive_commits_on_an_association_of_its_own(desk, listener, tmp_path):
    orthanc = Orthanc(tmp_path / "orthanc", listener.port)
    orthanc.start()
    try:
        peer = Peer("ORTHANC", "127.0.0.1", orthanc.port)
        desk.result("r1", peer)
        desk.deliver(peer)
        wait_until(lambda: states(desk) == COMMITTED, "Orthanc's report", 30)
    finally:
        orthanc.stop()


def test_a_real_archive_that_lost_an_object_gets_it_again(desk, listener, tmp_path):
    orthanc = Orthanc(tmp_path / "orthanc", listener.port)
    orthanc.start()
    try:
        peer = Peer("ORTHANC", "127.0.0.1", orthanc.port)
        desk.result("r1", peer)
        without = desk.with_settings(commit=())
        without.deliver(peer)
        for instance in orthanc.get("/instances"):
            orthanc.delete(f"/instances/{instance}")
        with desk.sessions.begin() as session:
            for each in outbox.deliveries(session):
                commitment.want(session, each.delivery_id, desk.at)
        desk.deliver(peer)
        lost = [("due", "failed")] * 2
        wait_until(lambda: states(desk) == lost, "Orthanc's report", 30)
        desk.at += HOUR
        desk.deliver(peer)
        wait_until(lambda: states(desk) == COMMITTED, "Orthanc's report", 30)
    finally:
        orthanc.stop()
