"""STOW-RS: a real service, and one that answers as told."""

import base64
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydicom import dcmread

from dicom_node import stow
from dicom_node.destination import Credentials, WebService, parse_destination
from dicom_node.errors import PeerRejectedError, PeerUnavailableError
from dicom_node.statuses import HTTP
from dicom_node.stow import NO_CREDENTIALS
from dicom_node.study import Peer
from tests.dicom_node.conftest import MR, dataset
from tests.peers import Orthanc, free_port

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
FIRST, SECOND = "1.2.3.4.5.1", "1.2.3.4.5.2"


def reference(uid, **values):
    tags = {
        "00081150": {"vr": "UI", "Value": [MR]},
        "00081155": {"vr": "UI", "Value": [uid]},
    }
    names = {"reason": "00081197", "warning": "00081196"}
    for name, value in values.items():
        tags[names[name]] = {"vr": "US", "Value": [value]}
    return tags


def stored(*references):
    return {"00081199": {"vr": "SQ", "Value": list(references)}}


def failed(*references):
    return {"00081198": {"vr": "SQ", "Value": list(references)}}


class Service:
    """An HTTP server that answers the POSTs as told, one after the other."""

    def __init__(self, certificate=None):
        self.answers = []
        self.requests = []
        self.content_type = "application/dicom+json"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size)
                outer.requests.append((self.path, dict(self.headers), body))
                code, content, *headers = outer.answers.pop(0)
                if content is outer:
                    outer.released.wait(10)
                    return
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(code)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Type", outer.content_type)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self):
        port = self._server.server_port
        return WebService.parse(f"{self._scheme}://127.0.0.1:{port}/web/")

    def stop(self):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def service():
    made = Service()
    yield made
    made.stop()


@pytest.fixture
def files(tmp_path):
    paths = []
    for number in (1, 2):
        path = tmp_path / f"{number}.dcm"
        dataset(number).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def send(service, files, credentials=NO_CREDENTIALS, timeout=5):
    return list(stow.send(service.url, files, credentials, timeout))


def one(service, files, code, content, *headers):
    service.answers = [(code, content, *headers)]
    (outcome,) = send(service, files[:1])
    return outcome


def test_frozen_bytes_are_posted_as_they_are(service, files):
    service.answers = [(200, stored(reference(uid))) for uid in (FIRST, SECOND)]
    outcomes = send(service, files)
    assert [(each.status, each.error) for each in outcomes] == [(0, None)] * 2
    assert [each.sop_instance_uid for each in outcomes] == [FIRST, SECOND]
    for (path, headers, body), file in zip(service.requests, files, strict=True):
        assert path == "/web/studies"
        assert file.read_bytes() in body
        assert headers["Accept"] == "application/dicom+json"
        assert "Authorization" not in headers


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "x/y"])
def test_the_media_type_of_the_answer_does_not_matter(service, files, content_type):
    service.content_type = content_type
    assert one(service, files, 200, stored(reference(FIRST))).error is None
    assert one(service, files, 200, [stored(reference(FIRST))]).error is None


XML = """<?xml version="1.0"?><NativeDicomModel>
<DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">
<Item number="1"><DicomAttribute tag="00081155" vr="UI"
 keyword="ReferencedSOPInstanceUID"><Value number="1">1.2.3.4.5.1</Value>
</DicomAttribute></Item></DicomAttribute></NativeDicomModel>"""


def test_an_answer_in_xml_is_read(service, files):
    service.content_type = "application/dicom+xml"
    assert one(service, files, 200, XML).error is None


def test_a_warning_counts_as_stored(service, files):
    outcome = one(service, files, 202, stored(reference(FIRST, warning=0xB000)))
    assert (outcome.status, outcome.error) == (0xB000, None)


@pytest.mark.parametrize("code", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (0xA700, PeerUnavailableError),
        (0x0110, PeerRejectedError),
        (0x0122, PeerRejectedError),
        (0xC000, PeerRejectedError),
    ],
)
def test_the_reason_of_the_object_decides(service, files, code, reason, error):
    outcome = one(service, files, code, failed(reference(FIRST, reason=reason)))
    assert outcome.status == reason
    assert isinstance(outcome.error, error)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, PeerRejectedError),
        (401, PeerRejectedError),
        (403, PeerRejectedError),
        (404, PeerRejectedError),
        (409, PeerRejectedError),
        (413, PeerRejectedError),
        (415, PeerRejectedError),
        (408, PeerUnavailableError),
        (429, PeerUnavailableError),
        (500, PeerUnavailableError),
        (503, PeerUnavailableError),
    ],
)
def test_what_http_says_decides_where_nothing_else_does(service, files, code, error):
    outcome = one(service, files, code, "no")
    assert outcome.status == HTTP + code
    assert isinstance(outcome.error, error)
    assert f"HTTP {code}" in str(outcome.error)


@pytest.mark.parametrize(
    "content", ["", "<html>log in</html>", {}, stored(reference("1.2.3"))]
)
def test_a_page_that_answers_200_has_stored_nothing(service, files, content):
    outcome = one(service, files, 200, content)
    assert isinstance(outcome.error, PeerRejectedError)
    assert "does not say that it stored" in str(outcome.error)


def test_a_redirect_is_not_followed(service, files):
    outcome = one(service, files, 302, "", ("Location", "/elsewhere"))
    assert isinstance(outcome.error, PeerRejectedError)
    assert "redirects" in str(outcome.error)
    assert len(service.requests) == 1


