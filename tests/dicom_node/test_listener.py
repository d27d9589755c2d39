import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset

from dicom_node import counters, db, ledger, outbox
from dicom_node.admission import Admission
from dicom_node.counters import Counted
from dicom_node.findings import Document
from dicom_node.ledger import Association
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load, patient_secret
from dicom_node.spool import QUARANTINE, Encoded, Spool
from dicom_node.study import Reason, SopInstanceUid, StudyState, StudyUid
from tests.dicom_node.conftest import (
    CALLER,
    MR,
    associate,
    dataset,
    encoded,
    make_database,
    store,
    store_all,
)
from tests.peers import free_port

STUDY = StudyUid("1.2.3.4")
EXPLICIT = str(ExplicitVRLittleEndian)


pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]
both_databases = pytest.mark.parametrize(
    "database", ["sqlite", "postgresql"], indirect=True
)


@pytest.fixture(params=["native", "pynetdicom"])
def settings(settings, request) -> NodeSettings:
    """Either way in which C-STORE requests are read."""
    return settings.model_copy(update={"native_store": request.param == "native"})


@pytest.fixture
def database(request) -> str:
    """SQLite, where a test does not say `both_databases`."""
    return make_database(request, getattr(request, "param", "sqlite"))


def look(sessions, uid=STUDY):
    with sessions() as session:
        return ledger.study(session, uid)


def stored_uids(sessions, uid=STUDY):
    with sessions() as session:
        return [each.sop_instance_uid for each in ledger.instances(session, uid)]


def open_associations(sessions) -> int:
    with sessions() as session:
        query = "SELECT count(*) FROM association WHERE closed_at IS NULL"
        return session.scalar(sa.text(query))


