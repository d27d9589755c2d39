"""C-STORE read natively: what is taken, what is handed over, what ends it."""

import errno
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Self

import pynetdicom
import pytest

from dicom_node import association, native_store
from dicom_node import wire as native_wire
from dicom_node.settings import NodeSettings
from dicom_node.spool import INCOMING
from tests.dicom_node.conftest import (
    CALLER,
    MR,
    associate,
    dataset,
    encoded,
    make_database,
    store_all,
)
from tests.dicom_node.test_listener import (
    listen,
    look,
    open_associations,
    stored_uids,
    wait_until,
)
from tests.fuzz import wire

WHOLE = wire.COMMAND | wire.LAST
CONTEXT = 3  # MR images, in `wire.request`

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]


@pytest.fixture
def database(request) -> str:
    return make_database(request, "sqlite")


@pytest.fixture
def settings(settings) -> NodeSettings:
    return settings.model_copy(update={"max_associations": 4})


@pytest.fixture
def handed_over(monkeypatch) -> list[bytes]:
    """What pynetdicom was given to read, by its first bytes."""
    given: list[bytes] = []
    hand_over = native_store.Reader._hand_over  # noqa: SLF001 - nothing else tells it

    def noted(self, ahead: bytes) -> bool:
        given.append(bytes(ahead))
        return hand_over(self, ahead)

    monkeypatch.setattr(native_store.Reader, "_hand_over", noted)
    return given


