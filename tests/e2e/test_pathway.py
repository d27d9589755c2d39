"""The clinical pathway and the PACS's own auto-routing, with made studies."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests import dicom_objects
from tests.peers import (
    Orthanc,
    Sentinode,
    dciodvfy,
    dcmsend,
    pids_of,
    wait_until,
)

pytestmark = pytest.mark.e2e

LUA = """
function OnStableStudy(study, tags, metadata)
  RestApiPost('/modalities/sentinode/store', study)
end
"""


@pytest.fixture
def slices(request: pytest.FixtureRequest):
    return dicom_objects.fresh_study(request.node.name)


def uid_of(slices) -> str:
    return str(slices[0].StudyInstanceUID)


def send_all(sentinode: Sentinode, write, datasets) -> None:
    dcmsend(str(sentinode), *(write(one) for one in datasets))


def returned(sentinode: Sentinode) -> int:
    """Count the reports of ours that the PACS has routed back."""
    with closing(sqlite3.connect(sentinode.folder / "sentinode.db")) as database:
        return database.execute("select count(*) from instance where own").fetchone()[0]


def slnd(sentinode: Sentinode, slices, result: str, *others: str):
    return sentinode.run(
        *("slnd", "set", "--study", uid_of(slices), "--side", "L"),
        *("--patient-id", "-", "--result", result, "--source", "pathology desk"),
        *("--yes", *others),
        stdin=f"{slices[0].PatientID}\n",
    )


def await_results(sentinode: Sentinode, uid: str, count: int):
    def look():
        found = sentinode.json("results", "show", uid)
        return found if len(found) == count else None

    return wait_until(look, f"{count} results")


def test_a_positive_dissection_opens_stage_two(
    site: tuple[Sentinode, Orthanc], slices, write, tmp_path
):
    sentinode, orthanc = site
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send_all(sentinode, write, [*slices, mark])
    sentinode.await_state(uid_of(slices), "analyzed")
    (first,) = sentinode.json("results", "show", uid_of(slices))

    wrong = sentinode.run(
        *("slnd", "set", "--study", uid_of(slices), "--side", "L", "--patient-id"),
        *("SOMEONE-ELSE", "--result", "positive", "--source", "x", "--yes"),
    )
    done = slnd(sentinode, slices, "positive", "--deposit", "macro")
    newest, _ = await_results(sentinode, uid_of(slices), 2)
    reports = orthanc.await_instances(uid_of(slices), "SR", 2)

    assert wrong.returncode == 4
    assert done.returncode == 0, done.stderr
    assert newest["supersedes"] == first["result_id"]
    assert newest["stages"][0]["probability"] == first["stages"][0]["probability"]
    assert newest["stages"][1]["status"] == "done"
    assert newest["pathway"] in {"nsln_low_risk", "nsln_high_risk"}
    assert newest["discordant"] is (first["stages"][0]["risk"] == "low")
    assert newest["slnd"]["deposit"] == "macro"
    assert [one["kind"] for one in newest["documents"]] == ["SR", "SC"]
    for number, instance in enumerate(reports):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(orthanc.file(instance))
        assert dciodvfy(path) == []


def test_a_negative_dissection_ends_the_case_and_a_withdrawal_reopens_it(
    site: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, _ = site
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send_all(sentinode, write, [*slices, mark])
    sentinode.await_state(uid_of(slices), "analyzed")
    (first,) = sentinode.json("results", "show", uid_of(slices))

    slnd(sentinode, slices, "negative", "--deposit", "itc")
    second, _ = await_results(sentinode, uid_of(slices), 2)
    slnd(sentinode, slices, "withdrawn")
    third, _, _ = await_results(sentinode, uid_of(slices), 3)

    assert second["pathway"] == "sln_negative"
    assert second["stages"][1]["status"] == "excluded"
    assert third["pathway"] == first["pathway"]
    assert third["slnd"]["result"] == "withdrawn"


def test_a_study_without_a_rectangle_waits_for_one(
    site: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, orthanc = site
    send_all(sentinode, write, slices)
    held = sentinode.await_state(uid_of(slices), "held")

    send_all(sentinode, write, [dicom_objects.sr_rectangle(slices[4])])
    study = sentinode.await_state(uid_of(slices), "analyzed")

    assert held["reason"] == "no_roi"
    assert held["roi"] is None
    assert study["roi"]["carrier"] == "SR"
    orthanc.await_instances(uid_of(slices), "SR")


def test_the_pacs_routes_by_itself_and_our_reports_start_no_loop(
    tmp_path: Path, quick_models: Path, slices, write
):
    sentinode = Sentinode(tmp_path / "sentinode", quick_models)
    orthanc = Orthanc(tmp_path / "orthanc", sentinode.port, LUA).start()
    sentinode.use(str(orthanc), "2")
    sentinode.start()
    try:
        mark = dicom_objects.gsps_rectangle([slices[4]])
        files = [write(one) for one in (*slices, mark)]
        dcmsend(str(orthanc), *files, calling="MODALITY")
        uid = uid_of(slices)
        orthanc.await_instances(uid, "OT")
        # The results make the study stable once more: all of it is routed again.
        wait_until(lambda: returned(sentinode) == 2, "our own reports routed back")
        study = sentinode.await_state(uid, "analyzed")
        results = sentinode.json("results", "show", uid)
        doctor = sentinode.json("doctor")
    finally:
        code = sentinode.stop()
        orthanc.stop()

    assert code == 0
    assert len(results) == 1
    assert [one["what"] for one in study["events"]].count("analyzing") <= 2
    assert doctor["ok"], doctor


def test_results_wait_for_a_pacs_that_is_away(
    pair: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, orthanc = pair
    orthanc.stop()
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send_all(sentinode, write, [*slices, mark])
    sentinode.await_state(uid_of(slices), "analyzed")
    waiting = wait_until(
        lambda: [
            one for one in sentinode.json("deliveries", "list") if one["attempts"]
        ],
        "a first attempt",
    )

    orthanc.start()
    for one in waiting:
        assert sentinode.run("deliveries", "retry", one["delivery_id"]).returncode == 0
    orthanc.await_instances(uid_of(slices), "OT")

    assert {one["state"] for one in waiting} == {"due"}
    assert all(one["next_attempt_at"] for one in waiting)


def test_it_stops_cleanly_and_picks_up_where_it_was(
    pair: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, orthanc = pair
    send_all(sentinode, write, slices)
    sentinode.await_state(uid_of(slices), "held")

    assert sentinode.stop() == 0
    sentinode.use_nothing()  # what it was told before is remembered
    sentinode.start()
    second = sentinode.run("up")
    send_all(sentinode, write, [dicom_objects.gsps_rectangle([slices[4]])])
    sentinode.await_state(uid_of(slices), "analyzed")

    orthanc.await_instances(uid_of(slices), "SR")
    assert second.returncode == 4
    assert "another `sentinode up` runs" in second.stderr


def test_a_study_that_hangs_is_killed_and_stops_no_other(
    tmp_path: Path, quick_models: Path, slices, write
):
    sentinode = Sentinode(tmp_path / "sentinode", quick_models)
    orthanc = Orthanc(tmp_path / "orthanc", sentinode.port).start()
    sentinode.extra = {
        "SENTINODE_ANALYSIS_TIME_LIMIT": "10",
        "SENTINODE_COMPLETE_EARLY": "false",  # the file is exchanged before that
    }
    sentinode.use(str(orthanc), "600")
    sentinode.start()
    try:
        mark = dicom_objects.gsps_rectangle([slices[4]])
        send_all(sentinode, write, [*slices, mark])
        stored = min((sentinode.folder / "spool" / "instances").rglob("*.dcm"))
        stored.unlink()
        os.mkfifo(stored)  # whoever opens it waits for ever
        sentinode.run("studies", "complete", uid_of(slices))
        good = dicom_objects.fresh_study("beside one that hangs")
        send_all(sentinode, write, [*good, dicom_objects.sr_rectangle(good[4])])
        sentinode.run("studies", "complete", uid_of(good))

        sentinode.await_state(uid_of(good), "analyzed", timeout=180)
        study = sentinode.await_state(uid_of(slices), "failed", timeout=240)
    finally:
        sentinode.stop()
        orthanc.stop()

    assert study["reason"] == "worker_lost"


def test_killed_parts_come_back_and_nothing_is_lost(
    pair: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, orthanc = pair
    for word in ("analysis@", "valkey-server"):
        for pid in pids_of(sentinode, word):
            os.kill(pid, signal.SIGKILL)
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send_all(sentinode, write, [*slices, mark])

    sentinode.await_state(uid_of(slices), "analyzed", timeout=120)
    orthanc.await_instances(uid_of(slices), "OT")

    assert len(orthanc.instances(uid_of(slices), "SR")) == 1


def test_changed_weights_stop_the_worker(tmp_path: Path, quick_models: Path):
    sentinode = Sentinode(tmp_path / "sentinode", quick_models)
    sentinode.use("NOBODY@127.0.0.1:9", "2")
    sentinode.start()
    sentinode.stop()
    copied = tmp_path / "models"
    copied.mkdir()
    for path in quick_models.rglob("*"):
        target = copied / path.relative_to(quick_models)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    weights = min(copied.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")

    environment = {"SENTINODE_MODELS_DIR": str(copied)}
    doctor = sentinode.run("doctor", "--json", environment=environment)
    worker = sentinode.worker(environment)

    digest = {one["name"]: one for one in json.loads(doctor.stdout)["checks"]}
    assert doctor.returncode == 1
    assert not digest["model digest"]["ok"]
    assert "SHA-256" in digest["model digest"]["detail"]
    assert worker.returncode == 1


def test_a_killed_tree_leaves_no_child_and_starts_again(
    pair: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, orthanc = pair
    children = pids_of(sentinode, ".")
    send_all(sentinode, write, slices)

    sentinode.kill()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in children),
        "the end of every child",
    )
    sentinode.start()
    send_all(sentinode, write, [dicom_objects.gsps_rectangle([slices[4]])])
    sentinode.await_state(uid_of(slices), "analyzed")

    assert len(children) == 6
    orthanc.await_instances(uid_of(slices), "SR")
