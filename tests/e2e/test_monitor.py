"""Status page, metrics and health of a live installation, with some of everything."""

import json
import sqlite3
import subprocess
import urllib.error
import urllib.request

import pytest

from tests import dicom_objects
from tests.monitored import browse
from tests.peers import Orthanc, Sentinode, free_port, wait_until
from tests.worker.test_metrics import samples

pytestmark = pytest.mark.e2e


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - ours
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


@pytest.fixture
def watched(tmp_path, quick_models):
    """An installation whose status page is on a port of its own."""
    port = free_port()
    sentinode = Sentinode(tmp_path / "sentinode", quick_models)
    orthanc = Orthanc(tmp_path / "orthanc", sentinode.port)
    sentinode.use(str(orthanc), "1", "--http-port", str(port))
    orthanc.start()
    try:
        sentinode.start()
        yield sentinode, f"http://127.0.0.1:{port}"
    finally:
        code = sentinode.stop()
        orthanc.stop()
    assert code == 0, sentinode.logs()
    assert fetch(f"http://127.0.0.1:{port}/healthz")[0] == 0


def send(sentinode, folder, datasets) -> str:
    folder.mkdir()
    for number, one in enumerate(datasets):
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    called = ("-aet", "ORTHANC", "-aec", "SENTINODE", "127.0.0.1", str(sentinode.port))
    done = subprocess.run(
        ["dcmsend", *called, "+sd", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return datasets[0].StudyInstanceUID


def test_the_page_of_a_live_system(watched, tmp_path):
    sentinode, base = watched
    fine = dicom_objects.fresh_study("fine")
    mark = dicom_objects.gsps_rectangle([fine[4]])
    analyzed = send(sentinode, tmp_path / "fine", [*fine, mark])
    held = send(sentinode, tmp_path / "held", dicom_objects.fresh_study("held"))
    sentinode.await_state(analyzed, "analyzed")
    sentinode.await_state(held, "held")
    bad = dicom_objects.fresh_study("bad")
    failed = send(sentinode, tmp_path / "bad", bad)
    sentinode.await_state(failed, "held")
    fail(sentinode, failed)

    ready = wait_until(
        lambda: fetch(f"{base}/readyz")[0] == 200 and fetch(f"{base}/readyz")[1],
        "readiness",
    )
    assert {one["name"] for one in json.loads(ready)["checks"]} == {
        *("database", "broker", "workers", "model digest", "disk", "listener"),
    }

    def counted():
        seen = samples(fetch(f"{base}/metrics")[1])
        return (
            seen
            if seen.get(("sentinode_studies_recent", "analysis_error", "failed"))
            and seen.get(("sentinode_stores_total", "ORTHANC", "0x0000"), 0) >= 28
            else None
        )

    seen = wait_until(counted, "the counts of the live system", 90)
    assert seen["sentinode_studies", "", "analyzed"] == 1
    assert seen["sentinode_studies", "no_roi", "held"] == 1
    assert seen["sentinode_stores_total", "ORTHANC", "0x0000"] == 28
    assert seen["sentinode_associations_total", "ORTHANC", "accepted"] == 3
    assert seen["sentinode_broker_up",] == 1

    dom = browse(tmp_path, "--dump-dom", f"{base}/")
    assert '<span id="ready" class="ok">ready</span>' in dom
    for uid in (analyzed, held, failed):
        assert f"…{uid[-12:]}" in dom
        assert uid not in dom
    for text in ("no_roi", "analysis_error", "sentinode roi set", "SLN"):
        assert text in dom
    for keyword in ("PatientName", "PatientID"):
        assert str(fine[0][keyword].value) not in dom
    for width in (1200, 390):
        picture = tmp_path / f"page-{width}.png"
        size = f"--window-size={width},1700"
        browse(tmp_path, size, f"--screenshot={picture}", f"{base}/")
        assert picture.stat().st_size > 20_000


def fail(sentinode, uid) -> None:
    """Enter what an analysis that crashed three times leaves behind."""
    with sqlite3.connect(sentinode.folder / "sentinode.db", timeout=30) as database:
        database.execute(
            "update study set state = 'failed', reason = 'analysis_error' "
            "where study_uid = ?",
            (uid,),
        )
