"""Deliveries to archives that refuse, abort, hang, warn and come back."""

import logging
import subprocess
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node import outbox
from dicom_node.report.fallback import COMPREHENSIVE, COMPREHENSIVE_3D, ENHANCED
from dicom_node.report.fallback import variant_uid as variant
from dicom_node.study import Peer
from dicom_node.tables import DeliveryState
from tests.archives import SC, Archive
from tests.peers import Orthanc, free_port, wait_until
from worker.tasks import delivery

DAY = timedelta(days=1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def archive():
    made = Archive()
    yield made
    made.stop()


def states(desk):
    return [str(each.state) for each in desk.look()]


def test_what_is_due_goes_out_over_one_association(desk, archive):
    peer = archive.start()
    for number in range(3):
        desk.result(f"r{number}", peer, study=number)
    desk.deliver(peer)
    assert archive.associations == 1
    assert len(archive.received) == 6
    assert states(desk) == ["sent"] * 6
    assert [uid[-1] for _, uid in archive.received] == ["1", "2"] * 3


def test_a_long_queue_goes_out_in_batches_and_stops_at_the_first_trouble(
    desk, archive, monkeypatch
):
    monkeypatch.setattr(delivery, "BATCH", 2)
    peer = archive.start()
    for number in range(4):
        desk.result(f"r{number}", peer, study=number)
    archive.statuses = [0, 0, 0xA700]
    desk.deliver(peer)
    assert (archive.associations, len(archive.received)) == (2, 2)
    desk.deliver(peer)
    assert (archive.associations, len(archive.received)) == (4, 6)


def test_a_second_message_sends_nothing_more(desk, archive):
    peer = archive.start()
    desk.result("r1", peer)
    for _ in range(3):
        desk.deliver(peer)
    assert len(archive.received) == 2
    assert archive.associations == 1


def test_destinations_have_states_of_their_own(desk, archive):
    peer, gone = archive.start(), Peer("GONE", "127.0.0.1", 1)
    desk.result("r1", peer, gone)
    desk.deliver(peer)
    desk.deliver(gone)
    by_destination = {each.destination: str(each.state) for each in desk.look()}
    assert by_destination == {str(peer): "sent", str(gone): "due"}


def test_an_archive_that_rejects_the_association_is_tried_again(desk, archive):
    archive.rejects = True
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    (first, _) = desk.look()
    assert first.state is DeliveryState.DUE
    assert "calling ae title not recognised" in first.last_error.lower()
    assert first.next_attempt_at == desk.at + timedelta(minutes=1)


def test_an_archive_that_takes_none_of_our_classes_fails_for_good(desk, archive):
    archive.takes = ("1.2.840.10008.5.1.4.1.1.2",)
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == ["failed", "failed"]
    assert "no presentation context" in desk.look()[0].last_error


def test_an_archive_without_captures_gets_the_reports(desk, archive):
    archive.takes = (COMPREHENSIVE_3D,)
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == ["sent", "failed"]


def test_a_warning_counts_as_sent_and_is_shown(desk, archive, caplog):
    archive.statuses = [0xB000]
    desk.result("r1", peer := archive.start())
    with caplog.at_level(logging.WARNING, "worker.tasks.delivery"):
        desk.deliver(peer)
    assert states(desk) == ["sent", "sent"]
    assert desk.look()[0].last_status == 0xB000
    assert [each.status for each in caplog.records] == [
        "0xB000 warning: elements were coerced"
    ]


def test_a_duplicate_is_one_that_the_archive_has(desk, archive):
    archive.statuses = [0x0111]
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == ["sent", "sent"]
    assert desk.look()[0].last_status == 0x0111


def test_out_of_resources_is_tried_again_and_keeps_the_order(desk, archive):
    archive.statuses = [0xA700]
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    report, capture = desk.look()
    assert (report.last_status, report.attempts, capture.attempts) == (0xA700, 1, 0)
    assert "out of resources" in report.last_error
    assert archive.received == []
    desk.at += timedelta(seconds=59)
    desk.sweep()
    assert archive.received == []
    desk.at += timedelta(seconds=1)
    desk.sweep()
    assert [uid[-1] for _, uid in archive.received] == ["1", "2"]
    assert states(desk) == ["sent", "sent"]


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122, 0x0124])
def test_a_refusal_is_final_until_a_person_retries(desk, archive, status):
    archive.statuses = [status, status]
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    desk.at += 30 * DAY
    desk.sweep()
    assert states(desk) == ["failed", "failed"]
    assert desk.look()[0].last_status == status
    assert archive.received == []
    with desk.sessions.begin() as session:
        outbox.retry(session, None, desk.at)
    desk.sweep()
    assert states(desk) == ["sent", "sent"]


