"""C-STORE by our own hands as SCU: what is on the wire, and answers that are none."""

import errno
import os
import struct
import threading
import time
import warnings

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from dicom_node import association, native_send, sender
from dicom_node.errors import PeerUnavailableError, UnreadableObjectError
from dicom_node.part10 import read_meta
from dicom_node.sender import Handling
from dicom_node.study import Peer
from dicom_node.wire import (
    FRAGMENT_HEADER,
    IS_COMMAND,
    IS_LAST,
    PDU_HEADER,
    StoreCommand,
    store_answer,
)
from tests.dicom_node.conftest import MR, SR, dataset, encoded

US = "SENTINODE"
pytestmark = pytest.mark.usefixtures("left_sockets")


class Pacs:
    """pynetdicom's SCP; notes the PDUs that come, and may answer with other bytes."""

    def __init__(self, max_pdu=0, answer=None, taken=(ExplicitVRLittleEndian,)):
        self.answer = answer
        self.pdus, self.received, self.ended = [], [], threading.Event()
        entity = AE("PACS")
        entity.maximum_pdu_size = max_pdu
        self.server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            contexts=[build_context(MR, list(taken)), build_context(SR)],
            evt_handlers=[
                (evt.EVT_DATA_RECV, lambda event: self.pdus.append(event.data)),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_RELEASED, lambda _: self.ended.set()),
                (evt.EVT_ABORTED, lambda _: self.ended.set()),
            ],
        )
        self.peer = Peer("PACS", "127.0.0.1", self.server.server_address[1])

    @property
    def data_pdus(self):
        return [pdu for pdu in self.pdus if pdu[0] == 4]

    def _store(self, event):
        self.received.append(event.encoded_dataset(include_meta=False))
        if self.answer is not None:
            request = StoreCommand(event.request.MessageID, MR, "1.2.3")
            for part in self.answer(event.context.context_id, request):
                event.assoc.dul.socket.socket.sendall(part)
            event.assoc.abort()
        return 0x0000


@pytest.fixture
def start():
    started = []

    def starting(*args, **options):
        started.append(Pacs(*args, **options))
        return started[-1]

    yield starting
    for pacs in started:
        pacs.server.shutdown()


def write(folder, *datasets):
    paths = []
    for each in datasets:
        path = folder / f"{each.SOPInstanceUID}.dcm"
        each.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def large(number, size):
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    return dataset(number, Rows=1, Columns=1, PixelData=content)


@pytest.mark.parametrize("max_pdu", [0, 1024, 16382, 131072, 10_000_000])
@pytest.mark.parametrize("size", [2, 1000, 262_144, 600_000])
def test_a_data_set_arrives_whole_in_pdus_that_the_peer_takes(
    start, tmp_path, max_pdu, size
):
    pacs = start(max_pdu)
    files = write(tmp_path, *(large(n, size) for n in (1, 2)))

    outcomes = list(sender.send(pacs.peer, US, files))

    assert [(each.status, each.error) for each in outcomes] == [(0x0000, None)] * 2
    assert pacs.received == [encoded(dcmread(path)) for path in files]
    lengths = [PDU_HEADER.unpack_from(pdu)[1] for pdu in pacs.data_pdus]
    assert max(lengths) <= min(max_pdu or native_send.CHUNK, native_send.CHUNK)
    assert all(length % 2 == 0 for length in lengths)
    assert pacs.ended.wait(10)


def test_a_peer_with_tiny_pdus_and_an_unknown_pynetdicom_are_served_by_the_stock(
    start, tmp_path, monkeypatch
):
    monkeypatch.setattr(native_send.Line, "store", None)  # nobody may call it
    tiny = start(512)
    (first,) = sender.send(tiny.peer, US, write(tmp_path, dataset(1)))
    monkeypatch.setattr(association, "SUPPORTED", "2.1.")
    other = start()
    (second,) = sender.send(other.peer, US, write(tmp_path, dataset(2)))
    assert first.error is None
    assert second.error is None


def test_our_way_and_the_stock_way_alternate_on_one_association(start, tmp_path):
    pacs = start(taken=(ImplicitVRLittleEndian,))
    implicit = dataset(2)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    files = write(
        tmp_path, dataset(1), implicit, dataset(3), dataset(4, SOPClassUID=SR)
    )

    outcomes = list(sender.send(pacs.peer, US, files))

    assert [each.error for each in outcomes] == [None] * 4
    assert len(pacs.received) == 4
    with files[1].open("rb") as file:
        read_meta(file)
        assert pacs.received[1] == file.read()
    assert pacs.ended.wait(10)