def wait_until(look_again, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not look_again():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def store_raw(association, content: bytes, **said) -> int:
    """Send bytes as they are, under any UIDs; pynetdicom alone would check them."""
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 2
    request.AffectedSOPClassUID = said.get("sop_class", MR)
    request.AffectedSOPInstanceUID = said.get("uid", "1.2.3.4.5.1")
    request.DataSet = io.BytesIO(content)
    contexts = [
        context
        for context in association.accepted_contexts
        if context.abstract_syntax == said.get("context", MR)
    ]
    association.dimse.send_msg(request, contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    return int(answer.Status)


@contextlib.contextmanager
def associated(port: int):
    """An association whose answers the test takes itself."""
    association = associate(port)
    assert association.is_established
    association._reactor_checkpoint.clear()  # noqa: SLF001 - pynetdicom's own way to read answers
    while not association._is_paused:  # noqa: SLF001 - as above
        time.sleep(0.001)
    try:
        yield association
    finally:
        association._reactor_checkpoint.set()  # noqa: SLF001 - as above
        association.abort()


# Who may call


def test_an_admitted_caller_is_answered(listener):
    association = associate(listener.port)
    assert association.send_c_echo().Status == 0x0000
    association.release()


@pytest.mark.parametrize(
    ("calling_ae", "called_ae", "diagnostic"),
    [("STRANGER", "SENTINODE", 0x03), (CALLER, "ANOTHER", 0x07)],
)
def test_a_wrong_title_is_rejected_with_its_reason(
    listener, calling_ae, called_ae, diagnostic
):
    association = associate(listener.port, calling_ae, called_ae)
    assert association.is_rejected
    assert association.acceptor.primitive.result == 0x01
    assert association.acceptor.primitive.diagnostic == diagnostic


def test_our_own_check_of_health_is_answered_but_may_not_store(listener):
    association = associate(listener.port, "SENTINODE")
    assert association.send_c_echo().Status == 0x0000
    accepted = [each.abstract_syntax for each in association.accepted_contexts]
    association.release()
    assert accepted == ["1.2.840.10008.1.1"]


@pytest.mark.parametrize(
    ("calling_ae", "address", "admitted"),
    [
        ("SENTINODE", "192.0.2.7", True),
        ("SENTINODE", "::ffff:192.0.2.7", True),
        ("SENTINODE", "192.0.2.8", False),
        ("STRANGER", "192.0.2.7", False),
    ],
)
def test_a_monitor_on_another_host_may_ask_after_us(calling_ae, address, admitted):
    asked = load(NodeSettings, data_dir="/x", monitors="nowhere.invalid, 192.0.2.7")
    admission = Admission.of(asked)
    assert admission.may_verify(calling_ae, address) is admitted
    assert not admission.admits(calling_ae, address)


def listen(settings, sessions, **changes) -> Listener:
    started = Listener(settings.model_copy(update=changes), sessions)
    started.start()
    return started


def test_a_right_title_from_a_wrong_address_is_rejected(settings, sessions):
    allow = load(NodeSettings, data_dir="/x", allow=f"{CALLER}@192.0.2.0/24").allow
    started = listen(settings, sessions, allow=allow)
    association = associate(started.port)
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == 0x03
    started.stop()


@pytest.mark.parametrize(
    ("host", "admitted"),
    [("localhost", True), ("192.0.2.1", False), ("no.such.host.invalid", False)],
)
def test_without_a_list_the_pacs_is_admitted_from_its_host(
    settings, sessions, host, admitted
):
    pacs = load(NodeSettings, data_dir="/x", pacs=f"PACS@{host}:104").pacs
    started = listen(settings, sessions, allow=(), pacs=pacs)
    assert associate(started.port, "PACS").is_established is admitted
    assert associate(started.port, CALLER).is_rejected
    started.stop()


def test_more_associations_than_allowed_are_rejected_for_now(settings, sessions):
    started = listen(settings, sessions, max_associations=2)
    first = [associate(started.port) for _ in range(2)]
    third = associate(started.port)
    assert third.is_rejected
    assert third.acceptor.primitive.result == 0x02
    for association in first:
        association.release()
    started.stop()


def test_calls_and_answers_are_counted_under_names_of_the_settings(settings, sessions):
    started = listen(settings, sessions)
    assert store_all(started.port, dataset(1)) == [0x0000]
    associate(started.port, "JANE^DOE")
    associate(started.port, CALLER, "ANOTHER")
    with associated(started.port) as association:
        assert store_raw(association, b"garbage") == 0xC000
    wait_until(lambda: not started._stores)  # noqa: SLF001 - the abort has come
    started.stop()

    with sessions() as session:
        counted = counters.read(session)
    kept = counted.pop(Counted("stored_bytes", CALLER))
    assert kept > 100
    assert counted == {
        Counted("associations", CALLER, "accepted"): 2,
        Counted("associations", CALLER, "aborted"): 1,
        Counted("associations", CALLER, "wrong_called_ae_or_too_many"): 1,
        Counted("associations", "other", "caller_not_admitted"): 1,
        Counted("stores", CALLER, "0x0000"): 1,
        Counted("stores", CALLER, "0xC000"): 1,
    }


def test_lossy_deflated_and_foreign_objects_are_not_negotiated(listener):
    entity = AE(CALLER)
    refused = {
        MR: ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"],
        "1.2.840.10008.5.1.4.1.1.88.33": ["1.2.840.10008.1.2.4.90"],
        "1.2.840.10008.5.1.4.1.1.2": [EXPLICIT],
    }
    accepted = {
        MR: ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", EXPLICIT],
        "1.2.840.10008.5.1.4.1.1.11.1": [EXPLICIT],
    }
    for sop_class, syntaxes in [*refused.items(), *accepted.items()]:
        for syntax in syntaxes:
            entity.add_requested_context(sop_class, syntax)
    contexts = []
    for sop_class, syntaxes in [*refused.items(), *accepted.items()]:
        for syntax in syntaxes:
            context = AE(CALLER)
            context.add_requested_context(sop_class, syntax)
            contexts += context.requested_contexts
    association = entity.associate(
        "127.0.0.1", listener.port, contexts=contexts, ae_title="SENTINODE"
    )
    found = {
        (str(each.abstract_syntax), str(each.transfer_syntax[0]))
        for each in association.accepted_contexts
    }
    association.release()
    assert found == {(uid, each) for uid, some in accepted.items() for each in some}


# What Success means


def test_a_stored_study_is_on_disk_and_in_the_ledger(listener, settings, sessions):
    assert store_all(listener.port, *(dataset(n) for n in range(5))) == [0x0000] * 5
    wait_until(lambda: open_associations(sessions) == 0)
    study = look(sessions)
    assert (study.state, study.instances) == (StudyState.RECEIVING, 5)
    with sessions() as session:
        kept = ledger.instance(session, SopInstanceUid("1.2.3.4.5.3"))
    ds = dcmread(Spool(settings.spool).absolute(kept.path))
    assert encoded(ds) == encoded(dataset(3))
    assert ds.file_meta.SourceApplicationEntityTitle == CALLER


@both_databases
def test_the_first_row_and_its_association_are_committed_before_success(
    listener, sessions
):
    association = associate(listener.port)
    store(association, dataset(1))
    assert stored_uids(sessions) == ["1.2.3.4.5.1"]
    assert open_associations(sessions) == 1
    with sessions.begin() as session:
        quiet = look(sessions).quiet_until
        assert ledger.complete_due(session, quiet) == []
    association.release()
    wait_until(lambda: open_associations(sessions) == 0)
    with sessions.begin() as session:
        assert ledger.complete_due(session, quiet) == [STUDY]


def test_an_association_that_breaks_off_holds_up_nothing(listener, sessions):
    association = associate(listener.port)
    store(association, dataset(1))
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: open_associations(sessions) == 0)
    association.abort()


def test_the_patient_is_a_keyed_hash_in_the_ledger(listener, settings, sessions):
    store_all(listener.port, dataset(1, IssuerOfPatientID="HOSPITAL"))
    secret = patient_secret(settings)
    study = look(sessions)
    assert study.patient_key == ledger.patient_key(secret, "MARKER-PID")
    assert study.issuer_key == ledger.issuer_key(secret, "HOSPITAL", "MARKER-PID")


@both_databases
def test_four_associations_at_once_lose_nothing(listener, sessions):
    statuses = []

    def send(start: int) -> None:
        some = (dataset(n) for n in range(start, start + 20))
        statuses.extend(store_all(listener.port, *some))

    threads = [threading.Thread(target=send, args=(n * 15,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0x0000] * 80  # five of each were sent twice
    wait_until(lambda: open_associations(sessions) == 0)
    assert look(sessions).instances == 65


def test_an_identical_resend_is_success_and_changes_nothing(
    listener, settings, sessions
):
    store_all(listener.port, dataset(1))
    before = look(sessions)
    assert store_all(listener.port, dataset(1), calling_ae="OTHER") == [0x0000]
    wait_until(lambda: open_associations(sessions) == 0)
    assert look(sessions) == before
    assert len(list(Spool(settings.spool).iter_files())) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 63}, Reason.DUPLICATE_DIFFERS),
        ({"IssuerOfPatientID": "HOSPITAL"}, Reason.DUPLICATE_DIFFERS),
        ({"PatientID": "SOMEBODY ELSE"}, Reason.PATIENT_MISMATCH),
    ],
)
def test_a_differing_resend_is_quarantined_and_holds_the_study(
    listener, settings, sessions, change, reason
):
    store_all(listener.port, dataset(1))
    assert store_all(listener.port, dataset(1, **change)) == [0x0000]
    wait_until(lambda: open_associations(sessions) == 0)
    with sessions.begin() as session:
        assert ledger.complete_due(session, look(sessions).quiet_until) == []
    assert look(sessions).reason is reason
    spool = Spool(settings.spool)
    (kept,), (second,) = spool.iter_files(), spool.iter_files(QUARANTINE)
    assert encoded(dcmread(spool.absolute(kept))) == encoded(dataset(1))
    assert encoded(dcmread(spool.absolute(second))) == encoded(dataset(1, **change))