def test_a_fault_of_the_service_ends_the_exchange_one_of_the_object_does_not(
    service, files
):
    service.answers = [(503, "later")]
    assert all(
        isinstance(each.error, PeerUnavailableError) for each in send(service, files)
    )
    service.answers = [(415, "no"), (200, stored(reference(SECOND)))]
    first, second = send(service, files)
    assert isinstance(first.error, PeerRejectedError)
    assert second.error is None


def test_no_answer_in_time_is_tried_again(service, files):
    service.answers = [(0, service)]
    (outcome,) = send(service, files[:1], timeout=0.5)
    assert isinstance(outcome.error, PeerUnavailableError)
    assert "in time" in str(outcome.error)


def test_nobody_there_is_tried_again(files):
    gone = WebService.parse(f"http://127.0.0.1:{free_port()}/dicom-web")
    outcomes = list(stow.send(gone, files, NO_CREDENTIALS, 2))
    assert all(isinstance(each.error, PeerUnavailableError) for each in outcomes)
    with pytest.raises(PeerUnavailableError):
        stow.check(gone, NO_CREDENTIALS, 2)


def test_a_token_or_a_password_goes_along_and_is_read_anew(service, files, tmp_path):
    secret = tmp_path / "secret"
    said = []
    for content, credentials in (
        ("one\n", Credentials(token_file=secret)),
        ("two", Credentials(token_file=secret)),
        ("anna:pw:x", Credentials(password_file=secret)),
    ):
        secret.write_text(content)
        service.answers = [(200, stored(reference(FIRST)))]
        send(service, files[:1], credentials)
        said.append(service.requests[-1][1]["Authorization"])
    basic = base64.b64encode(b"anna:pw:x").decode()
    assert said == ["Bearer one", "Bearer two", f"Basic {basic}"]


@pytest.mark.parametrize("content", [None, "", "two\nlines"])
def test_a_secret_that_cannot_be_used_waits_for_a_person(
    service, files, tmp_path, content
):
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    outcomes = send(service, files, Credentials(token_file=path))
    assert all(isinstance(each.error, PeerUnavailableError) for each in outcomes)
    assert str(path) in str(outcomes[0].error)
    assert "lines" not in str(outcomes[0].error)
    assert service.requests == []


@pytest.fixture
def certificate(tmp_path):
    """A certificate for this host that no system trusts, with its key."""
    path = tmp_path / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(path), "-out", str(tmp_path / "cert.pem")),
        ],
        capture_output=True,
        check=True,
    )
    with path.open("a") as file:
        file.write((tmp_path / "cert.pem").read_text())
    return path


def test_a_certificate_is_checked_against_the_sites_own(files, certificate):
    service = Service(certificate)
    service.answers = [(200, stored(reference(FIRST)))]
    try:
        (refused,) = send(service, files[:1])
        trusting = Credentials(ca_file=certificate.with_name("cert.pem"))
        (accepted,) = send(service, files[:1], trusting)
    finally:
        service.stop()
    assert isinstance(refused.error, PeerUnavailableError)
    assert "certificate is not trusted" in str(refused.error)
    assert accepted.error is None
    assert len(service.requests) == 1


def test_a_file_that_is_not_dicom_stops_nothing_else(service, files, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("not DICOM")
    service.answers = [(200, stored(reference(FIRST)))]
    first, second = send(service, [other, files[0]])
    assert first.status is None
    assert second.error is None


@pytest.fixture
def orthanc(tmp_path):
    options = {
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"anna": "secret"},
    }
    server = Orthanc(tmp_path / "orthanc", free_port(), options=options)
    server.credentials = ("anna", "secret")
    server.start()
    yield server
    server.stop()


def test_a_real_service_stores_what_we_post(orthanc, files, tmp_path):
    service = WebService.parse(f"http://127.0.0.1:{orthanc.http}/dicom-web")
    secret = tmp_path / "password"
    secret.write_text("anna:secret")
    credentials = Credentials(password_file=secret)

    (refused, _) = stow.send(service, files, NO_CREDENTIALS, 10)
    outcomes = list(stow.send(service, files, credentials, 10))
    again = list(stow.send(service, files, credentials, 10))

    assert refused.status == HTTP + 401
    assert [each.error for each in (*outcomes, *again)] == [None] * 4
    assert stow.check(service, credentials, 10) < 500
    with pytest.raises(PeerRejectedError, match="401"):
        stow.check(service, NO_CREDENTIALS, 10)
    instances = orthanc.get("/instances")
    path = tmp_path / "back.dcm"
    path.write_bytes(orthanc.file(instances[0]))
    assert len(instances) == 2
    assert dcmread(path).PatientID == "MARKER-PID"


def test_a_destination_is_an_ae_or_a_url():
    assert parse_destination("A@h:1") == Peer("A", "h", 1)
    url = parse_destination("https://pacs.example:8443/dicom-web/")
    assert str(url) == "https://pacs.example:8443/dicom-web"
    assert (url.host, url.is_encrypted) == ("pacs.example", True)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://pacs/x",
        "https://",
        "https://anna:hunter2@pacs/x",
        "https://pacs/x?token=hunter2",
        "https://pacs:99999/x",
    ],
)
def test_a_url_with_secrets_or_of_another_form_is_refused_unquoted(text):
    with pytest.raises(ValueError, match="is not of the form") as raised:
        parse_destination(text)
    assert "hunter2" not in str(raised.value)