class Caller:
    """A sender whose every byte the test chooses."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.sendall(wire.request(CALLER))
        assert self.pdu()[0] == 2

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.sock.close()

    def send(self, *pdus: bytes) -> None:
        self.sock.sendall(b"".join(pdus))

    def pdu(self) -> bytes:
        """One PDU; nothing when the connection is closed."""
        head = self._read(6)
        if not head:
            return b""
        return head + self._read(struct.unpack(">L", head[2:])[0])

    def status(self) -> int:
        """The status of the next C-STORE response."""
        answer = self.pdu()
        assert answer[0] == 4, answer
        found = answer.index(struct.pack("<HHL", 0, 0x0900, 2))
        return struct.unpack_from("<H", answer, found + 8)[0]

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self.sock.recv(size - len(found))
            if not part:
                return b""
            found += part
        return found


def said(number: int = 1, uid: str | None = None) -> bytes:
    """The command of a store of `dataset(number)`."""
    return wire.command(wire.STORE, MR, uid or f"1.2.3.4.5.{number}", number)


def asked(number: int = 1) -> bytes:
    return wire.data(CONTEXT, WHOLE, said(number))


def fragment(content: bytes, control: int = 0, context: int = CONTEXT) -> bytes:
    """A fragment as it stands in a PDU, which may hold several."""
    return wire.data(context, control, content)[6:]


def drafts(settings) -> list[Path]:
    return list((settings.spool / INCOMING).glob("*"))


@pytest.fixture
def started(settings, sessions):
    running = listen(settings, sessions)
    yield running
    running.stop()


def test_the_guard_names_the_pynetdicom_that_this_was_proven_on():
    assert association.is_supported(), (
        f"pynetdicom {pynetdicom.__version__} is new: run this file and "
        "tests/chaos against it, then extend association.SUPPORTED"
    )


def test_with_another_pynetdicom_it_serves_alone(started, monkeypatch, sessions):
    monkeypatch.setattr(association, "SUPPORTED", "2.1.")
    monkeypatch.setattr(native_store.Reader, "read", None)  # nobody may call it
    assert store_all(started.port, dataset(1)) == [0x0000]
    assert look(sessions).instances == 1


def test_a_store_goes_by_our_own_hands_and_the_rest_by_pynetdicom(
    started, handed_over, sessions
):
    association = associate(started.port)
    assert association.send_c_store(dataset(1)).Status == 0
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(dataset(2)).Status == 0
    association.release()
    kinds = [one[0] for one in handed_over]
    assert kinds == [0x04, 0x05]  # the echo, the release
    wait_until(lambda: stored_uids(sessions) == ["1.2.3.4.5.1", "1.2.3.4.5.2"])


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_data_set_may_come_in_fragments_of_any_size(started, sessions, size):
    content = encoded(dataset(1))
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    with Caller(started.port) as caller:
        pdus = [wire.data(CONTEXT, 0, part) for part in parts[:-1]]
        caller.send(asked(), *pdus, wire.data(CONTEXT, wire.LAST, parts[-1]))
        assert caller.status() == 0x0000
    assert look(sessions).instances == 1


def test_a_pdu_may_hold_many_fragments_and_the_last_be_empty(
    started, sessions, handed_over
):
    content = encoded(dataset(1))
    halves = fragment(content[:100]) + fragment(content[100:])
    with Caller(started.port) as caller:
        caller.send(asked(), wire.pdu(4, halves), wire.data(CONTEXT, wire.LAST, b""))
        assert caller.status() == 0x0000
    assert not [one for one in handed_over if one[0] == 4]
    assert look(sessions).instances == 1


def test_command_and_data_in_one_pdu_are_for_pynetdicom(started, sessions, handed_over):
    both = fragment(said(), WHOLE) + fragment(encoded(dataset(1)), wire.LAST)
    with Caller(started.port) as caller:
        caller.send(wire.pdu(4, both))
        assert caller.status() == 0x0000
    assert [one[0] for one in handed_over][:1] == [4]
    assert look(sessions).instances == 1


def test_a_command_in_two_fragments_is_for_pynetdicom_with_its_data(started, sessions):
    content = encoded(dataset(1))
    with Caller(started.port) as caller:
        caller.send(
            wire.data(CONTEXT, wire.COMMAND, said()[:50]),
            wire.data(CONTEXT, WHOLE, said()[50:]),
            wire.data(CONTEXT, 0, content[:100]),
            wire.data(CONTEXT, wire.LAST, content[100:]),
        )
        assert caller.status() == 0x0000
        caller.send(asked(2), wire.data(CONTEXT, wire.LAST, encoded(dataset(2))))
        assert caller.status() == 0x0000
    wait_until(lambda: look(sessions).instances == 2)


def test_the_next_request_may_come_before_the_answer(started, sessions):
    with Caller(started.port) as caller:
        for number in range(1, 6):
            last = wire.data(CONTEXT, wire.LAST, encoded(dataset(number)))
            caller.send(asked(number), last)
        assert [caller.status() for _ in range(5)] == [0x0000] * 5
    wait_until(lambda: look(sessions).instances == 5)


@pytest.mark.parametrize(
    "what",
    [
        wire.data(CONTEXT, WHOLE, said(2)),
        wire.data(1, 0, b"x"),
        wire.pdu(4, fragment(b"x" * 10)[:-3]),
        wire.pdu(4, fragment(b"x") + b"\0\0\0"),
        wire.pdu(4, fragment(b"x", wire.LAST) + fragment(b"y", wire.LAST)),
        wire.pdu(4, struct.pack(">LBB", 1, CONTEXT, 0)),
    ],
    ids=["command", "other context", "cut", "half a head", "after the last", "short"],
)
def test_what_is_no_fragment_of_the_message_aborts(started, settings, sessions, what):
    with Caller(started.port) as caller:
        caller.send(asked(), wire.data(CONTEXT, 0, encoded(dataset(1))[:500]), what)
        assert caller.pdu()[:1] == b"\7"
    wait_until(lambda: not drafts(settings))
    assert store_all(started.port, dataset(1)) == [0x0000]
    assert look(sessions).instances == 1


@pytest.mark.parametrize("end", [wire.pdu(7, bytes(4)), wire.pdu(5, bytes(4)), b""])
def test_an_end_in_the_middle_of_a_data_set_leaves_nothing(started, settings, end):
    with Caller(started.port) as caller:
        caller.send(asked(), wire.data(CONTEXT, 0, encoded(dataset(1))[:500]), end)
        wait_until(lambda: drafts(settings) or end)
    wait_until(lambda: not drafts(settings) and not started._stores)  # noqa: SLF001 - how many stand


def test_stopping_ends_a_transfer_that_stands_still(settings, sessions):
    started = listen(settings, sessions)
    with Caller(started.port) as caller:
        caller.send(asked(), wire.data(CONTEXT, 0, encoded(dataset(1))[:500]))
        wait_until(lambda: drafts(settings))
        started.stop()
        assert caller.pdu()[:1] in {b"\7", b""}
    wait_until(lambda: not drafts(settings))


def test_a_message_that_is_too_long_is_aborted(settings, sessions, monkeypatch):
    monkeypatch.setattr(native_store, "MARGIN_BYTES", 10_000)
    started = listen(settings, sessions, max_instance_bytes=20_000)
    with Caller(started.port) as caller:
        caller.send(asked(), *[wire.data(CONTEXT, 0, bytes(5000))] * 7)
        assert caller.pdu()[:1] == b"\7"
    wait_until(lambda: not drafts(settings))
    started.stop()


def test_a_pdu_longer_than_any_that_was_negotiated_hangs_up(started, monkeypatch):
    monkeypatch.setattr(native_store, "MARGIN_BYTES", 0)
    with Caller(started.port) as caller:
        caller.send(asked(), struct.pack(">BBL", 4, 0, 2**31) + bytes(100))
        assert caller.pdu() == b""


def test_a_disk_that_fills_on_the_way_refuses_and_serves_on(
    started, settings, sessions, monkeypatch
):
    content = encoded(dataset(1, PixelData=bytes(100_000)))
    write = os.write

    def full(handle: int, part) -> int:
        if len(part) > 40_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, part)

    with Caller(started.port) as caller:
        monkeypatch.setattr(os, "write", full)
        halves = wire.data(CONTEXT, 0, content[:1000]), content[1000:]
        caller.send(asked(), halves[0], wire.data(CONTEXT, wire.LAST, halves[1]))
        assert caller.status() == 0xA700
        assert not drafts(settings)
        monkeypatch.undo()
        caller.send(asked(), wire.data(CONTEXT, wire.LAST, content))
        assert caller.status() == 0x0000
    assert look(sessions).instances == 1


def test_room_is_looked_for_while_an_object_comes(settings, sessions, monkeypatch):
    started = listen(settings, sessions)
    intake = type(started._intake)  # noqa: SLF001 - the fault is in it
    monkeypatch.setattr("dicom_node.intake.LOOK_EVERY", 10_000)
    room = intake._check_room  # noqa: SLF001 - as above

    def filling(self, size: int) -> None:
        room(self, size + (2**60 if size else 0))

    monkeypatch.setattr(intake, "_check_room", filling)
    with Caller(started.port) as caller:
        content = encoded(dataset(1, PixelData=bytes(50_000)))
        caller.send(asked(), wire.data(CONTEXT, wire.LAST, content))
        assert caller.status() == 0xA700
    started.stop()
    assert not drafts(settings)


def test_the_other_thread_rests_only_while_there_is_something_to_read(started):
    with Caller(started.port) as caller:
        caller.send(asked(), wire.data(CONTEXT, 0, encoded(dataset(1))[:500]))
        wait_until(lambda: started._stores)  # noqa: SLF001 - who is there
        (connection,) = started._stores  # noqa: SLF001 - as above
        wait_until(connection._reactor_checkpoint.is_set)  # noqa: SLF001 - as above
        caller.send(wire.pdu(7, bytes(4)))
        wait_until(lambda: not started._stores)  # noqa: SLF001 - as above


def test_a_pause_within_a_data_set_is_waited_for(started, sessions):
    content = encoded(dataset(1))
    with Caller(started.port) as caller:
        caller.send(asked())
        for at in range(0, len(content), 3000):
            time.sleep(2 * native_store.LINGER_S)
            last = wire.LAST if at + 3000 >= len(content) else 0
            caller.send(wire.data(CONTEXT, last, content[at : at + 3000]))
        assert caller.status() == 0x0000
    wait_until(lambda: open_associations(sessions) == 0)


def test_a_data_set_is_not_gathered_in_memory(settings, sessions, monkeypatch):
    """A file of 64 MB comes through buffers of a quarter of one."""
    started = listen(settings, sessions)
    sizes: list[int] = []
    intake = type(started._intake)  # noqa: SLF001 - what it is given is what is held
    write = intake.write

    def noted(self, draft, part) -> None:
        sizes.append(len(part))
        write(self, draft, part)

    monkeypatch.setattr(intake, "write", noted)
    content = encoded(dataset(1, PixelData=bytes(2**26)))
    with Caller(started.port) as caller:
        caller.send(asked())
        half = 2**17
        answers: list[int] = []
        reader = threading.Thread(target=lambda: answers.append(caller.status()))
        reader.start()
        for at in range(0, len(content), half):
            last = wire.LAST if at + half >= len(content) else 0
            caller.send(wire.data(CONTEXT, last, content[at : at + half]))
        reader.join(60)
    started.stop()
    assert answers == [0x0000]
    assert sum(sizes) == len(content)
    assert max(sizes) <= native_store.CHUNK


# The command set


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def test_a_request_of_a_c_move_is_a_plain_one():
    command = said() + element(0x1030, b"WORKSTATION ") + element(0x1031, b"\7\0")
    found = native_wire.read_store(command)
    assert found == native_wire.StoreCommand(1, MR, "1.2.3.4.5.1")


@pytest.mark.parametrize(
    "command",
    [
        b"",
        said()[:-1],
        said() + b"\0",
        said() + element(0x0110, b"\1\0"),
        said() + element(0x0900, b"\0\0"),
        said(uid="1.2.3.0004"),
        said(uid="not a uid"),
        wire.command(wire.ECHO, MR, None, 1),
        wire.command(wire.STORE, MR, None, 1),
        said().replace(struct.pack("<HHL", 0, 0x0110, 2), element(0x0110, b"")[:8]),
        struct.pack("<HHL", 8, 0, 0) + said(),
    ],
)
def test_an_odd_command_is_not_taken(command):
    assert native_wire.read_store(command) is None


@pytest.mark.parametrize("cut", [0, 3, 200])
def test_who_hangs_up_between_pdus_is_nothing_to_warn_of(
    started, sessions, caplog, cut
):
    with Caller(started.port) as caller:
        caller.send(asked(), wire.data(CONTEXT, wire.LAST, encoded(dataset(1))))
        assert caller.status() == 0x0000
        caller.send(asked(2)[:cut])
    wait_until(lambda: open_associations(sessions) == 0)
    warned = "connection closed before its end" in caplog.messages
    assert warned is (cut > 0)