def test_our_own_report_that_comes_back_under_another_study_is_kept_quietly(
    listener, sessions, tmp_path
):
    store_all(listener.port, dataset(1))
    report = dataset(2, study="1.2.9.9")
    document = Document("SR", MR, report.SOPInstanceUID, "0" * 64, b"report")
    with sessions.begin() as session:
        outbox.enqueue(session, STUDY, "r1", [(document, tmp_path)], [], db.now())
    assert store_all(listener.port, report) == [0x0000]
    wait_until(lambda: open_associations(sessions) == 0)
    with sessions() as session:
        assert [each.study_uid for each in ledger.studies(session)] == [STUDY]
        assert ledger.instance(session, report.SOPInstanceUID) is not None


def test_two_patients_in_one_study_hold_it(listener, sessions):
    store_all(listener.port, dataset(1), dataset(2, PatientID="SOMEBODY ELSE"))
    wait_until(lambda: open_associations(sessions) == 0)
    with sessions.begin() as session:
        ledger.complete_due(session, look(sessions).quiet_until)
    assert look(sessions).reason is Reason.PATIENT_MISMATCH


# What is refused


def without(*keywords: str):
    return dataset(1, **dict.fromkeys(keywords))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"not DICOM at all, just some text" * 10, 0xC000),
        (encoded(dataset(1))[:30], 0xC000),
        (encoded(without("StudyInstanceUID")), 0xC000),
        (encoded(without("SeriesInstanceUID")), 0xC000),
        (encoded(without("SOPInstanceUID")), 0xC000),
        (encoded(dataset(2)), 0xA900),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of the test's own bad objects
