"""Weeks after the images went: dissection, stage II, report at the PACS, replay."""

import json

import pytest

from tests import dicom_objects
from tests.e2e.test_pathway import await_results, send_all, slnd, uid_of
from tests.peers import Orthanc, Sentinode, dciodvfy

pytestmark = pytest.mark.e2e


@pytest.fixture
def slices(request: pytest.FixtureRequest):
    return dicom_objects.fresh_study(request.node.name)


def images(sentinode: Sentinode) -> int:
    folder = sentinode.folder / "spool" / "instances"
    return len(list(folder.rglob("*.dcm")))


def test_stage_two_replay_and_a_new_rectangle_after_a_purge(
    pair: tuple[Sentinode, Orthanc], slices, write, tmp_path
):
    sentinode, orthanc = pair
    uid = uid_of(slices)
    send_all(sentinode, write, [*slices, dicom_objects.gsps_rectangle([slices[4]])])
    sentinode.await_state(uid, "analyzed")
    (first,) = sentinode.json("results", "show", uid)

    (purged,) = sentinode.json("studies", "purge", uid, "--yes")
    left = images(sentinode)
    slnd(sentinode, slices, "positive", "--deposit", "macro")
    newest, _ = await_results(sentinode, uid, 2)
    reports = orthanc.await_instances(uid, "SR", 2)
    captures = orthanc.await_instances(uid, "OT", 2)
    replayed = sentinode.run("results", "replay", newest["result_id"], "--json")

    assert purged["files"] == len(slices)
    assert left == 1
    assert newest["supersedes"] == first["result_id"]
    assert newest["stages"][1]["status"] == "done"
    for number, instance in enumerate((*reports, *captures)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(orthanc.file(instance))
        assert dciodvfy(path) == []
    assert replayed.returncode == 0, replayed.stderr + replayed.stdout
    stages = json.loads(replayed.stdout)["stages"]
    assert [one["criterion"] for one in stages] == ["bit-identical"] * 2

    larger = dicom_objects.gsps_rectangle([slices[4]], (14.0, 20.0, 50.0, 60.0))
    send_all(sentinode, write, [larger])
    held = sentinode.await_state(uid, "held")
    send_all(sentinode, write, slices)
    await_results(sentinode, uid, 3)

    assert held["reason"] == "images_purged"
    assert sentinode.json("studies", "show", uid)["purged"] is None