def pieces(context_id, command):
    """An answer in fragments of two bytes, each in a PDU of its own."""
    whole = store_answer(context_id, command, 0xB000)[12:]
    for at in range(0, len(whole), 2):
        control = IS_COMMAND | (IS_LAST if at + 2 >= len(whole) else 0)
        fragment = FRAGMENT_HEADER.pack(4, context_id, control) + whole[at : at + 2]
        yield PDU_HEADER.pack(4, len(fragment)) + fragment


def test_an_answer_may_come_in_fragments(start, tmp_path):
    pacs = start(answer=pieces)
    (outcome,) = sender.send(pacs.peer, US, write(tmp_path, dataset(1)))
    assert (outcome.status, outcome.error) == (0xB000, None)


def to_another(context_id, command):
    other = StoreCommand(command.message_id + 1, MR, "1.2.3")
    return [store_answer(context_id, other, 0x0000)]


def in_another_context(context_id, command):
    return [store_answer(context_id + 2, command, 0x0000)]


def without_status(context_id, command):
    whole = bytearray(store_answer(context_id, command, 0x0000))
    at = whole.index(struct.pack("<HHL", 0, 0x0900, 2))
    whole[at + 2] = 0x03
    return [bytes(whole)]


def a_request(context_id, command):
    whole = bytearray(store_answer(context_id, command, 0x0000))
    at = whole.index(struct.pack("<HHLH", 0, 0x0100, 2, 0x8001))
    whole[at + 8 : at + 10] = struct.pack("<H", 1)
    return [bytes(whole)]


def cut_short(context_id, command):
    return [store_answer(context_id, command, 0x0000)[:20]]


def two_at_once(context_id, command):
    body = store_answer(context_id, command, 0x0000)[6:]
    return [PDU_HEADER.pack(4, 2 * len(body)) + 2 * body]


def a_data_set(context_id, command):
    body = FRAGMENT_HEADER.pack(4, context_id, IS_LAST) + b"\0\0"
    return [PDU_HEADER.pack(4, len(body)) + body]


def too_long(context_id, command):
    return [PDU_HEADER.pack(4, 2**31)]


def empty_pdus(context_id, command):
    return [PDU_HEADER.pack(4, 0), PDU_HEADER.pack(7, 4) + bytes(4)]


def a_lying_length(context_id, command):
    body = FRAGMENT_HEADER.pack(2**31, context_id, IS_COMMAND | IS_LAST)
    return [PDU_HEADER.pack(4, len(body)) + body]


def an_abort(context_id, command):
    return [PDU_HEADER.pack(7, 4) + bytes(4)]


def a_release(context_id, command):
    return [PDU_HEADER.pack(5, 4) + bytes(4)]


def nothing(context_id, command):
    return []


@pytest.mark.parametrize(
    "answer",
    [
        to_another,
        in_another_context,
        without_status,
        a_request,
        cut_short,
        two_at_once,
        a_data_set,
        too_long,
        empty_pdus,
        a_lying_length,
        an_abort,
        a_release,
        nothing,
    ],
)
def test_what_is_no_answer_is_no_success(start, tmp_path, answer):
    pacs = start(answer=answer)
    files = write(tmp_path, dataset(1), dataset(2))

    outcomes = list(sender.send(pacs.peer, US, files))

    assert [each.status for each in outcomes] == [None, None]
    assert all(isinstance(each.error, PeerUnavailableError) for each in outcomes)
    assert len(pacs.received) == 1
    assert pacs.ended.wait(10)


def test_a_peer_that_never_answers_is_waited_for_so_long(start, tmp_path):
    free = threading.Event()

    def silent(context_id, command):
        free.wait(30)
        return []

    pacs = start(answer=silent)
    files = write(tmp_path, dataset(1), dataset(2))
    try:
        outcomes = list(sender.send(pacs.peer, US, files, timeout=0.5))
    finally:
        free.set()
    assert [type(each.error) for each in outcomes] == [PeerUnavailableError] * 2