def test_what_cannot_be_filed_is_refused_with_its_reason(
    listener, settings, content, status
):
    with associated(listener.port) as association:
        assert store_raw(association, content) == status
    assert list(Spool(settings.spool).iter_files()) == []


HOSTILE = ["../../escaped", "1.2/../../etc", "1.02.3", "1." * 40, "1.2.3\n4"]


@pytest.mark.parametrize("uid", HOSTILE)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of the hostile UID
@pytest.mark.parametrize(
    ("keyword", "status"),
    [
        ("StudyInstanceUID", 0xC002),
        ("SeriesInstanceUID", 0xC002),
        ("SOPInstanceUID", 0xC001),
    ],
)
def test_a_uid_from_the_network_never_becomes_a_path(
    listener, settings, uid, keyword, status
):
    plain = encoded(dataset(1, **{keyword: "1.2.3.99"}))
    old = b"1.2.3.99"
    start = plain.index(old) - 2
    value = uid.encode()[:64]
    value += b"\0" * (len(value) % 2)
    hostile = (
        plain[:start]
        + len(value).to_bytes(2, "little")
        + value
        + plain[start + 2 + len(old) :]
    )
    with associated(listener.port) as association:
        assert store_raw(association, hostile) == status
    names = {path.name for path in settings.data_dir.rglob("*") if path.is_file()}
    assert names <= {"patient.key"}
    assert not list(settings.data_dir.parent.rglob("*escaped*"))


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the class
def test_a_class_that_is_not_its_context_s_is_refused(listener):
    with associated(listener.port) as association:
        said = {"sop_class": "1.2.840.10008.5.1.4.1.1.2"}
        assert store_raw(association, encoded(dataset(1)), **said) == 0x0122


@pytest.mark.filterwarnings("ignore")  # pydicom warns of bad files
def test_the_listener_survives_every_malformed_file(listener, real_data, sessions):
    answered = set()
    with associated(listener.port) as association:
        for path in sorted((real_data / "malformed").rglob("*")):
            if not path.is_file() or path.suffix == ".txt":
                continue
            content = path.read_bytes()
            with contextlib.suppress(Exception):
                content = content[split_dataset(path)[1] :]
            uid = f"1.2.{abs(hash(path.name))}"
            answered.add(store_raw(association, content, uid=uid))
    assert answered <= {0xA900, 0xC000, 0xC001, 0xC002}
    assert store_all(listener.port, dataset(1)) == [0x0000]
    assert stored_uids(sessions) == ["1.2.3.4.5.1"]


# When something is missing


def test_a_full_disk_is_out_of_resources(settings, sessions):
    started = listen(settings, sessions, min_free_bytes=2**60)
    assert store_all(started.port, dataset(1)) == [0xA700]
    assert list(Spool(settings.spool).iter_files()) == []
    started.stop()


def test_an_instance_that_is_too_large_is_out_of_resources(settings, sessions):
    started = listen(settings, sessions, max_instance_bytes=1000)
    assert store_all(started.port, dataset(1)) == [0xA700]
    started.stop()


def test_a_message_that_grows_too_long_is_ended_while_it_arrives(
    settings, sessions, caplog
):
    started = listen(settings, sessions, max_instance_bytes=10_000, max_pdu=16_384)
    association = associate(started.port)
    assert store(association, *(dataset(n) for n in range(1, 4))) == [0x0000] * 3
    endless = dataset(9, PixelData=bytes(8 * 2**20))
    answer = association.send_c_store(endless)
    assert "Status" not in answer
    wait_until(lambda: association.is_aborted)
    wait_until(lambda: open_associations(sessions) == 0)
    assert "the message is too long" in caplog.text
    assert len(stored_uids(sessions)) == 3
    assert store_all(started.port, dataset(5)) == [0x0000]
    started.stop()


