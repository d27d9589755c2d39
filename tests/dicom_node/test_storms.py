"""Storms of input at the listener: nothing lost, nothing twice, no place lost."""

import socket
import threading
import time
from random import Random

import pytest

from dicom_node import differences, ledger, server
from dicom_node.settings import AllowedPeer, NodeSettings, load
from dicom_node.spool import QUARANTINE, Spool
from dicom_node.study import Duplicate, Reason, StudyState
from tests.dicom_node.conftest import (
    CALLER,
    associate,
    dataset,
    encoded,
    make_database,
    store,
    store_all,
)
from tests.dicom_node.test_listener import (
    STUDY,
    listen,
    look,
    open_associations,
    stored_uids,
    wait_until,
)
from tests.dicom_objects import fresh_study
from tests.dicom_objects import store as store_files
from tests.fuzz import wire

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]


@pytest.fixture
def database(request) -> str:
    return make_database(request, "sqlite")


@pytest.fixture(params=["native", "pynetdicom"])
def settings(settings, request) -> NodeSettings:
    """Either way in which C-STORE requests are read."""
    return settings.model_copy(update={"native_store": request.param == "native"})


def quarantined(settings) -> int:
    return len(list(Spool(settings.spool).iter_files(QUARANTINE)))


def store_in_parallel(port: int, lots) -> list[int]:
    """Store each lot over an association of its own, all at once."""
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda lot=lot: statuses.extend(store_all(port, *lot)))
        for lot in lots
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


# The same again


@pytest.mark.parametrize(
    ("duplicate", "status"),
    [(Duplicate.IGNORE, 0x0000), (Duplicate.REJECT, 0x0111)],
)
def test_a_site_may_ignore_or_reject_other_bytes_under_a_uid(
    settings, sessions, duplicate, status
):
    started = listen(settings, sessions, duplicate=duplicate)
    assert store_all(started.port, dataset(1), dataset(1)) == [0x0000, 0x0000]
    assert store_all(started.port, dataset(1, Rows=63)) == [status]
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    assert quarantined(settings) == 0
    with sessions.begin() as session:
        assert ledger.complete_due(session, look(sessions).quiet_until) == [STUDY]


@pytest.mark.parametrize("duplicate", Duplicate)
def test_another_patient_under_a_uid_holds_the_study_whatever_the_site_chose(
    settings, sessions, duplicate
):
    started = listen(settings, sessions, duplicate=duplicate)
    store_all(started.port, dataset(1), dataset(1, PatientID="SOMEBODY ELSE"))
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    assert quarantined(settings) == 1
    with sessions.begin() as session:
        assert ledger.complete_due(session, look(sessions).quiet_until) == []
    assert look(sessions).reason is Reason.PATIENT_MISMATCH


def test_the_ways_to_treat_duplicates_are_settings(tmp_path):
    assert load(NodeSettings, data_dir=tmp_path).duplicate is Duplicate.QUARANTINE
    chosen = load(NodeSettings, data_dir=tmp_path, duplicate="reject")
    assert chosen.duplicate is Duplicate.REJECT


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"PatientName": "Other^Name"}, ("PatientName",)),
        ({"PixelData": bytes(2 * 96 * 112)}, ("PixelData",)),
        ({"Rows": 95, "EchoTime": None}, ("EchoTime", "Rows")),
        ({"StudyInstanceUID": "1.2.3"}, ("StudyInstanceUID",)),
    ],
)
def test_what_differs_is_named_without_its_values(tmp_path, change, names):
    one, two = fresh_study("differs")[0], fresh_study("differs")[0]
    for keyword, value in change.items():
        if value is None:
            del two[keyword]
        else:
            setattr(two, keyword, value)
    first, second = (each.path for each in store_files(tmp_path, [one, two]))
    assert differences.changed(first, second) == names


def test_two_patients_are_told_apart_by_who_they_are_alone(tmp_path):
    one, two = fresh_study("patients")[:2]
    two.PatientID = "ANOTHER"
    first, second = (each.path for each in store_files(tmp_path, [one, two]))
    assert differences.identity_changed(first, second) == ["PatientID"]


def test_everything_twice_and_at_once_is_there_once(settings, sessions):
    started = listen(
        settings, sessions, max_associations=16, max_associations_per_caller=16
    )
    lots = [[dataset(n) for n in range(8)] for _ in range(8)]
    assert store_in_parallel(started.port, lots) == [0x0000] * 64
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    assert sorted(stored_uids(sessions)) == sorted(f"1.2.3.4.5.{n}" for n in range(8))
    assert quarantined(settings) == 0


