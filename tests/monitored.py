"""An installation with something of everything, and its pages on a port."""

import http.client
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from sqlalchemy import insert, text, update

from dicom_node import outbox
from dicom_node.counters import Counted, Counters
from dicom_node.db import now
from dicom_node.findings import Stage
from dicom_node.study import StudyUid
from dicom_node.tables import DeliveryRow, DeliveryState
from tests import dicom_objects
from worker import models, outcomes
from worker.cli import monitor
from worker.cli.context import Site
from worker.metrics import drift
from worker.metrics.scraper import Scraper
from worker.monitor.readiness import Check, Probe, Readiness
from worker.monitor.server import Guard, Page, Server
from worker.monitor.watch import Sources
from worker.tasks.analysis import analyze

TITLE = "PACS"


class Served:
    """Pages served in a thread, and a client for them."""

    def __init__(self, pages: Mapping[str, Page], token_file: Path | None = None):
        self.server = Server(("127.0.0.1", 0), pages, Guard(token_file))
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/"

    def get(self, path: str, method: str = "GET", **headers: str):
        client = http.client.HTTPConnection(*self.address, timeout=30)
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        answer.text = answer.read().decode()
        client.close()
        return answer

    def raw(self, request: bytes) -> bytes:
        with socket.create_connection(self.address, 30) as each:
            each.sendall(request)
            each.shutdown(socket.SHUT_WR)
            parts = []
            while part := each.recv(65536):
                parts.append(part)
            return b"".join(parts)


def site_of(bench) -> Site:
    return Site(bench.site.settings, bench.sessions.kw["bind"])


def sources_of(bench, checks: Sequence[Check]) -> Sources:
    """What is looked at; the list may change meanwhile, not its length."""
    site = site_of(bench)
    probes = [Probe(lambda n=n: checks[n], 0.0) for n in range(len(checks))]
    return Sources(Scraper(site.settings, site.engine), Readiness(probes), site.reading)


def pages_of(bench, checks: Sequence[Check]) -> dict[str, Page]:
    return dict(monitor.pages(site_of(bench), sources_of(bench, checks)))


def held_study(bench, source) -> StudyUid:
    """A study without a rectangle."""
    uid = bench.receive(*dicom_objects.fresh_study("held"))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


def failed_study(bench) -> StudyUid:
    """A study whose analysis crashes each time."""
    images = dicom_objects.fresh_study("failed")
    uid = bench.receive(*images, dicom_objects.gsps_rectangle([images[4]]))
    bench.queue(uid)
    for _ in range(bench.site.settings.max_attempts):
        analyze(uid, bench.site, lambda _sessions: 1 / 0)
    return uid


def fail_delivery(bench) -> str:
    """Let the first delivery that is due fail for good; return its identifier."""
    with bench.sessions.begin() as session:
        first = outbox.deliveries(session)[0].delivery_id
        session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.delivery_id == first)
            .values(state=DeliveryState.FAILED, next_attempt_at=None)
        )
    return first


def send_delivery(bench) -> None:
    with bench.sessions.begin() as session:
        last = outbox.deliveries(session)[-1].delivery_id
        session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.delivery_id == last)
            .values(state=DeliveryState.SENT, sent_at=now(), next_attempt_at=None)
        )


def activate_models(bench) -> None:
    for manifest in models.installed(bench.site.settings.models):
        with bench.sessions.begin() as session:
            outcomes.activate(
                session,
                Stage(manifest.stage),
                (manifest.name, manifest.version, manifest.weights_sha256),
                "tester",
                now(),
            )


def count_calls(bench, title: str = TITLE) -> None:
    counters = Counters(bench.sessions)
    counters.add(Counted("associations", title, "accepted"), 3)
    counters.add(Counted("associations", "other", "caller_not_admitted"), 1)
    counters.add(Counted("stores", title, "0x0000"), 20)
    counters.add(Counted("stores", title, "0xA700"), 1)
    counters.add(Counted("stored_bytes", title), 123_456)
    assert counters.flush()


def report_drift(bench) -> None:
    """A report as whoever watches drift writes it, one statistic in alarm."""
    columns = (
        "drift_report_id integer primary key, at timestamp, stage varchar, "
        "model varchar, scanner varchar, statistic varchar, value float, "
        "p float, n integer, alarm boolean, detail varchar"
    )
    common = {"at": now(), "stage": "SLN", "model": "m@1", "scanner": "all", "n": 40}
    rows = [
        common | {"statistic": "score_ks", "value": 0.4, "p": 0.001, "alarm": True},
        common | {"statistic": "score_mean", "value": 0.5, "p": None, "alarm": False},
    ]
    with bench.sessions.begin() as session:
        session.execute(text(f"create table if not exists drift_report ({columns})"))
        session.execute(insert(drift.report), rows)


def browse(folder: Path, *arguments: str) -> str:
    """Debian's Chromium, without a window."""
    done = subprocess.run(
        [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"),
            *("--hide-scrollbars", "--no-first-run", *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