def test_many_messages_on_an_association_may_be_longer_than_one(settings, sessions):
    started = listen(settings, sessions, max_instance_bytes=2**19)
    large = [dataset(n, PixelData=bytes([n]) * 2**18) for n in range(12)]
    assert store_all(started.port, *large) == [0x0000] * 12
    started.stop()


def test_a_pdu_that_claims_gigabytes_is_not_awaited(listener):
    with socket.create_connection(("127.0.0.1", listener.port), 10) as caller:
        caller.sendall(b"\x01\x00\xff\xff\xff\xff")
        caller.settimeout(10)
        assert caller.recv(1) == b""


def rename(sessions, old: str, new: str) -> None:
    with sessions.begin() as session:
        session.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))


@both_databases
def test_a_failing_ledger_is_out_of_resources_until_it_is_back(
    listener, settings, sessions
):
    association = associate(listener.port)
    assert store(association, dataset(1)) == [0x0000]
    rename(sessions, "instance", "hidden")
    assert store(association, dataset(2)) == [0x0000]  # durable: its row waits
    wait_until(lambda: listener._recorder.failing)  # noqa: SLF001 - the only sign of it
    assert store(association, dataset(3), dataset(4)) == [0xA700, 0xA700]
    assert len(list(Spool(settings.spool).iter_files())) == 2
    rename(sessions, "hidden", "instance")
    assert store(association, dataset(3), dataset(4)) == [0x0000, 0x0000]
    association.release()
    wait_until(lambda: open_associations(sessions) == 0)
    assert stored_uids(sessions) == [f"1.2.3.4.5.{n}" for n in (1, 2, 3, 4)]


@both_databases
def test_a_new_study_is_refused_while_the_ledger_fails_and_taken_after(
    listener, sessions
):
    rename(sessions, "association", "hidden")
    assert store_all(listener.port, dataset(1)) == [0xA700]
    rename(sessions, "hidden", "association")
    assert store_all(listener.port, dataset(1)) == [0x0000]
    wait_until(lambda: open_associations(sessions) == 0)
    assert look(sessions).instances == 1


@both_databases
def test_rows_that_wait_are_committed_without_another_store(listener, sessions):
    association = associate(listener.port)
    store(association, dataset(1))
    rename(sessions, "instance", "hidden")
    store(association, dataset(2))
    association.release()
    wait_until(lambda: listener._recorder.failing)  # noqa: SLF001 - as above
    rename(sessions, "hidden", "instance")
    wait_until(lambda: open_associations(sessions) == 0)
    assert look(sessions).instances == 2


def test_a_database_server_that_is_away_loses_nothing(postgres, tmp_path):
    url = postgres.create(template=postgres.migrated)
    sessions = db.writing(db.connect(url))
    settings = load(
        NodeSettings,
        data_dir=tmp_path / "node",
        database_url=url,
        host="127.0.0.1",
        port=0,
        allow=CALLER,
        min_free_bytes=1,
    )
    started = listen(settings, sessions)
    association = associate(started.port)
    assert store(association, dataset(1)) == [0x0000]
    postgres.stop()
    try:
        assert store(association, dataset(2)) == [0x0000]
        wait_until(lambda: started._recorder.failing)  # noqa: SLF001 - as above
        assert store(association, dataset(3)) == [0xA700]
    finally:
        postgres.start()
    assert store(association, dataset(3)) == [0x0000]
    association.release()
    wait_until(lambda: open_associations(sessions) == 0)
    assert look(sessions).instances == 3
    started.stop()
    sessions.kw["bind"].dispose()


# Death and return


@both_databases
def test_files_without_rows_get_them_at_the_next_start(settings, sessions):
    spool = Spool(settings.spool)
    spool.root.mkdir(parents=True)
    made = dataset(1)
    lost = Encoded(
        STUDY, SopInstanceUid(made.SOPInstanceUID), MR, EXPLICIT, CALLER, encoded(made)
    )
    file = spool.write_instance(lost)
    started = listen(settings, sessions)
    study = look(sessions)
    assert (study.instances, study.calling_ae) == (1, CALLER)
    assert study.received_at == file.received_at
    expected = ledger.patient_key(patient_secret(settings), "MARKER-PID")
    assert study.patient_key == expected
    started.stop()