def test_who_answers_byte_by_byte_is_not_waited_for_without_end(start, tmp_path):
    stop = threading.Event()

    def slow(context_id, command):
        for byte in store_answer(context_id, command, 0x0000):
            if stop.wait(0.2):
                return
            yield bytes([byte])

    pacs = start(answer=slow)
    try:
        (outcome,) = sender.send(pacs.peer, US, write(tmp_path, dataset(1)), timeout=1)
    finally:
        stop.set()
    assert isinstance(outcome.error, PeerUnavailableError)


def test_a_file_that_shrinks_while_it_is_sent_is_unreadable(
    start, tmp_path, monkeypatch
):
    pacs = start()
    files = write(tmp_path, large(1, 600_000), dataset(2))
    send = native_send.Line._send  # noqa: SLF001

    def shrinking(self, part):
        files[0].write_bytes(files[0].read_bytes()[:300_000])
        send(self, part)

    monkeypatch.setattr(native_send.Line, "_send", shrinking)
    first, second = sender.send(pacs.peer, US, files)

    assert isinstance(first.error, UnreadableObjectError)
    assert isinstance(second.error, PeerUnavailableError)
    assert pacs.received == []
    assert pacs.ended.wait(10)


def test_a_file_that_is_gone_leaves_the_association_to_the_others(start, tmp_path):
    pacs = start()
    files = write(tmp_path, dataset(1), dataset(2))

    def gone(path):
        files[0].unlink(missing_ok=True)
        return False

    first, second = sender.send(pacs.peer, US, files, handling=Handling(skip=gone))

    assert isinstance(first.error, UnreadableObjectError)
    assert second.error is None
    assert len(pacs.received) == 1


def test_an_association_that_ended_between_two_files_is_noticed(start, tmp_path):
    pacs = start()
    files = write(tmp_path, dataset(1), dataset(2))

    def end_before_the_second(path):
        if path == files[1]:
            for connection in pacs.server.active_associations:
                connection.abort()
        return False

    handling = Handling(skip=end_before_the_second)
    first, second = sender.send(pacs.peer, US, files, handling=handling)

    assert first.error is None
    assert isinstance(second.error, PeerUnavailableError)


@pytest.mark.parametrize("when", ["before it is taken over", "before it is used"])
def test_a_peer_that_aborts_at_once_is_away_and_nothing_is_raised(
    start, tmp_path, monkeypatch, when
):
    pacs = start()
    files = write(tmp_path, dataset(1), dataset(2))

    def aborted(established):
        for connection in pacs.server.active_associations:
            connection.abort()
        deadline = time.monotonic() + 10
        while established.is_established and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not established.is_established

    if when == "before it is taken over":
        take_over = native_send.take_over

        def late(established, timeout):
            aborted(established)
            return take_over(established, timeout)

        monkeypatch.setattr(native_send, "take_over", late)
    else:
        take = native_send.Line._take  # noqa: SLF001

        def late(self):
            aborted(self._association)
            take(self)

        monkeypatch.setattr(native_send.Line, "_take", late)
    outcomes = list(sender.send(pacs.peer, US, files))

    assert [type(each.error) for each in outcomes] == [PeerUnavailableError] * 2
    assert pacs.received == []


def test_an_object_whose_uid_no_command_can_hold_is_for_pynetdicom(
    start, tmp_path, monkeypatch
):
    """It is sent as before, whatever becomes of it; those after it are sent too."""
    pacs = start()
    files = write(tmp_path, dataset(1), dataset(2))
    content = files[0].read_bytes()
    assert content.count(b"1.2.3.4.5.1") == 2  # file meta and data set
    files[0].write_bytes(content.replace(b"1.2.3.4.5.1", b"1.2.3.4.5.\xe9"))
    ours = []
    store = native_send.Line.store

    def noted(self, path, *rest):
        ours.append(path)
        return store(self, path, *rest)

    monkeypatch.setattr(native_send.Line, "store", noted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the UID, as it should
        _, second = sender.send(pacs.peer, US, files)

    assert ours == [files[1]]
    assert second.error is None


def test_a_disk_that_fails_while_a_file_is_sent_makes_it_unreadable(
    start, tmp_path, monkeypatch
):
    pacs = start()
    files = write(tmp_path, large(1, 600_000))
    with monkeypatch.context() as patch:
        patch.setattr(native_send.os, "fstat", failing)
        (outcome,) = sender.send(pacs.peer, US, files)
    assert isinstance(outcome.error, UnreadableObjectError)


def failing(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))
