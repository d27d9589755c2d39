"""Counting at real archives: Orthanc, and DCMTK's, which counts no studies."""

import socket
import threading
import time
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import SecondaryCaptureImageStorage

from dicom_node import retrieve
from dicom_node.errors import PeerRejectedError, PeerUnavailableError
from dicom_node.retrieve import Holding
from dicom_node.study import Peer, StudyUid
from tests import dicom_objects
from tests.peers import ORTHANC_AET, Dcmqrscp, Orthanc, dcmsend

AET = "SENTINODE"
TIMEOUT = 5.0


@pytest.fixture(scope="module", params=[Orthanc, Dcmqrscp], ids=["Orthanc", "DCMTK"])
def archive(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    made = Orthanc(folder, 104) if request.param is Orthanc else Dcmqrscp(folder)
    made.start()
    yield Peer.parse(str(made))
    made.stop()


@pytest.fixture
def slices(request):
    return dicom_objects.fresh_study(request.node.name)


def put(peer: Peer, folder, *datasets) -> None:
    folder.mkdir(exist_ok=True)
    files = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    dcmsend(str(peer), *files, calling=AET)


def ours(*datasets):
    return Holding.of(
        dicom_objects.stored_instance(one, Path(__file__)) for one in datasets
    )


def count(peer: Peer, slices, here, timeout=TIMEOUT):
    with retrieve.querying(peer, AET, timeout) as archive:
        uid = StudyUid(str(slices[0].StudyInstanceUID))
        return retrieve.count(archive, uid, ours(*here))


@pytest.mark.e2e
def test_the_same_images_there_and_here_agree(archive, slices, tmp_path):
    put(archive, tmp_path / "x", *slices)
    counts = count(archive, slices, slices)
    assert counts.agree
    assert counts.here == len(slices)


@pytest.mark.e2e
def test_one_image_that_was_not_routed_is_missed_by_its_series(
    archive, slices, tmp_path
):
    put(archive, tmp_path / "x", *slices)
    counts = count(archive, slices, slices[:-1])
    assert counts.missing == {str(slices[-1].SeriesInstanceUID): 1}
    assert "8 MR image(s) are here, 9 at the archive; 1 did not come" in str(counts)


@pytest.mark.e2e
def test_a_whole_series_that_was_not_routed_is_missed(archive, slices, tmp_path):
    put(archive, tmp_path / "x", *slices)
    counts = count(archive, slices, slices[:6])
    assert counts.missing == {str(slices[6].SeriesInstanceUID): 3}


def capture_of(image, series_uid, modality):
    capture = dicom_objects.reread(image)
    capture.SOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = dicom_objects.derived("SC", image.SOPInstanceUID)
    capture.SeriesInstanceUID, capture.Modality = series_uid, modality
    capture.file_meta.MediaStorageSOPClassUID = capture.SOPClassUID
    capture.file_meta.MediaStorageSOPInstanceUID = capture.SOPInstanceUID
    return capture


@pytest.mark.e2e
def test_what_is_not_compared_never_disagrees(archive, slices, tmp_path):
    capture = capture_of(slices[0], dicom_objects.derived(str(tmp_path)), "OT")
    mark = dicom_objects.gsps_rectangle([slices[4]])
    put(archive, tmp_path / "x", *slices, mark, capture)
    assert count(archive, slices, slices).agree


@pytest.mark.e2e
def test_a_capture_in_an_mr_series_is_known_by_its_class_or_because_it_is_here(
    archive, slices, tmp_path
):
    capture = capture_of(slices[0], slices[0].SeriesInstanceUID, "MR")
    put(archive, tmp_path / "x", *slices, capture)
    assert count(archive, slices, [*slices, capture]).agree
    tells_classes = archive.ae_title == ORTHANC_AET
    assert count(archive, slices, slices).agree is tells_classes


@pytest.mark.e2e
def test_a_study_that_the_archive_does_not_know_lacks_nothing(archive, slices):
    assert count(archive, slices, slices).agree


@pytest.mark.e2e
def test_more_here_than_there_lacks_nothing(archive, slices, tmp_path):
    put(archive, tmp_path / "x", *slices[:5])
    assert count(archive, slices, slices).agree


class Scp:
    """An archive that answers C-FIND as a test wants."""

    def __init__(self, answer):
        entity = AE("FAKE")
        entity.add_supported_context(retrieve.FIND)
        handlers = [(evt.EVT_C_FIND, answer)]
        self._server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=handlers
        )
        self.peer = Peer("FAKE", "127.0.0.1", self._server.socket.getsockname()[1])

    def __enter__(self) -> Peer:
        return self.peer

    def __exit__(self, *_):
        self._server.shutdown()


def match(**values) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