@both_databases
def test_a_row_rebuilt_from_its_file_is_the_row_that_was_lost(settings, sessions):
    started = listen(settings, sessions)
    store_all(started.port, dataset(1), dataset(1, Rows=63))
    wait_until(lambda: open_associations(sessions) == 0)
    started.stop()
    instances = sa.text("SELECT * FROM instance")
    conflicts = sa.text("SELECT sop_instance_uid, path, sha256 FROM conflict")
    with sessions.begin() as session:
        before = session.execute(instances).all(), session.execute(conflicts).all()
        session.execute(sa.text("DELETE FROM instance"))
        session.execute(sa.text("DELETE FROM conflict"))
    listen(settings, sessions).stop()
    with sessions.begin() as session:
        after = session.execute(instances).all(), session.execute(conflicts).all()
    assert after == before


@pytest.mark.parametrize(("heir_of_all", "left"), [(False, 1), (True, 0)])
def test_what_a_listener_of_another_name_left_open_is_ended_by_the_heir_of_all(
    settings, sessions, heir_of_all, left
):
    with sessions.begin() as session:
        dead = Association("a1", "SENTINODE@gone:104", CALLER, "127.0.0.1")
        ledger.open_association(session, dead, db.now())
    started = listen(settings, sessions, heir_of_all=heir_of_all)
    assert open_associations(sessions) == left
    started.stop()


def test_a_damaged_file_does_not_keep_the_listener_from_starting(settings, sessions):
    spool = Spool(settings.spool)
    path = spool.root / "instances" / "aa" / "bb" / "x.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    listen(settings, sessions).stop()
    assert path.exists()


@contextlib.contextmanager
def serving(settings: NodeSettings, port: int):
    """The listener as a process of its own, until it answers or ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node"],
        env={
            "PATH": os.environ["PATH"],
            "SENTINODE_DATA_DIR": str(settings.data_dir),
            "SENTINODE_DATABASE_URL": settings.database,
            "SENTINODE_PORT": str(port),
            "SENTINODE_ALLOW": CALLER,
            "SENTINODE_MIN_FREE_BYTES": "1",
        },
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            wait_until(lambda: process.poll() is not None or answers(port), 60)
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_killed_listener_loses_nothing_that_it_answered_for(settings, sessions):
    port = free_port()
    with serving(settings, port) as process:
        association = associate(port)
        assert store(association, *(dataset(n) for n in range(10))) == [0x0000] * 10
        process.kill()
    association.abort()
    assert open_associations(sessions) == 1
    with serving(settings, port):
        assert look(sessions).instances == 10
        assert open_associations(sessions) == 0


def test_a_process_ends_on_sigterm_although_a_caller_is_silent(settings):
    port = free_port()
    with serving(settings, port) as process:
        store_all(port, dataset(1), dataset(1, Rows=63))
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=15)
    assert process.returncode == 0
    assert b"association ended" in log
    assert b"marker" not in log.lower()


def test_a_stopped_listener_ends_open_associations_and_commits(settings, sessions):
    started = listen(settings, sessions)
    association = associate(started.port)
    assert store(association, *(dataset(n) for n in range(10))) == [0x0000] * 10
    began = time.monotonic()
    started.stop()
    assert time.monotonic() - began < 5
    assert look(sessions).instances == 10
    assert open_associations(sessions) == 0
    wait_until(lambda: not association.is_established)


def test_without_a_schema_it_says_what_to_do(tmp_path):
    settings = load(NodeSettings, data_dir=tmp_path)
    with serving(settings, free_port()) as process:
        log = process.stderr.read()
    assert process.returncode == 1
    assert log == b"the database is not up to date: run `sentinode db upgrade`\n"


def test_no_line_of_the_log_names_a_patient(listener, caplog):
    with caplog.at_level(logging.DEBUG):
        store_all(listener.port, dataset(1), dataset(1, Rows=63))
        with associated(listener.port) as association:
            store_raw(association, encoded(dataset(2)))
    assert caplog.records
    assert "marker" not in caplog.text.lower()
    assert "19700203" not in caplog.text


# DCMTK


def test_dcmsend_sends_a_real_study(listener, real_data, sessions):
    folder = real_data / "breast-dce-mri" / "multiphase-study-d1f3d33d"
    subprocess.run(
        [
            *("dcmsend", "-aet", CALLER, "-aec", "SENTINODE", "+sd", "+r"),
            *("127.0.0.1", str(listener.port), str(folder)),
        ],
        check=True,
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
    )
    wait_until(lambda: open_associations(sessions) == 0)
    with sessions() as session:
        (study,) = ledger.studies(session)
    assert study.instances == 143
