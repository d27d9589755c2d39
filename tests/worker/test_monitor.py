"""The HTTP server with its pages, over a real socket."""

import base64
import http.client
import json
import socket
import time

import pytest

from dicom_node import advice, pauses
from dicom_node.db import now
from dicom_node.errors import SettingsError
from dicom_node.study import Reason
from dicom_node.tables import Pausable
from tests.monitored import Served, browse, failed_study, held_study, pages_of
from tests.worker.test_metrics import samples
from worker.monitor import html
from worker.monitor import server as http_server
from worker.monitor.readiness import Check, Probe, Readiness
from worker.monitor.server import Guard

TOKEN = "a-token-nobody-guesses"  # noqa: S105 - of the test alone


CHECKS = [
    Check("database", ok=True, detail="sqlite"),
    Check("workers", ok=True, detail="analysis@host"),
]


@pytest.fixture
def checks():
    """What the dependencies are said to be; a test may change it."""
    return list(CHECKS)


@pytest.fixture
def pages(bench, checks):
    return pages_of(bench, checks)


@pytest.fixture
def served(pages):
    with Served(pages) as one:
        yield one


@pytest.fixture
def guarded(pages, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    with Served(pages, token_file) as one:
        yield one


@pytest.fixture
def held(bench, source):
    return held_study(bench, source)


def test_metrics_are_what_prometheus_reads(served):
    answer = served.get("/metrics")

    assert answer.status == 200
    assert answer.getheader("Content-Type").startswith("text/plain; version=")
    assert samples(answer.text)["sentinode_database_up",] == 1


def test_health_is_open_and_readiness_names_its_dependencies(served):
    assert served.get("/healthz").text == "ok\n"
    answer = served.get("/readyz")

    assert answer.status == 200
    assert json.loads(answer.text) == {
        "ready": True,
        "checks": [
            {"name": "database", "ok": True, "detail": "sqlite"},
            {"name": "workers", "ok": True, "detail": "analysis@host"},
        ],
    }


def test_a_dependency_that_fails_is_503(served, checks):
    checks[1] = Check("workers", ok=False, detail="none answers")

    answer = served.get("/readyz")
    assert answer.status == 503
    assert json.loads(answer.text)["checks"][1]["detail"] == "none answers"
    assert "not ready: workers" in served.get("/").text


def test_a_stale_look_is_renewed_behind_the_answer():
    at, looks = [0.0], []

    def look():
        looks.append(at[0])
        return Check("it", ok=len(looks) == 1, detail="")

    readiness = Readiness([Probe(look)], lambda: at[0])
    assert readiness.checks()[0].ok
    at[0] = 6.0
    assert readiness.checks()[0].ok  # as it was seen, while a thread looks again
    deadline = time.monotonic() + 10
    while readiness.checks()[0].ok and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not readiness.checks()[0].ok
    assert looks == [0.0, 6.0]


def test_the_page_says_what_is_held_and_what_to_do_and_names_nobody(
    served, study, held, slices
):
    answer = served.get("/")

    assert "text/html" in answer.getheader("Content-Type")
    assert "Research use only" in answer.text
    assert "no_roi" in answer.text
    assert advice.of("no_roi").means in answer.text
    assert f"…{study[-12:]}" in answer.text
    assert study not in answer.text
    for keyword in ("PatientName", "PatientID", "PatientBirthDate"):
        assert str(slices[0][keyword].value) not in answer.text
    assert "<script" not in answer.text


def test_what_a_person_paused_is_on_the_page_and_a_metric_without_who_and_why(
    bench, pages
):
    with bench.sessions.begin() as session:
        pauses.pause(session, Pausable.DELIVERY, "ward of Jane Doe", "anna", now())

    with Served(pages) as served:
        page = served.get("/").text
        metrics = samples(served.get("/metrics").text)

    assert "Paused by a person: delivery." in page
    assert "Jane" not in page
    assert "anna" not in page
    assert metrics["sentinode_queue_paused", "delivery"] == 1
    assert metrics["sentinode_queue_paused", "analysis"] == 0
    assert '<b class="">0</b>failed' in page  # nothing failed: nothing is red


def test_every_reason_has_an_advice():
    assert {str(reason) for reason in Reason} <= advice.ADVICE.keys()


def test_answers_carry_security_headers(served):
    page = served.get("/")

    policy = page.getheader("Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    for path in ("/", "/metrics", "/missing"):
        answer = served.get(path)
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("X-Frame-Options") == "DENY"
        assert answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("Server") == "sentinode"


def test_other_methods_paths_and_hosts_are_refused(served):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = served.get("/", method)
        assert answer.status == 405
        assert answer.getheader("Allow") == "GET, HEAD"
    assert served.get("/../etc/passwd").status == 404
    assert served.get("/", Host="evil.example").status == 403
    assert served.get("/", Host="localhost:1").status == 200
    head = served.get("/healthz", "HEAD")
    assert (head.status, head.text, head.getheader("Content-Length")) == (200, "", "3")


def test_a_token_is_asked_for_where_one_is_set(guarded):
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()

    refused = guarded.get("/")
    assert refused.status == 401
    assert refused.getheader("WWW-Authenticate").startswith("Basic realm=")
    for wrong in ("", "Bearer", "Bearer x", "Basic !", f"Digest {TOKEN}"):
        assert guarded.get("/metrics", Authorization=wrong).status == 401
    assert guarded.get("/metrics", Authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.get("/", Authorization=f"Basic {basic}").status == 200
    assert guarded.get("/", Authorization=f"Bearer {TOKEN}", Host="pacs").status == 200
    assert guarded.get("/healthz").status == 200
    assert json.loads(guarded.get("/readyz").text) == {"ready": True}


def test_guessing_the_token_gains_nothing_and_locks_nobody_out(guarded):
    guesses = [TOKEN[:-1], TOKEN + "x", TOKEN.upper() + "x", "", "\x00", "é" * 16]
    for guess in (*guesses, *(f"guess-{n:010}" for n in range(200))):
        said = f"Bearer {guess}".encode("latin-1", "replace").decode("latin-1")
        try:
            assert guarded.get("/metrics", Authorization=said).status in {400, 401}
        except ValueError:
            assert "\x00" in guess  # no client sends it
    assert guarded.get("/metrics", Authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    "line",
    [
        b"GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1",
        b"GET /\rSet-Cookie: a=b HTTP/1.1",
        b"GET /?a=%0d%0aX-Marker:1 HTTP/1.1",
        b"GET http://evil.example/%0d%0aX-Marker:1 HTTP/1.1",
    ],
)
def test_nothing_of_a_request_becomes_a_header_or_a_line_of_the_log(
    guarded, caplog, line
):
    end = b"\r\nHost: localhost\r\nAuthorization: Bearer x\x0bX-Marker: 1\r\n"
    with socket.create_connection(guarded.address, timeout=10) as raw:
        raw.sendall(line + end + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.split()[1] in {b"400", b"401", b"403", b"404"}
    assert b"set-cookie" not in head
    assert b"x-marker" not in head
    assert "\r" not in caplog.text


def test_a_short_token_is_refused(tmp_path):
    path = tmp_path / "token"
    path.write_text("short")

    with pytest.raises(SettingsError, match="16 characters"):
        Guard(path).token()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_request_ends_its_connection_alone(served, request_):
    try:
        answer = served.raw(request_)
    except OSError:  # it may have hung up by then
        answer = b""

    assert not answer.startswith(b"HTTP/1.0 200")
    assert served.get("/healthz").status == 200


def test_a_slow_caller_is_hung_up_on(pages, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_S", 0.5)
    with (
        Served(pages) as served,
        socket.create_connection(served.address, timeout=10) as slow,
    ):
        slow.sendall(b"GET / HT")
        assert slow.recv(100) == b""


def test_too_many_callers_are_hung_up_on(pages):
    with Served(pages) as served:
        idle = [
            socket.create_connection(served.address, timeout=10)
            for _ in range(http_server.MAX_CONNECTIONS + 1)
        ]
        assert idle[-1].recv(1) == b""
        for each in idle:
            each.close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert served.get("/healthz").status == 200
                break
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.1)


def test_a_page_that_fails_ends_nothing(pages, served):
    broken = http_server.Page(lambda _full: 1 / 0)
    with Served({**pages, "/": broken}) as other:
        assert other.get("/").status == 500
        assert other.get("/healthz").status == 200


def test_a_browser_shows_the_page(bench, served, study, held, tmp_path):
    failed_study(bench)
    dom = browse(tmp_path, "--dump-dom", served.url)

    assert '<span id="ready" class="ok">ready</span>' in dom
    for part in ("day", "stuck", "deliveries", "models", "latencies", "studies"):
        assert f'id="{part}"' in dom
    assert "no_roi" in dom
    assert "analysis_error" in dom


def test_on_a_telephone_a_model_name_is_read_in_one_line(tmp_path):
    row = ("NSLN", html.code("resnet18-nsln@20261124-3f505cd2"), 0.47, "manifest")
    table = html.section("models", "Models", ("stage", "model", "at", "set by"), [row])
    page = tmp_path / "page.html"
    page.write_text(
        f"<!doctype html><title></title>"
        f"<iframe width=390 srcdoc='<!doctype html><style>{html.STYLE}</style>"
        f"{table}'></iframe><script>onload = () => {{ const page = document"
        ".querySelector('iframe').contentDocument; document.title = page"
        ".querySelector('code').getClientRects().length }</script>"
    )

    assert "<title>1</title>" in browse(tmp_path, "--dump-dom", page.as_uri())