def test_an_archive_that_hangs_is_left_and_tried_again(desk, archive):
    archive.hangs = True
    desk = desk.with_settings(answer_timeout=timedelta(seconds=1))
    desk.result("r1", peer := archive.start())
    began = time.monotonic()
    desk.deliver(peer)
    assert time.monotonic() - began < 10
    assert states(desk) == ["due", "due"]
    assert "did not answer" in desk.look()[0].last_error


def test_an_abort_after_one_object_keeps_that_one(desk, archive):
    archive.abort_at = 1
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == ["sent", "due"]


@contextmanager
def storescp(folder: Path, *options: str):
    """Run DCMTK's storage SCP."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    process = subprocess.Popen(
        ["storescp", *options, "-od", str(folder), "-aet", "DCMTK", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peer = Peer("DCMTK", "127.0.0.1", port)
    try:
        wait_until(lambda: _is_open(port), "storescp's start")
        yield peer
    finally:
        process.kill()
        process.wait(10)


def _is_open(port: int) -> bool:
    done = subprocess.run(
        ["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False
    )
    return done.returncode == 0 or b"Rejected" in done.stderr + done.stdout


@pytest.mark.parametrize("option", ["--abort-during", "--abort-after"])
def test_an_abort_in_mid_object_is_tried_again(desk, tmp_path, option):
    with storescp(tmp_path / "dcmtk", option) as peer:
        desk.result("r1", peer)
        desk.deliver(peer)
    assert states(desk) == ["due", "due"]
    assert desk.look()[0].attempts == 1


def test_a_refused_association_is_tried_again(desk, tmp_path):
    port = free_port()
    with subprocess.Popen(
        ["storescp", "--refuse", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        peer = Peer("DCMTK", "127.0.0.1", port)
        wait_until(lambda: _is_open(port), "storescp's start")
        desk.result("r1", peer)
        desk.deliver(peer)
        process.kill()
    assert states(desk) == ["due", "due"]
    assert "rejected the association" in desk.look()[0].last_error


PROFILE = """
[[TransferSyntaxes]]
[Explicit]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[OnlyThese]
PresentationContext1 = EnhancedSRStorage\\Explicit
PresentationContext2 = SecondaryCaptureImageStorage\\Explicit
PresentationContext3 = VerificationSOPClass\\Explicit
[[Profiles]]
[Old]
PresentationContexts = OnlyThese
"""


def test_an_archive_of_enhanced_reports_gets_a_whole_chain_of_them(desk, tmp_path):
    profile = tmp_path / "storescp.cfg"
    profile.write_text(PROFILE)
    with storescp(tmp_path / "dcmtk", "-xf", str(profile), "Old", "+B") as peer:
        for version in (1, 2):
            desk.result(f"r{version}", peer, version=version)
            desk.deliver(peer)
            desk.at += DAY
    listed = desk.look()
    first, second = (variant(f"1.2.3.1.7.{n}.1", ENHANCED) for n in (1, 2))
    assert states(desk) == ["sent"] * 4
    assert [each.sop_instance_uid for each in listed if each.kind == "SR"] == [
        first,
        second,
    ]
    assert [each.variant_of for each in listed] == [
        "1.2.3.1.7.1.1",
        None,
        "1.2.3.1.7.2.1",
        None,
    ]
    with desk.sessions() as session:
        known = outbox.documents(session, "r2", variants=True)
    stored = {path.read_bytes()[132:] for path in (tmp_path / "dcmtk").iterdir()}
    report = next(each for each in known if each.sop_instance_uid == second)
    assert report.variant_of == "1.2.3.1.7.2.1"
    assert len(stored) == 4
    frozen = desk.spool.read_document(report.path)
    assert first.encode() in frozen
    assert any(first.encode() in each and second.encode() in each for each in stored)


@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        ((COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED), COMPREHENSIVE_3D),
        ((COMPREHENSIVE, ENHANCED), COMPREHENSIVE),
        ((ENHANCED,), ENHANCED),
    ],
)
def test_the_best_class_that_is_accepted_goes_out(desk, archive, takes, expected):
    archive.takes = (*takes, SC)
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert [each for each, _ in archive.received] == [expected, SC]
    assert desk.look()[0].sop_class_uid == expected


def test_a_status_never_leads_to_another_class(desk, archive):
    archive.statuses = [0x0122]
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    assert states(desk) == ["failed", "sent"]
    assert [each for each, _ in archive.received] == [SC]


def test_a_variant_is_frozen_once(desk, archive):
    archive.takes, archive.statuses = (ENHANCED, SC), [0xA700]
    desk.result("r1", peer := archive.start())
    desk.deliver(peer)
    with desk.sessions() as session:
        (first,) = outbox.documents(session, "r1", variants=True)[1:2]
    desk.at += timedelta(minutes=1)
    desk.deliver(peer)
    with desk.sessions() as session:
        (again,) = outbox.documents(session, "r1", variants=True)[1:2]
    assert first == again
    assert archive.received[0] == (ENHANCED, first.sop_instance_uid)


def test_a_day_of_outage_delivers_everything_once_in_order(desk, archive):
    port = free_port()
    peer = Peer("ARCHIVE", "127.0.0.1", port)
    desk.result("r1", peer)
    began, attempts = desk.at, 0
    while desk.at < began + DAY:
        desk.sweep()
        if desk.at == began + 10 * timedelta(hours=1):
            desk.result("r2", peer, version=2)
            desk.result("other", peer, study=2)
        attempts = max(attempts, desk.look()[0].attempts)
        desk.at += timedelta(minutes=30)
    assert archive.start(port) == peer
    while "due" in states(desk):
        desk.sweep()
        desk.at += timedelta(minutes=30)
    assert states(desk) == ["sent"] * 6
    assert 24 <= attempts <= 30
    ours = [uid for _, uid in archive.received if uid.startswith("1.2.3.1.")]
    assert ours == [f"1.2.3.1.7.{v}.{n}" for v in (1, 2) for n in (1, 2)]
    assert len(archive.received) == 6


def test_trying_ends_after_the_time_that_the_site_set(desk):
    gone = Peer("GONE", "127.0.0.1", 1)
    desk = desk.with_settings(give_up_after=timedelta(hours=1))
    desk.result("r1", gone)
    for _ in range(3):
        desk.sweep()
        desk.at += timedelta(hours=1)
    assert states(desk) == ["failed", "failed"]


def test_the_site_says_how_long_a_failed_delivery_waits(desk):
    gone = Peer("GONE", "127.0.0.1", 1)
    desk = desk.with_settings(retry_after=timedelta(seconds=2))
    desk.result("r1", gone)
    waits = []
    for _ in range(3):
        desk.sweep()
        with desk.sessions() as session:
            next_at = outbox.deliveries(session)[0].next_attempt_at
        waits.append((next_at - desk.at).total_seconds())
        desk.at = next_at
    assert waits == [2, 10, 30]


def test_a_damaged_document_is_never_sent(desk, archive):
    desk.result("r1", peer := archive.start())
    with desk.sessions() as session:
        report = outbox.documents(session, "r1")[0]
    desk.spool.absolute(report.path).write_bytes(b"damaged")
    desk.deliver(peer)
    assert states(desk) == ["failed", "sent"]
    assert [each for each, _ in archive.received] == [SC]


def test_no_log_line_names_the_patient(desk, archive, caplog):
    archive.takes, archive.statuses = (ENHANCED, SC), [0xB000, 0xA700]
    desk.result("r1", peer := archive.start())
    with caplog.at_level(logging.INFO):
        desk.deliver(peer)
    assert caplog.records
    assert "MARKER" not in caplog.text.upper()
    said = " ".join(str(vars(each)) for each in caplog.records)
    assert "MARKER" not in said.upper()


def test_a_real_archive_takes_reports_and_captures(desk, tmp_path):
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    orthanc.start()
    try:
        host, _, port = str(orthanc).partition("@")[2].partition(":")
        peer = Peer("ORTHANC", host, int(port))
        desk.result("r1", peer)
        desk.result("r2", peer, version=2)
        desk.deliver(peer)
        stored = [
            orthanc.get(f"/instances/{one}/tags?short")
            for one in orthanc.get("/instances")
        ]
    finally:
        orthanc.stop()
    assert states(desk) == ["sent"] * 4
    assert {one["0008,0018"] for one in stored} == {
        each.sop_instance_uid for each in desk.look()
    }
