"""`python -m worker.hl7` as a process of its own, with real MLLP clients."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import trustme
from hl7.client import MLLPClient

from dicom_node import db, mllp, schema
from dicom_node.errors import SettingsError
from dicom_node.settings import load
from tests.certificates import Hospital
from tests.pathology_messages import (
    END,
    VT,
    calling,
    code,
    exchange,
    fields,
    message,
    order,
    read_answer,
)
from tests.peers import free_port, wait_until
from worker import parking
from worker.settings import WorkerSettings


@contextmanager
def listening(folder, **settings):
    """Run the listener on a migrated database; it must stop cleanly."""
    port = free_port()
    environment = {
        **os.environ,
        "SENTINODE_DATA_DIR": str(folder),
        "SENTINODE_HL7_PORT": str(port),
        "SENTINODE_HL7_HOST": "127.0.0.1",
        **{f"SENTINODE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    url = settings.get("database_url") or f"sqlite:///{folder / 'sentinode.db'}"
    schema.upgrade(url)
    log = folder / "hl7.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.hl7"], env=environment, stderr=stream
        )
    try:
        wait_until(lambda: "HL7 listener ready" in log.read_text(), "the listener", 30)
        yield port, log, url
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(15)
    assert status == 0, log.read_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One listener with short limits for the tests that only need an answer."""
    folder = tmp_path_factory.mktemp("hl7")
    with listening(folder, hl7_frame_timeout=1, hl7_max_bytes=4096) as found:
        yield found


def parked_at(url: str) -> int:
    engine = db.connect(url)
    try:
        with db.reading(engine)() as session:
            return len(parking.parked(session, waiting_only=True))
    finally:
        engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_answer_is_given_after_the_result_is_kept(kind, tmp_path, request):
    others = {}
    if kind == "postgresql":
        others["database_url"] = request.getfixturevalue("postgres_url")

    with listening(tmp_path, **others) as (port, _, url):
        with MLLPClient("127.0.0.1", port) as client:
            first = client.send_message(message(order()))
            again = client.send_message(message(order()))
            preliminary = client.send_message(
                message(order(status="P"), control_id="M2")
            )
            other = client.send_message(message(kind="ADT^A01", control_id="M3"))
        kept = parked_at(url)

    answers = [code(one) for one in (first, again, preliminary, other)]
    assert answers == ["AA", "AA", "AE", "AR"]
    assert fields(first)["MSA"][2] == "M1"
    assert kept == 1


def test_many_at_once_are_each_kept_once(tmp_path, postgres_url):
    def one_call(number: int) -> str:
        content = message(order(), control_id=f"M{number % 10}")
        with calling(port) as connection:
            return code(exchange(connection, content))

    with listening(tmp_path, database_url=postgres_url) as (port, _, url):
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(one_call, range(40)))
        kept = parked_at(url)

    assert set(codes) == {"AA"}
    assert kept == 10


def test_a_message_in_pieces_and_two_in_one_piece_are_understood(plain):
    port, *_ = plain
    framed = VT + message(order(), control_id="P1") + END
    with calling(port) as connection:
        for start in range(0, len(framed), 50):
            connection.sendall(framed[start : start + 50])
        first = read_answer(connection)
        connection.sendall(b"\r\n" + framed + framed)
        rest = read_answer(connection)
        while rest.count(END) < 2:
            rest += read_answer(connection)

    assert code(first) == "AA"
    assert rest.count(b"MSA|AA|P1") == 2


def test_a_message_that_is_too_long_is_answered_and_the_next_one_taken(plain):
    port, *_ = plain
    long = message(order(), "NTE|1||" + "x" * 300_000, control_id="BIG")
    with calling(port) as connection:
        refused = exchange(connection, long)
        after = exchange(connection, message(order(), control_id="P2"))

    assert fields(refused)["MSA"][1:3] == ["AR", "BIG"]
    assert "4096 bytes" in fields(refused)["MSA"][3]
    assert code(after) == "AA"


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        VT + b"not a message" + END,
        VT + END,
        VT + b"\x00" * 200 + END,
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_garbage_closes_the_connection_and_nothing_else(plain, content):
    port, *_ = plain
    with calling(port) as connection:
        connection.sendall(content)
        closed = connection.recv(100)
    with calling(port) as connection:
        answer = exchange(connection, message(order(), control_id="P3"))

    assert closed == b""
    assert code(answer) == "AA"


def test_a_message_that_does_not_end_closes_the_connection(plain):
    port, *_ = plain
    with calling(port) as connection:
        connection.sendall(VT + message(order())[:100])
        started = time.monotonic()
        closed = connection.recv(100)

    assert closed == b""
    assert time.monotonic() - started < 10


def test_it_stops_although_callers_stay_connected(tmp_path):
    with contextlib.ExitStack() as callers:
        with listening(tmp_path) as (port, *_):
            idle, half = (callers.enter_context(calling(port)) for _ in range(2))
            first = code(exchange(idle, message(order())))
            half.sendall(VT + b"MSH|")
            started = time.monotonic()
        took = time.monotonic() - started

    assert first == "AA"
    assert took < 8


