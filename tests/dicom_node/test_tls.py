"""DICOM over TLS (PS3.15 B.12), taken and made, with DCMTK at the other end."""

import contextlib
import hashlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context

from dicom_node import audit, commitment, committer, fetch, retrieve, sender, tls
from dicom_node.association import pausing
from dicom_node.committer import Patience
from dicom_node.contexts import COMMITMENT, COMMITMENT_INSTANCE
from dicom_node.errors import PeerUnavailableError, SettingsError
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load
from dicom_node.study import Peer, SopInstanceUid
from dicom_node.tls import Caller, TlsFiles
from tests.certificates import Hospital, Pair
from tests.dicom_node.conftest import CALLER, associate, dataset, make_database, store
from tests.peers import ORTHANC_AET, Orthanc, free_port, wait_until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def database(request) -> str:
    return make_database(request, "sqlite")


@pytest.fixture
def secure(settings, hospital) -> NodeSettings:
    return settings.model_copy(
        update={
            "tls_certificate": hospital.ours.certificate,
            "tls_key": hospital.ours.key,
            "tls_ca": hospital.ca,
            "tls_port": 0,
        }
    )


@contextlib.contextmanager
def listening(settings, sessions):
    started = Listener(settings, sessions)
    started.start()
    try:
        yield started
    finally:
        started.stop()


def files_of(pair, ca) -> TlsFiles:
    return TlsFiles(pair.certificate, pair.key, ca)


def echoscu(port, *options, calling=CALLER) -> subprocess.CompletedProcess:
    address = ("-to", "10", "-aet", calling, "-aec", "SENTINODE", "127.0.0.1", port)
    return subprocess.run(
        ["echoscu", *map(str, (*options, *address))],
        capture_output=True,
        text=True,
        check=False,
    )


def refusals(sessions) -> str:
    """What the audit trail says of refused calls."""
    with sessions() as session:
        return "; ".join(one.event.detail for one in audit.entries(session))


def stored_count(sessions) -> int:
    with sessions() as session:
        return session.scalar(sa.text("SELECT count(*) FROM instance"))


# Calls that come