@pytest.mark.parametrize(
    ("status", "error"),
    [(0xA700, PeerUnavailableError), (0xA900, PeerRejectedError), (0xC001, None)],
)
def test_a_refusal_is_no_count(slices, status, error):
    with (
        Scp(lambda event: iter([(status, None)])) as peer,
        pytest.raises(error or PeerRejectedError),
    ):
        count(peer, slices, slices)


def test_an_archive_that_answers_about_other_studies_is_not_believed(slices):
    other = match(StudyInstanceUID="9.9", NumberOfStudyRelatedInstances="999")
    with Scp(lambda event: iter([(0xFF00, other)])) as peer:
        assert count(peer, slices, slices).agree


def test_an_archive_without_numbers_and_classes_is_asked_for_each_image(slices):
    asked = []

    def answer(event):
        level = event.identifier.QueryRetrieveLevel
        asked.append(level)
        uid = event.identifier.StudyInstanceUID
        series = slices[0].SeriesInstanceUID
        if level == "IMAGE":
            for one in slices[:3]:
                yield 0xFF00, match(SOPInstanceUID=one.SOPInstanceUID)
        else:
            yield 0xFF00, match(StudyInstanceUID=uid, SeriesInstanceUID=series)

    with Scp(answer) as peer:
        assert count(peer, slices, slices[:3]).agree
        assert count(peer, slices, slices[:2]).missing == {
            str(slices[0].SeriesInstanceUID): 1
        }
    assert asked == ["STUDY", "SERIES", "IMAGE"] * 2


def test_no_match_is_lost_on_a_busy_host(slices, monkeypatch):
    """The reactor, slow to stop, must not take a response that a query waits for."""
    wait = threading.Event.wait

    def slow(event, timeout=None):
        done = wait(event, timeout)
        thread = threading.current_thread()
        if isinstance(thread, Association) and thread.is_requestor:
            until = time.monotonic() + 0.2
            while thread.dimse.msg_queue.empty() and time.monotonic() < until:
                time.sleep(0.001)
        return done

    found = match(StudyInstanceUID=slices[0].StudyInstanceUID)
    counts = []
    with Scp(lambda event: iter([(0xFF00, found)] * 20)) as peer:
        monkeypatch.setattr(threading.Event, "wait", slow)
        with retrieve.querying(peer, AET, TIMEOUT) as archive:
            for _ in range(3):
                counts.append(0)
                for _ in retrieve.find(archive, "STUDY"):
                    time.sleep(0.01)
                    counts[-1] += 1
        monkeypatch.undo()
    assert counts == [20, 20, 20]


def test_numbers_that_are_none_do_no_harm(slices):
    def answer(event):
        if event.identifier.QueryRetrieveLevel == "IMAGE":
            return
        uid = event.identifier.StudyInstanceUID
        found = match(StudyInstanceUID=uid, Modality="MR", SeriesInstanceUID="1.2")
        found.add_new(0x00201208, "LO", "many")
        found.add_new(0x00201209, "LO", "-1e999")
        yield 0xFF00, found

    with Scp(answer) as peer:
        assert count(peer, slices, slices).agree  # it lists no image either


def test_an_archive_that_does_not_come_to_an_end_is_left(slices, monkeypatch):
    monkeypatch.setattr(retrieve, "MAX_MATCHES", 5)

    def answer(event):
        uid = event.identifier.StudyInstanceUID
        while not event.is_cancelled:
            yield 0xFF00, match(StudyInstanceUID=uid)
            time.sleep(0.01)

    with Scp(answer) as peer, pytest.raises(PeerUnavailableError, match="an end"):
        count(peer, slices, slices)


def test_an_archive_that_is_silent_is_waited_for_no_longer_than_that(slices):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        peer = Peer("SILENT", "127.0.0.1", silent.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(PeerUnavailableError):
            count(peer, slices, slices, timeout=1.0)
        assert time.monotonic() - started < 5


def test_a_query_that_is_not_answered_is_waited_for_no_longer_than_that(slices):
    go = threading.Event()

    def answer(event):
        go.wait(10)
        yield 0x0000, None

    with Scp(answer) as peer:
        started = time.monotonic()
        with pytest.raises(PeerUnavailableError):
            count(peer, slices, slices, timeout=1.0)
        elapsed = time.monotonic() - started
        go.set()
    assert elapsed < 5


def test_a_peer_that_takes_no_queries_says_so(slices):
    entity = AE("STORE")
    entity.add_supported_context(SecondaryCaptureImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    peer = Peer("STORE", "127.0.0.1", server.socket.getsockname()[1])
    with pytest.raises(PeerRejectedError, match="presentation context"):
        count(peer, slices, slices)
    server.shutdown()
