"""Pathology speaks HL7 to a running installation; the PACS gets each version."""

import json
from pathlib import Path

import pytest
from hl7.client import MLLPClient

from tests import dicom_objects
from tests.pathology_messages import code, message, order
from tests.peers import Orthanc, Sentinode, dciodvfy, dcmsend, free_port, wait_until
from tests.quick_models import write_models

pytestmark = pytest.mark.e2e


@pytest.fixture
def high_risk(tmp_path: Path) -> Path:
    """Models that call every case high risk."""
    return write_models(tmp_path / "models", intercept=20.0)


@pytest.fixture
def site(tmp_path: Path, high_risk: Path):
    """A whole installation that runs stage II at once and takes HL7."""
    sentinode = Sentinode(tmp_path / "sentinode", high_risk)
    orthanc = Orthanc(tmp_path / "orthanc", sentinode.port).start()
    sentinode.extra = {
        "SENTINODE_HL7_PORT": str(free_port()),
        "SENTINODE_HL7_HOST": "127.0.0.1",
        "SENTINODE_STAGE_TWO": "conditional",
    }
    sentinode.use(str(orthanc), "2")
    sentinode.start()
    yield sentinode, orthanc
    status = sentinode.stop()
    orthanc.stop()
    assert status == 0, sentinode.logs()


def newest(sentinode: Sentinode, uid: str, count: int):
    def look():
        found = sentinode.json("results", "show", uid)
        return found[0] if len(found) == count else None

    return wait_until(look, f"{count} results")


def test_images_first_pathology_later_and_a_correction(
    site: tuple[Sentinode, Orthanc], tmp_path: Path, write
):
    sentinode, orthanc = site
    slices = dicom_objects.fresh_study("pathology by hl7")
    patient, uid = str(slices[0].PatientID), str(slices[0].StudyInstanceUID)
    port = int(sentinode.extra["SENTINODE_HL7_PORT"])
    with MLLPClient("127.0.0.1", port) as client:
        early = code(client.send_message(message(order(), patient=patient)))
    dcmsend(str(sentinode), *(write(one) for one in slices))
    mark = dicom_objects.gsps_rectangle([slices[4]])
    dcmsend(str(sentinode), write(mark))

    positive = newest(sentinode, uid, 2)  # parked, then recorded by itself
    conditional = sentinode.json("results", "show", positive["supersedes"])
    with MLLPClient("127.0.0.1", port) as client:
        correction = message(order("negative", "C"), patient=patient, control_id="M2")
        corrected = code(client.send_message(correction))
    negative = newest(sentinode, uid, 3)
    metrics = json.loads(sentinode.run("metrics", "--json").stdout)
    reports = orthanc.await_instances(uid, "SR", 3)

    assert (early, corrected) == ("AA", "AA")
    before, after = conditional["stages"][1], positive["stages"][1]
    assert (before["status"], before["risk"]) == ("conditional", None)
    assert (after["status"], after["risk"]) == ("done", "high")
    assert before["probability"] == after["probability"]
    assert positive["pathway"] == "nsln_high_risk"
    assert negative["pathway"] == "sln_negative"
    assert negative["supersedes"] == positive["result_id"]
    assert metrics["cases"]["sln_negative"] == 1
    for number, instance in enumerate(reports):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(orthanc.file(instance))
        assert dciodvfy(path) == []
    for log in sentinode.folder.glob("logs/*.log"):
        assert patient not in log.read_text(), log.name