def test_storescu_stores_by_tls_from_version_1_2_on(
    secure, sessions, hospital, tmp_path
):
    path = tmp_path / "image.dcm"
    dataset(1).save_as(path, enforce_file_format=True)
    peer = hospital.peer
    with listening(secure, sessions) as started:
        done = subprocess.run(
            [
                *("storescu", "+tls", peer.key, peer.certificate, "+cf", hospital.ca),
                *("-aet", CALLER, "-aec", "SENTINODE"),
                *("127.0.0.1", str(started.tls_port), path),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert stored_count(sessions) == 1


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_every_profile_of_bcp_195_is_understood(secure, sessions, hospital, profile):
    peer = hospital.peer
    options = ("+tls", peer.key, peer.certificate, "+cf", hospital.ca, profile)
    with listening(secure, sessions) as started:
        done = echoscu(started.tls_port, *options)
    assert done.returncode == 0, done.stderr


def hello(port, context, name="127.0.0.1") -> bytes:
    """Shake hands, and read what comes: with TLS 1.3 a refusal comes only then."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        connection.settimeout(2)
        connection.sendall(b"\x01\x00\x00\x00")
        return connection.recv(1)


def caller(hospital, pair=None, version=None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=hospital.ca)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def old_version(hospital):
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        return caller(hospital, hospital.peer, ssl.TLSVersion.TLSv1_1)


def weak_cipher(hospital):
    context = caller(hospital, hospital.peer, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES256-SHA:@SECLEVEL=0")
    return context


REFUSED = {
    "no certificate": (caller, "it showed no certificate"),
    "of another authority": (
        lambda it: caller(it, it.stranger),
        "its certificate is refused: unable to get local issuer certificate",
    ),
    "expired": (
        lambda it: caller(it, it.expired),
        "its certificate is refused: certificate has expired",
    ),
    "TLS 1.1": (old_version, "it speaks no TLS from version 1.2 on"),
    "no forward secrecy": (weak_cipher, "it has no cipher suite in common with us"),
    "distrusts us": (
        lambda it: ssl.create_default_context(cafile=it.strange_ca),
        "it does not trust the certificate that we show",
    ),
}


@pytest.mark.parametrize("who", REFUSED)
def test_a_bad_client_is_refused_with_its_reason(
    secure, sessions, hospital, caplog, who
):
    make, why = REFUSED[who]
    with listening(secure, sessions) as started:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert hello(started.tls_port, make(hospital)) == b"nothing"
        wait_until(lambda: why in caplog.text, why, 10)
    assert f"?@127.0.0.1 1x ({why})" in refusals(sessions)


def test_a_revoked_certificate_is_refused(secure, sessions, hospital, caplog):
    revoked = hospital.pair("revoked", "127.0.0.1")
    crl = hospital.revoking(revoked)
    secure = secure.model_copy(update={"tls_crl": crl})
    with listening(secure, sessions) as started:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            hello(started.tls_port, caller(hospital, revoked))
        peer = hospital.peer
        options = ("+tls", peer.key, peer.certificate, "+cf", hospital.ca)
        assert echoscu(started.tls_port, *options).returncode == 0
    assert "its certificate is refused: certificate revoked" in caplog.text


def test_a_plain_caller_on_the_tls_port_is_refused(secure, sessions, caplog):
    with listening(secure, sessions) as started:
        assert not associate(started.tls_port).is_established
        wait_until(lambda: "it speaks no TLS" in caplog.text, "the refusal", 10)
    assert "?@127.0.0.1 1x (it speaks no TLS)" in refusals(sessions)


def test_a_tls_caller_on_the_plain_port_is_refused(secure, sessions, hospital, caplog):
    with listening(secure, sessions) as started:
        peer = hospital.peer
        options = ("+tls", peer.key, peer.certificate, "+cf", hospital.ca)
        assert echoscu(started.port, *options).returncode != 0
    assert "it speaks TLS on the port without TLS" in caplog.text
    assert "it speaks TLS on the port without TLS" in refusals(sessions)


def test_with_tls_the_plain_port_answers_our_own_check_of_health_alone(
    secure, sessions
):
    with listening(secure, sessions) as started:
        check = associate(started.port, "SENTINODE")
        assert [one.abstract_syntax for one in check.accepted_contexts] == [
            "1.2.840.10008.1.1"
        ]
        check.release()
        stranger = associate(started.port)
        assert stranger.is_rejected
        assert stranger.acceptor.primitive.diagnostic == 0x03
    assert "caller not admitted without TLS" in refusals(sessions)


def test_both_ports_side_by_side_where_a_site_wants_it(secure, sessions, hospital):
    secure = secure.model_copy(update={"tls_only": False})
    with listening(secure, sessions) as started:
        plain = associate(started.port)
        assert store(plain, dataset(1)) == [0]
        plain.release()
        peer = hospital.peer
        options = ("+tls", peer.key, peer.certificate, "+cf", hospital.ca)
        assert echoscu(started.tls_port, *options).returncode == 0


def test_without_mutual_tls_a_caller_needs_no_certificate(secure, sessions, hospital):
    secure = secure.model_copy(update={"tls_mutual": False, "tls_ca": None})
    with listening(secure, sessions) as started:
        done = echoscu(started.tls_port, "+tla", "+cf", hospital.ca)
        stranger = echoscu(
            started.tls_port, "+tla", "+cf", hospital.ca, calling="STRANGER"
        )
    assert (done.returncode, stranger.returncode) == (0, 1), done.stderr


@pytest.mark.parametrize(
    ("holder", "admitted"),
    [
        ("peer.hospital.test", True),
        ("PACS.hospital.test", True),
        ("sha256:{}", True),
        ("other.hospital.test", False),
        ("sha256:" + "0" * 64, False),
    ],
)
def test_a_title_is_bound_to_a_certificate(
    secure, sessions, hospital, holder, admitted
):
    pem = ssl.PEM_cert_to_DER_cert(hospital.peer.certificate.read_text())
    holder = holder.format(hashlib.sha256(pem).hexdigest())
    allow = load(
        NodeSettings,
        data_dir="/x",
        allow=f"{CALLER}@127.0.0.0/8#{holder}",
        tls_certificate=secure.tls_certificate,
        tls_key=secure.tls_key,
        tls_ca=secure.tls_ca,
    ).allow
    secure = secure.model_copy(update={"allow": allow, "tls_only": False})
    peer = hospital.peer
    options = ("+tls", peer.key, peer.certificate, "+cf", hospital.ca)
    with listening(secure, sessions) as started:
        assert (echoscu(started.tls_port, *options).returncode == 0) is admitted
        assert associate(started.port).is_rejected  # without TLS there is no holder


def test_callers_that_never_shake_hands_hold_up_nobody(secure, sessions, hospital):
    peer = hospital.peer
    options = ("+tls", peer.key, peer.certificate, "+cf", hospital.ca)
    with listening(secure, sessions) as started, contextlib.ExitStack() as held:
        for first in (b"", b"\x16\x03\x01") * 12:  # more than there are places
            one = held.enter_context(
                socket.create_connection(("127.0.0.1", started.tls_port))
            )
            one.sendall(first)
        began = time.monotonic()
        assert echoscu(started.tls_port, *options).returncode == 0
        assert time.monotonic() - began < 5


def test_a_handshake_that_drips_is_ended_in_time(secure, sessions, caplog, monkeypatch):
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT_S", 1.0)
    with listening(secure, sessions) as started:
        address = ("127.0.0.1", started.tls_port)
        with socket.create_connection(address) as slow:
            until = time.monotonic() + 10
            with contextlib.suppress(OSError):
                for byte in b"\x16\x03\x01\x02\x00" + b"\x01" * 512:
                    slow.sendall(bytes([byte]))
                    time.sleep(0.05)
                    assert time.monotonic() < until
        wait_until(lambda: tls.SILENT in caplog.text, "the end", 5)


def test_a_look_at_the_port_is_no_alarm(secure, sessions, caplog):
    with listening(secure, sessions) as started:
        for port in (started.port, started.tls_port):
            socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.3)
    assert "refused" not in caplog.text


def test_a_renewed_certificate_needs_no_restart(secure, sessions, hospital, tmp_path):
    current, key = tmp_path / "current.pem", tmp_path / "current.key"
    use(hospital.ours, current, key)
    update = {"tls_certificate": current, "tls_key": key}
    with listening(secure.model_copy(update=update), sessions) as started:
        first = shown(started.tls_port, hospital)
        current.write_text("half of a certificate")
        assert shown(started.tls_port, hospital) == first
        use(hospital.pair("renewed", "127.0.0.1"), current, key)
        assert shown(started.tls_port, hospital) != first


def use(pair, certificate, key) -> None:
    certificate.write_bytes(pair.certificate.read_bytes())
    key.write_bytes(pair.key.read_bytes())


def shown(port, hospital) -> str:
    context = caller(hospital, hospital.peer)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return connection.getpeercert()["serialNumber"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tls_certificate": "c"}, "need each other"),
        ({"tls_certificate": "c", "tls_key": "k"}, "SENTINODE_TLS_CA is not set"),
        ({"tls_crl": "c"}, "SENTINODE_TLS_CRL needs"),
        ({"allow": "A@10.0.0.1#name"}, "no caller is asked"),
        ({"allow": "A@10.0.0.1#"}, "no certificate after #"),
        ({"allow": "A@#sha256:12"}, "64 hexadecimal digits"),
    ],
)
def test_half_of_a_setting_is_refused(given, why):
    with pytest.raises(SettingsError, match=why):
        load(NodeSettings, data_dir="/x", **given)


@pytest.mark.parametrize("broken", ["tls_certificate", "tls_key", "tls_ca"])
def test_a_file_that_cannot_be_used_is_named(secure, sessions, tmp_path, broken):
    path = tmp_path / "broken.pem"
    path.write_text("SECRET-MARKER")
    with pytest.raises(SettingsError, match=r"broken\.pem") as raised:
        Listener(secure.model_copy(update={broken: path}), sessions).start()
    assert "SECRET-MARKER" not in str(raised.value)


def test_the_certificates_of_the_readme_work(secure, sessions, tmp_path):
    section = README.partition("### Use TLS")[2]
    commands = section.partition("```sh\n")[2].partition("```")[0]
    subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, check=True, capture_output=True
    )
    made = tmp_path / "tls"
    ours, theirs = made / "sentinode.example", made / "pacs.example"
    update = {
        "tls_certificate": ours.with_suffix(".example.pem"),
        "tls_key": ours.with_suffix(".example.key"),
        "tls_ca": made / "ca.pem",
    }
    pair = Pair(theirs.with_suffix(".example.pem"), theirs.with_suffix(".example.key"))
    with listening(secure.model_copy(update=update), sessions) as started:
        options = ("+tls", pair.key, pair.certificate, "+cf", made / "ca.pem")
        assert echoscu(started.tls_port, *options).returncode == 0
        context = ssl.create_default_context(cafile=made / "ca.pem")
        context.load_cert_chain(pair.certificate, pair.key)
        with (
            socket.create_connection(("127.0.0.1", started.tls_port)) as plain,
            context.wrap_socket(plain, server_hostname="sentinode.example") as secured,
        ):
            assert secured.version() == "TLSv1.3"


# Calls that we make


@contextlib.contextmanager
def storescp(folder, *options):
    """Run DCMTK's storage SCP."""
    port = free_port()
    process = subprocess.Popen(
        ["storescp", "-od", folder, *map(str, options), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TCP_NODELAY": "1"},
    )

    def answers():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, "storescp's start", 10)
        yield Peer("STORESCP", "127.0.0.1", port, tls=True)
    finally:
        process.terminate()
        process.wait(10)


def scp_options(hospital, pair=None):
    pair = pair or hospital.peer
    return ("+tls", pair.key, pair.certificate, "+cf", hospital.ca)


def test_objects_go_out_by_tls(hospital, tmp_path):
    path = tmp_path / "image.dcm"
    dataset(1).save_as(path, enforce_file_format=True)
    folder = tmp_path / "received"
    folder.mkdir()
    us = Caller("SENTINODE", files_of(hospital.ours, hospital.ca))
    with storescp(folder, *scp_options(hospital)) as peer:
        (outcome,) = sender.send(peer, us, [path])
    assert outcome.error is None
    assert outcome.status == 0
    assert len(list(folder.iterdir())) == 1


def bare(hospital):
    return TlsFiles(ca=hospital.ca)


OUTWARD = {
    "no certificate of ours": (None, bare, "certificate|handshake"),
    "we trust another authority": (
        None,
        lambda it: files_of(it.ours, it.strange_ca),
        "its certificate is refused: self-signed certificate in certificate chain",
    ),
    "its certificate has expired": (
        "expired",
        lambda it: files_of(it.ours, it.ca),
        "its certificate is refused: certificate has expired",
    ),
    "it is another host": (
        "elsewhere",
        lambda it: files_of(it.ours, it.ca),
        "its certificate is refused: IP address mismatch",
    ),
    "it does not know us": (
        None,
        lambda it: files_of(it.stranger, it.ca),
        "does not trust|hung up",
    ),
    "a file of ours is not there": (
        None,
        lambda it: TlsFiles(ca=it.folder / "nowhere.pem"),
        "TLS cannot use .*nowhere.pem",
    ),
}


@pytest.mark.parametrize("case", OUTWARD)
def test_a_peer_that_cannot_be_trusted_gets_nothing(hospital, tmp_path, case):
    theirs, ours, why = OUTWARD[case]
    pair = getattr(hospital, theirs) if theirs else hospital.peer
    us = Caller("SENTINODE", ours(hospital))
    path = tmp_path / "image.dcm"
    dataset(1).save_as(path, enforce_file_format=True)
    folder = tmp_path / "received"
    folder.mkdir()
    with storescp(folder, *scp_options(hospital, pair)) as peer:
        (outcome,) = sender.send(peer, us, [path], timeout=10)
    assert isinstance(outcome.error, PeerUnavailableError)
    assert outcome.error.args[0].startswith(f"tls:STORESCP@127.0.0.1:{peer.port}: ")
    assert re.search(why, str(outcome.error)), outcome.error
    assert not list(folder.iterdir())


def test_a_peer_without_tls_is_named(hospital, tmp_path):
    us = Caller("SENTINODE", files_of(hospital.ours, hospital.ca))
    with (
        storescp(tmp_path) as peer,
        pytest.raises(PeerUnavailableError, match=r"hung up|speaks no TLS"),
    ):
        sender.echo(peer, us, timeout=10)


def test_a_peer_that_never_shakes_hands_is_given_up(hospital):
    us = Caller("SENTINODE", files_of(hospital.ours, hospital.ca))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer("SILENT", "127.0.0.1", silent.getsockname()[1], tls=True)
        began = time.monotonic()
        with pytest.raises(PeerUnavailableError, match="took too long"):
            sender.echo(peer, us, timeout=1)
        assert time.monotonic() - began < 5


def test_an_archive_is_queried_and_sends_to_us_by_tls(
    secure, sessions, hospital, tmp_path
):
    """Orthanc gets an object, is asked for it, and moves and sends it back."""
    path = tmp_path / "image.dcm"
    dataset(1).save_as(path, enforce_file_format=True)
    kept = []
    allow = load(NodeSettings, data_dir="/x", allow=ORTHANC_AET).allow
    secure = secure.model_copy(update={"allow": allow})
    us = secure.caller
    with listening(secure, sessions) as started:
        archive = Orthanc(
            tmp_path / "orthanc",
            started.tls_port,
            options=orthanc_tls(started, hospital),
        ).start()
        peer = Peer(ORTHANC_AET, "127.0.0.1", archive.port, tls=True)
        try:
            (sent,) = sender.send(peer, us, [path])
            contexts = [fetch.move_context()]
            with retrieve.querying(peer, us, 20, contexts) as opened:
                (found,) = fetch.studies(opened, fetch.Query(modality=""))
                moved = fetch.move(opened, found.study_uid, "SENTINODE")
            basket = Basket(kept)
            ((_, got),) = fetch.get(peer, us, [found.study_uid], basket, timeout=20)
        finally:
            archive.stop()
    assert sent.error is None
    assert (moved.completed, got.completed, len(kept)) == (1, 1, 1)
    assert stored_count(sessions) == 1


def orthanc_tls(started, hospital) -> dict:
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(hospital.peer.certificate),
        "DicomTlsPrivateKey": str(hospital.peer.key),
        "DicomTlsTrustedCertificates": str(hospital.ca),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {
            "sentinode": {
                "AET": "SENTINODE",
                "Host": "127.0.0.1",
                "Port": started.tls_port,
                "UseDicomTls": True,
            }
        },
    }


class Basket:
    """Takes what a C-GET brings."""

    def __init__(self, kept):
        self.put = kept.append


def test_storage_commitment_is_asked_and_reported_by_tls(secure, sessions, hospital):
    """The archive asks back to our port, with the certificate of its own."""
    theirs = files_of(hospital.peer, hospital.ca)
    secured = tls.server_context(theirs, mutual=True)
    entity = AE("ARCHIVE")
    statuses = []
    with listening(secure, sessions) as started:

        def report(information):
            context = tls.client_context(theirs)
            back = AE(CALLER)
            association = back.associate(
                "127.0.0.1",
                started.tls_port,
                contexts=[build_context(COMMITMENT)],
                ae_title="SENTINODE",
                ext_neg=[build_role(COMMITMENT, scu_role=False, scp_role=True)],
                tls_args=(context, "127.0.0.1"),
            )
            answer, _ = pausing(association).send_n_event_report(
                information, 1, COMMITMENT, COMMITMENT_INSTANCE
            )
            statuses.append(answer.Status)
            association.release()

        def act(event):
            thread = threading.Thread(target=report, args=[event.action_information])
            thread.start()
            return 0, None

        entity.add_supported_context(COMMITMENT)
        archive = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            ssl_context=secured,
            evt_handlers=[(evt.EVT_N_ACTION, act)],
        )
        peer = Peer("ARCHIVE", "127.0.0.1", archive.server_address[1], tls=True)
        request = commitment.Request(
            "2.25.7", (("1.2.840.10008.5.1.4.1.1.7", SopInstanceUid("1.2.3")),)
        )
        committer.ask(peer, secure.caller, request, lambda _: True, Patience(10, 0.1))
        wait_until(lambda: statuses, "the report", 10)
        archive.shutdown()
    assert statuses == [0x0115]  # heard, and its transaction is none of ours


