"""Who is let in, and how much one caller may take."""

import contextlib
import socket
import threading
import time

import pytest

from dicom_node import audit, server, verification
from dicom_node.admission import Admission
from dicom_node.limits import MAX_SILENT, MAX_SILENT_OF_ONE, Places, Rate, Silent
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load
from dicom_node.study import Peer
from tests.dicom_node.conftest import CALLER, associate, dataset, make_database, store
from tests.peers import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]
LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)


@pytest.fixture
def database(request) -> str:
    return make_database(request, "sqlite")


@contextlib.contextmanager
def listening(settings, sessions, **changes):
    started = Listener(settings.model_copy(update=changes), sessions)
    started.start()
    try:
        yield started
    finally:
        started.stop()


def answer(association) -> tuple[int, int, int]:
    said = association.acceptor.primitive
    return said.result, said.result_source, said.diagnostic


def trail(sessions) -> str:
    with sessions() as session:
        return "; ".join(one.event.detail for one in audit.entries(session))


# The allow-list


@pytest.mark.parametrize(
    ("allow", "calling_ae", "address", "admitted"),
    [
        ("MR1@10.1.0.0/16", "MR1", "10.1.2.3", True),
        ("MR1@10.1.0.0/16", "MR1", "10.2.0.1", False),
        ("MR1@10.1.0.0/16", "MR1", "::ffff:10.1.2.3", True),
        ("MR1@10.1.0.0/16", "MR1", "::ffff:10.2.0.1", False),
        ("MR1@10.1.0.0/16", "mr1", "10.1.2.3", False),
        ("MR1@10.1.0.0/16", "MR10", "10.1.2.3", False),
        ("MR1@10.1.2.3", "MR1", "10.1.2.3", True),
        ("MR1@10.1.2.3", "MR1", "10.1.2.4", False),
        ("MR1@2001:db8::/32", "MR1", "2001:db8::7", True),
        ("MR1@2001:db8::/32", "MR1", "2001:db9::7", False),
        ("MR1@fe80::/10", "MR1", "fe80::1%eth0", True),
        ("MR1@2001:db8::/32", "MR1", "10.1.2.3", False),
        ("MR1@0.0.0.0/0", "MR1", "2001:db8::7", False),
        ("MR1@::/0", "MR1", "10.1.2.3", False),
        ("MR1@10.0.0.1,MR1@10.0.0.2", "MR1", "10.0.0.2", True),
        ("MR1@10.0.0.1,MR2@10.0.0.2", "MR1", "10.0.0.2", False),
        ("MR1", "MR1", "192.0.2.1", True),
        ("MR1@#mr1.test", "MR1", "192.0.2.1", False),
        ("", "MR1", "10.1.2.3", False),
        ("", "", "127.0.0.1", False),
        ("", "SENTINODE", "127.0.0.1", False),
    ],
)
def test_a_caller_is_admitted_by_title_and_address_alone(
    allow, calling_ae, address, admitted
):
    tls = {"tls_certificate": "c", "tls_key": "k", "tls_ca": "a"}
    settings = load(NodeSettings, data_dir="/x", allow=allow, **tls)
    assert Admission.of(settings).admits(calling_ae, address) is admitted


def test_without_any_list_nobody_is_admitted(settings, sessions):
    with listening(settings, sessions, allow=(), pacs=()) as started:
        assert associate(started.port).is_rejected
        assert associate(started.port, "ANY-SCP").is_rejected
    assert f"{CALLER}@127.0.0.1 1x (caller not admitted)" in trail(sessions)


def test_ipv6_is_listened_on_and_admitted(settings, sessions):
    allow = load(NodeSettings, data_dir="/x", allow=f"{CALLER}@::1").allow
    with listening(settings, sessions, host="::1", allow=allow) as started:
        peer = Peer("SENTINODE", "::1", started.port)
        assert verification.echo(peer, CALLER) > 0


def test_a_call_for_another_title_is_rejected_and_on_record(settings, sessions):
    with listening(settings, sessions) as started:
        association = associate(started.port, CALLER, "ANOTHER")
        assert answer(association) == (0x01, 0x01, 0x07)
    assert "another AE title was called" in trail(sessions)


def test_a_stranger_learns_nothing_of_our_title(settings, sessions):
    with listening(settings, sessions) as started:
        answers = {
            answer(associate(started.port, "STRANGER", called))
            for called in ("SENTINODE", "ANOTHER")
        }
    assert answers == {(0x01, 0x01, 0x03)}


# Places


def test_one_caller_cannot_take_all_places(settings, sessions):
    with listening(settings, sessions, max_associations_per_caller=2) as started:
        greedy = [associate(started.port) for _ in range(2)]
        third = associate(started.port)
        assert answer(third) == LOCAL_LIMIT_EXCEEDED
        other = associate(started.port, "OTHER")
        assert store(other, dataset(1)) == [0]
        other.release()
        greedy.pop().release()

        def again():
            association = associate(started.port)
            established = association.is_established
            if established:
                association.release()
            return established

        wait_until(again, "the place that was given back", 10)
        greedy.pop().abort()
        wait_until(again, "the place of an aborted one", 10)
    assert "too many associations" in trail(sessions)