# Many, slow, broken off, silent


def test_sixteen_associations_at_once_lose_nothing(settings, sessions):
    started = listen(
        settings, sessions, max_associations=16, max_associations_per_caller=16
    )
    lots = [[dataset(16 * k + n) for n in range(5)] for k in range(16)]
    assert store_in_parallel(started.port, lots) == [0x0000] * 80
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    assert look(sessions).instances == 80


def test_a_study_in_many_bursts_waits_for_the_last(settings, sessions):
    started = listen(settings, sessions)
    for burst in range(12):
        assert store_all(started.port, dataset(burst)) == [0x0000]
        with sessions.begin() as session:
            assert ledger.complete_due(session, look(sessions).last_received_at) == []
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    study = look(sessions)
    assert (study.state, study.instances) == (StudyState.RECEIVING, 12)
    with sessions.begin() as session:
        assert ledger.complete_due(session, study.quiet_until) == [STUDY]


def broken_off(port: int, share: float) -> None:
    """Send a part of a store, and hang up without a word."""
    content = encoded(dataset(7))
    command = wire.command(wire.STORE, dataset(7).SOPClassUID, "1.2.3.4.5.7", 1)
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(wire.request(CALLER))
        assert sock.recv(1) == b"\2"
        sock.sendall(wire.data(3, wire.COMMAND | wire.LAST, command))
        whole = wire.data(3, wire.LAST, content)
        sock.sendall(whole[: int(len(whole) * share)])


def test_associations_that_break_off_leave_nothing_behind(settings, sessions):
    started = listen(settings, sessions)
    for number in range(20):
        broken_off(started.port, number / 20)
    assert store_all(started.port, dataset(7)) == [0x0000]
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    files = [path for path in settings.spool.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert look(sessions).instances == 1


def test_a_slow_sender_is_waited_for(settings, sessions):
    started = listen(settings, sessions)
    content = encoded(dataset(1))
    command = wire.command(wire.STORE, dataset(1).SOPClassUID, "1.2.3.4.5.1", 1)
    with socket.create_connection(("127.0.0.1", started.port), 10) as sock:
        sock.sendall(wire.request(CALLER))
        assert sock.recv(1000)[:1] == b"\2"
        sock.sendall(wire.data(3, wire.COMMAND | wire.LAST, command))
        whole = wire.data(3, wire.LAST, content)
        for at in range(0, len(whole), 500):
            sock.sendall(whole[at : at + 500])
            time.sleep(0.02)
        assert sock.recv(1000)[:1] == b"\4"
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    assert look(sessions).instances == 1


def drip(sock: socket.socket, content: bytes) -> None:
    for byte in content:
        sock.sendall(bytes([byte]))
        time.sleep(0.1)


def test_who_drips_a_pdu_byte_by_byte_loses_its_place(settings, sessions, monkeypatch):
    monkeypatch.setattr(server, "NETWORK_TIMEOUT_S", 1.0)
    started = listen(settings, sessions, max_associations=1)
    with socket.create_connection(("127.0.0.1", started.port), 10) as sock:
        sock.sendall(wire.request(CALLER))
        assert sock.recv(1000)[:1] == b"\2"
        with pytest.raises(ConnectionError):
            drip(sock, wire.data(3, wire.LAST, bytes(1000)))
    assert store_all(started.port, dataset(1)) == [0x0000]
    started.stop()


def test_who_only_looks_whether_the_port_is_open_takes_no_place(settings, sessions):
    started = listen(settings, sessions, max_associations=2)
    for _ in range(20):
        socket.create_connection(("127.0.0.1", started.port), 10).close()
    time.sleep(0.5)
    assert store_all(started.port, dataset(1)) == [0x0000]
    started.stop()


def test_one_sender_s_faults_do_not_hold_up_another(settings, sessions):
    started = listen(settings, sessions)
    good = associate(started.port)
    for number in range(10):
        broken_off(started.port, 0.5)
        assert store(good, dataset(number)) == [0x0000]
    good.release()
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    assert look(sessions).instances == 10


def test_damaged_conversations_leave_no_association_behind(settings, sessions):
    started = listen(settings, sessions, allow=(AllowedPeer(wire.CALLER),))
    rng = Random(7)  # noqa: S311 - repeatable
    for _ in range(60):
        pdus = wire.damaged(wire.conversation(wire.CALLER, rng), rng)
        wire.say(started.port, pdus, rng)
    wait_until(lambda: not started._stores)  # noqa: SLF001 - what would grow for ever
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