def test_our_own_listener_is_known_by_its_certificate(secure, sessions, hospital):
    elsewhere = hospital.pair("named", "sentinode.hospital.test")
    update = {"tls_certificate": elsewhere.certificate, "tls_key": elsewhere.key}
    secure = secure.model_copy(update=update)
    us = Caller(CALLER, secure.tls, itself=True)
    with listening(secure, sessions) as started:
        peer = Peer("SENTINODE", "127.0.0.1", started.tls_port, tls=True)
        assert sender.echo(peer, us, timeout=10) > 0
        with pytest.raises(PeerUnavailableError, match="IP address mismatch"):
            sender.echo(peer, replace(us, itself=False), timeout=10)


@pytest.mark.parametrize(
    "text", ["tls:PACS@pacs.example:2762", "PACS@pacs.example:104", "tls:A@[::1]:104"]
)
def test_a_peer_is_written_as_it_is_read(text):
    peer = Peer.parse(text)
    assert str(peer) == text
    assert peer.tls is text.startswith("tls:")


@pytest.mark.parametrize("text", ["PACS@[:104", "PACS@[]:104", "PACS@a]:104", "A@[[:1"])
def test_a_peer_whose_brackets_hold_no_address_is_refused(text):
    with pytest.raises(ValueError, match="is not of the form"):
        Peer.parse(text)
