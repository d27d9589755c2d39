import shutil
import time
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from dicom_node import native_send, sender
from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    UnreadableObjectError,
)
from dicom_node.sender import Handling, echo
from dicom_node.study import Peer
from tests.dicom_node.conftest import MR, SR, dataset, encoded

US = "SENTINODE"
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]


class Pacs:
    """A storage SCP that answers as told and keeps what it gets."""

    def __init__(self):
        self.status = 0x0000
        self.received = []
        self.associations = 0
        self.abort_at = None
        self._entity = AE("PACS")
        self._entity.maximum_associations = 2
        self._server = None

    def start(self, contexts) -> Peer:
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ESTABLISHED, self._established),
        ]
        self._server = self._entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=handlers, contexts=contexts
        )
        return Peer("PACS", "127.0.0.1", self._server.server_address[1])

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()

    def _established(self, event) -> None:
        self.associations += 1

    def _store(self, event) -> int:
        if len(self.received) == self.abort_at:
            event.assoc.abort()
        self.received.append(
            (str(event.context.transfer_syntax), event.encoded_dataset(False))
        )
        return self.status


@pytest.fixture
def pacs():
    server = Pacs()
    yield server
    server.stop()


@pytest.fixture(params=["native", "stock"])
def send(request, monkeypatch):
    """`sender.send`, with our own hands and with pynetdicom's."""
    native = request.param == "native"
    if not native:
        monkeypatch.setattr(native_send.Line, "store", None)  # nobody may call it

    def sending(peer, calling, files, handling=None, **options):
        how = replace(handling or Handling(), native=native)
        return sender.send(peer, calling, files, handling=how, **options)

    return sending


def contexts(*pairs):
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


TAKES_MR = contexts((MR, ExplicitVRLittleEndian))


def write(folder, *datasets):
    paths = []
    for each in datasets:
        path = folder / f"{each.SOPInstanceUID}.dcm"
        each.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def test_files_go_out_byte_for_byte_in_their_order(send, pacs, tmp_path):
    peer = pacs.start(TAKES_MR)
    files = write(tmp_path, *(dataset(n) for n in (3, 1, 2)))
    outcomes = list(send(peer, US, files))
    assert [each.path for each in outcomes] == files
    assert [(each.status, each.error) for each in outcomes] == [(0x0000, None)] * 3
    assert [each.sop_instance_uid for each in outcomes] == [
        f"1.2.3.4.5.{n}" for n in (3, 1, 2)
    ]
    expected = [encoded(dcmread(path)) for path in files]
    assert [content for _, content in pacs.received] == expected
    assert pacs.associations == 1


def test_a_peer_that_wants_implicit_vr_gets_it(send, pacs, tmp_path):
    peer = pacs.start(contexts((MR, ImplicitVRLittleEndian)))
    (outcome,) = send(peer, US, write(tmp_path, dataset(1)))
    assert outcome.error is None
    assert pacs.received[0][0] == ImplicitVRLittleEndian


def test_compressed_files_go_out_as_they_are(send, pacs, tmp_path):
    peer = pacs.start(contexts((MR, JPEGLSLossless)))
    made = dataset(1, PixelData=None)
    made.file_meta.TransferSyntaxUID = JPEGLSLossless
    (outcome,) = send(peer, US, write(tmp_path, made))
    assert outcome.error is None
    assert pacs.received == [(JPEGLSLossless, encoded(made))]


def test_a_class_that_the_peer_does_not_take_is_refused_for_good(send, pacs, tmp_path):
    peer = pacs.start(TAKES_MR)
    files = write(tmp_path, dataset(1, SOPClassUID=SR), dataset(2))
    first, second = send(peer, US, files)
    assert isinstance(first.error, PeerRejectedError)
    assert second.error is None