def test_no_log_line_names_the_patient_or_quotes_the_message(plain):
    port, log, _ = plain
    with calling(port) as connection:
        exchange(
            connection, message(order("free text\\Z99\\ here"), control_id="SECRET")
        )
        exchange(connection, message(order(status="P"), control_id="SECRET2"))

    said = log.read_text()
    assert "HL7 message answered" in said
    for word in ("Marker", "MARKER", "19700203", "free text", "SECRET"):
        assert word not in said


def test_only_admitted_addresses_are_answered(tmp_path):
    with (
        listening(tmp_path, hl7_allow="10.0.0.0/8,192.0.2.1") as (port, log, _),
        calling(port) as connection,
    ):
        connection.settimeout(15)
        try:
            answer = exchange(connection, message(order()))
        except ConnectionError:
            answer = b""

    assert answer == b""
    assert "HL7 call refused" in log.read_text()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def certificates(authority, tmp_path):
    """The files of a server, and of the authority of its clients."""
    server = authority.issue_cert("localhost")
    paths = [tmp_path / name for name in ("server.pem", "server.key", "ca.pem")]
    server.cert_chain_pems[0].write_to_path(paths[0])
    server.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    return paths


def client_context(authority, issuer=None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if issuer is not None:
        issuer.issue_cert("client").configure_cert(context)
    return context


def test_tls_demands_a_client_of_the_authority(authority, certificates, tmp_path):
    certificate, key, client_ca = certificates
    files = {
        "hl7_tls_certificate": certificate,
        "hl7_tls_key": key,
        "hl7_tls_client_ca": client_ca,
    }
    with listening(tmp_path, **files) as (port, *_):
        with calling(port, client_context(authority, authority)) as connection:
            answer = exchange(connection, message(order()))
        strangers = [
            attempt(port, client_context(authority, issuer))
            for issuer in (None, trustme.CA())
        ]
        unencrypted = attempt(port, None)

    assert code(answer) == "AA"
    assert [*strangers, VT in unencrypted] == [b"", b"", False]


def test_a_bad_tls_client_is_refused_with_its_reason(tmp_path):
    hospital = Hospital(tmp_path / "hospital")
    files = {
        "hl7_tls_certificate": hospital.ours.certificate,
        "hl7_tls_key": hospital.ours.key,
        "hl7_tls_client_ca": hospital.ca,
    }
    old = ssl.create_default_context(cafile=hospital.ca)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    expired = ssl.create_default_context(cafile=hospital.ca)
    expired.load_cert_chain(hospital.expired.certificate, hospital.expired.key)
    nameless = ssl.create_default_context(cafile=hospital.ca)
    with listening(tmp_path, **files) as (port, log, url):
        answers = [attempt(port, context) for context in (old, expired, nameless)]
        assert VT not in attempt(port, None)
        wait_until(lambda: 'it speaks no TLS"' in log.read_text(), "the reasons", 10)
        kept = parked_at(url)
    assert (answers, kept) == ([b""] * 3, 0)
    for why in (
        "it speaks no TLS from version 1.2 on",
        "its certificate is refused: certificate has expired",
        "it showed no certificate",
    ):
        assert f"HL7 connection refused: {why}" in log.read_text()


def attempt(port: int, context: ssl.SSLContext | None) -> bytes:
    """Return what a caller is answered, b"" when it is turned away."""
    try:
        with calling(port, context) as connection:
            return exchange(connection, message(order()))
    except (ssl.SSLError, ConnectionError):
        return b""


def test_half_of_the_tls_files_is_a_wrong_setting(certificates, tmp_path):
    certificate, key, client_ca = certificates
    for files in (
        (certificate, None, None),
        (None, None, client_ca),
        (key, certificate, None),
        (tmp_path / "none", key, None),
        (certificate, key, key),
    ):
        with pytest.raises(SettingsError, match="TLS"):
            mllp.secured(*files)
    assert mllp.secured(None, None, None) is None


def test_a_wrong_setting_or_a_taken_port_is_one_sentence(tmp_path):
    schema.upgrade(f"sqlite:///{tmp_path / 'sentinode.db'}")

    def start(**settings):
        return subprocess.run(
            [sys.executable, "-m", "worker.hl7"],
            env={**os.environ, "SENTINODE_DATA_DIR": str(tmp_path), **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    unset = start()
    words = start(SENTINODE_HL7_PORT="2575", SENTINODE_HL7_WORDS="/none.toml")
    with listening(tmp_path) as (port, *_):
        taken = start(SENTINODE_HL7_PORT=str(port), SENTINODE_HL7_HOST="127.0.0.1")

    for done, sentence in (
        (unset, "SENTINODE_HL7_PORT"),
        (words, "/none.toml cannot be read"),
        (taken, "cannot start"),
    ):
        assert done.returncode == 1
        assert sentence in done.stderr.splitlines()[-1]


def test_the_settings_are_read_as_they_are_documented(tmp_path):
    settings = load(
        WorkerSettings,
        data_dir=tmp_path,
        hl7_allow="10.0.0.0/8, 192.0.2.1",
        hl7_issuers="LIS=HOSPITAL A,X=Y",
        stage_two="conditional",
    )

    assert [str(one) for one in settings.hl7_allow] == ["10.0.0.0/8", "192.0.2.1/32"]
    assert settings.hl7_issuers == {"LIS": "HOSPITAL A", "X": "Y"}
    assert settings.stage_two == "conditional"