def test_the_check_of_health_takes_no_place_and_needs_none(settings, sessions):
    with listening(settings, sessions, max_associations=1) as started:
        held = associate(started.port)
        check = associate(started.port, "SENTINODE")
        assert check.is_established
        assert answer(associate(started.port, "OTHER")) == LOCAL_LIMIT_EXCEEDED
        check.release()
        held.release()


def test_connections_that_say_nothing_take_no_place(settings, sessions):
    """Pynetdicom by itself would count each as an association, for 30 seconds."""
    with (
        listening(settings, sessions, max_associations=2) as started,
        contextlib.ExitStack() as held,
    ):
        address = ("127.0.0.1", started.port)
        for _ in range(12):
            held.enter_context(socket.create_connection(address))
        half = held.enter_context(socket.create_connection(address))
        half.sendall(b"\x01\x00\x00\x00")  # a PDU that never goes on
        time.sleep(0.2)
        association = associate(started.port)
        assert store(association, dataset(1)) == [0]
        association.release()


def test_too_many_silent_connections_of_one_address_are_closed(settings, sessions):
    with listening(settings, sessions) as started, contextlib.ExitStack() as held:
        address = ("127.0.0.1", started.port)
        for _ in range(MAX_SILENT_OF_ONE):
            held.enter_context(socket.create_connection(address))
        last = held.enter_context(socket.create_connection(address))
        last.settimeout(10)
        assert last.recv(1) == b""
    assert "ask for nothing" in trail(sessions)


def test_a_caller_that_stops_in_mid_word_is_hung_up_on(settings, sessions, monkeypatch):
    monkeypatch.setattr(server, "NETWORK_TIMEOUT_S", 0.5)
    with listening(settings, sessions) as started:
        half = socket.create_connection(("127.0.0.1", started.port))
        half.settimeout(10)
        half.sendall(b"\x01\x00\x00\x00")
        with half:
            assert half.recv(1) == b""


def test_an_association_that_stops_in_mid_word_gives_its_place_back(
    settings, sessions, monkeypatch
):
    monkeypatch.setattr(server, "NETWORK_TIMEOUT_S", 0.5)
    with listening(settings, sessions, max_associations=1) as started:
        held = associate(started.port)
        assert answer(associate(started.port, "OTHER")) == LOCAL_LIMIT_EXCEEDED
        held.dul.socket.socket.sendall(b"\x04\x00\x00\x00\x10\x00half")

        def has_place():
            association = associate(started.port, "OTHER")
            established = association.is_established
            if established:
                association.release()
            return established

        wait_until(has_place, "the end of the one that stopped", 10)


# Calls


def test_too_many_calls_are_rejected_for_now(settings, sessions):
    with listening(settings, sessions, max_calls_per_minute=3) as started:
        for _ in range(3):
            associate(started.port).release()
        assert answer(associate(started.port)) == LOCAL_LIMIT_EXCEEDED
    assert "it calls too often" in trail(sessions)


class Ticks:
    """A clock that is moved by hand."""

    def __init__(self):
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_calls_are_saved_up_and_used_up():
    clock = Ticks()
    rate = Rate(60, clock)
    assert [rate.take("10.0.0.1") for _ in range(61)] == [True] * 60 + [False]
    assert rate.take("10.0.0.2")
    clock.at = 2.0
    assert [rate.take("10.0.0.1") for _ in range(3)] == [True, True, False]
    clock.at = 3600.0
    assert [rate.take("10.0.0.1") for _ in range(61)].count(True) == 60


def test_a_limit_of_nothing_is_none():
    assert all(Rate(0).take("10.0.0.1") for _ in range(10_000))


def test_a_host_is_not_many_by_its_many_ipv6_addresses():
    rate = Rate(10, Ticks())
    taken = [rate.take(f"2001:db8::{n:x}") for n in range(20)]
    assert taken.count(True) == 10
    assert rate.take("2001:db8:0:1::1")


def test_so_many_addresses_use_bounded_memory():
    rate = Rate(10, Ticks())
    for n in range(20_000):
        rate.take(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(rate._left) <= 4096  # noqa: SLF001 - what it remembers is the point


def test_silent_connections_leave_by_themselves():
    clock = Ticks()
    silent = Silent(60, clock)
    entered = [silent.enter((f"10.0.0.{n}", 1)) for n in range(MAX_SILENT + 1)]
    assert entered == [True] * MAX_SILENT + [False]
    silent.leave(("10.0.0.1", 1))
    assert silent.enter(("10.0.1.1", 1))
    assert not silent.enter(("10.0.1.2", 1))
    clock.at = 60.0
    assert silent.enter(("10.0.1.2", 1))


def test_a_dead_holder_holds_nothing():
    places = Places(1, 1)
    gone = threading.Thread(target=lambda: None)
    gone.start()
    assert places.take(gone, ("A", "10.0.0.1"))
    gone.join()
    here = threading.current_thread()
    assert places.take(here, ("A", "10.0.0.1"))
    assert not places.take(here, ("B", "10.0.0.1"))
    places.give_back(here)
    assert places.take(here, ("B", "10.0.0.1"))