def test_a_peer_that_takes_nothing_of_ours_refuses_for_good(send, pacs, tmp_path):
    peer = pacs.start(contexts((SR, ExplicitVRLittleEndian)))
    (outcome,) = send(peer, US, write(tmp_path, dataset(1)))
    assert isinstance(outcome.error, PeerRejectedError)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x0000, None),
        (0xB000, None),
        (0xB007, None),
        (0x0107, None),
        (0xA700, PeerUnavailableError),
        (0xA702, PeerUnavailableError),
        (0xA900, PeerRejectedError),
        (0xC000, PeerRejectedError),
        (0x0110, PeerRejectedError),
        (0x0122, PeerRejectedError),
    ],
)
def test_a_status_says_whether_to_try_again(send, pacs, tmp_path, status, error):
    peer = pacs.start(TAKES_MR)
    pacs.status = status
    (outcome,) = send(peer, US, write(tmp_path, dataset(1)))
    assert outcome.status == status
    assert type(outcome.error) is (type(None) if error is None else error)
    assert getattr(outcome.error, "status", status) == status


def test_after_an_abort_the_rest_is_to_be_tried_again(send, pacs, tmp_path):
    peer = pacs.start(TAKES_MR)
    pacs.abort_at = 1
    outcomes = list(send(peer, US, write(tmp_path, *(dataset(n) for n in range(3)))))
    assert [each.error is None for each in outcomes] == [True, False, False]
    assert all(isinstance(each.error, PeerUnavailableError) for each in outcomes[1:])


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_a_peer_that_is_not_there_is_to_be_tried_again(send, tmp_path, host):
    peer = Peer("PACS", host, 1)
    (outcome,) = send(peer, US, write(tmp_path, dataset(1)))
    assert isinstance(outcome.error, PeerUnavailableError)
    with pytest.raises(PeerUnavailableError, match="PACS@"):
        echo(peer, US)


def test_a_file_that_is_not_dicom_stops_nothing_else(send, pacs, tmp_path):
    peer = pacs.start(TAKES_MR)
    other = tmp_path / "notes.txt"
    other.write_text("not DICOM")
    files = [other, tmp_path / "missing", *write(tmp_path, dataset(1))]
    outcomes = {each.path: each for each in send(peer, US, files)}
    assert isinstance(outcomes[other].error, UnreadableObjectError)
    assert isinstance(outcomes[files[1]].error, UnreadableObjectError)
    assert outcomes[files[2]].error is None


def test_many_classes_take_several_associations(send, pacs, tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "MAX_CONTEXTS", 2)
    peer = pacs.start(
        contexts((MR, ExplicitVRLittleEndian), (SR, ExplicitVRLittleEndian))
    )
    files = write(tmp_path, dataset(1), dataset(2), dataset(3, SOPClassUID=SR))
    assert [each.error for each in send(peer, US, files)] == [None] * 3
    assert pacs.associations == 2


def test_an_echo_takes_milliseconds(pacs):
    peer = pacs.start([*TAKES_MR, build_context("1.2.840.10008.1.1")])
    began = time.perf_counter()
    elapsed = echo(peer, US)
    assert 0 < elapsed < (time.perf_counter() - began) * 1000


def test_a_peer_without_verification_is_told_apart(pacs):
    with pytest.raises(PeerRejectedError):
        echo(pacs.start(TAKES_MR), US)


def test_nothing_to_send_needs_no_association(send, pacs, tmp_path):
    assert list(send(Peer("PACS", "127.0.0.1", 1), US, [])) == []


def test_a_real_study_goes_out(send, pacs, real_data, tmp_path):
    peer = pacs.start(TAKES_MR)
    folder = real_data / "breast-dce-mri" / "multiphase-study-d1f3d33d"
    files = [
        shutil.copy(path, tmp_path / f"{number}.dcm")
        for number, path in enumerate(sorted(folder.rglob("*.dcm"))[:12])
    ]
    assert [each.error for each in send(peer, US, files)] == [None] * len(files)
    assert len(pacs.received) == len(files)
