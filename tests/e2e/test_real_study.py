"""The main job on real breast MRI: DCMTK sends, Orthanc receives, dciodvfy checks."""

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.report.reading import read_report
from tests import dicom_objects
from tests.peers import Orthanc, Sentinode, dciodvfy, dcmsend

pytestmark = pytest.mark.e2e

STUDY = "1.2.276.0.7230010.3.1.2.8323329.7862.1646321460.743500"
FIRST_POST = "009-t1_fl3d_tra_dynaVIEWS_spair_1p5"
PHASE_5 = "017-t1_fl3d_tra_dynaVIEWS_spair_1p5"
BOX = (222.0, 96.0, 252.0, 122.0)
"""A stated rectangle in the left breast: no reader drew it, no pathology knows it."""

LARGER_BOX = (220.0, 92.0, 256.0, 126.0)


def read(orthanc: Orthanc, instance: str):
    return dcmread(BytesIO(orthanc.file(instance)))


def test_a_real_study_comes_back_and_a_later_mark_supersedes_it(
    site: tuple[Sentinode, Orthanc], multiphase: Path, write, header, tmp_path
):
    sentinode, orthanc = site
    marked = header(sorted((multiphase / FIRST_POST).iterdir())[4])
    mark = dicom_objects.gsps_rectangle([marked], BOX)

    dcmsend(str(sentinode), multiphase, write(mark))
    study = sentinode.await_state(STUDY, "analyzed")
    reports = orthanc.await_instances(STUDY, "SR")
    captures = orthanc.await_instances(STUDY, "OT")

    (result,) = sentinode.json("results", "show", STUDY)
    report = read(orthanc, reports[0])
    values = read_report(report)
    sln = result["stages"][0]
    assert study["instances"] == 144
    assert study["selection"]["phase"] == "post-contrast 1"
    assert study["roi"]["sop_instance_uid"] == marked.SOPInstanceUID
    assert values.sln.probability == pytest.approx(sln["probability"], rel=1e-9)
    assert values.sln.threshold == pytest.approx(sln["threshold"], rel=1e-9)
    assert values.sln.weights_sha256 == sln["weights_sha256"]
    assert values.sln.risk == sln["risk"]
    assert len(captures) == 1
    for number, instance in enumerate((*reports, *captures)):
        path = tmp_path / f"result-{number}.dcm"
        path.write_bytes(orthanc.file(instance))
        assert dciodvfy(path) == []
    states = {
        one["state"]
        for one in sentinode.json("deliveries", "list")
        if one["result_id"] == result["result_id"]
    }
    assert states == {"sent"}

    # The reader marks more on phase 5: the model's phase is analysed all the same.
    late = header(sorted((multiphase / PHASE_5).iterdir())[6])
    expected = header(sorted((multiphase / FIRST_POST).iterdir())[6])
    second = dicom_objects.sr_rectangle(late, LARGER_BOX)
    dcmsend(str(sentinode), write(second))
    reports = orthanc.await_instances(STUDY, "SR", 2)

    newest, oldest = sentinode.json("results", "show", STUDY)
    study = sentinode.await_state(STUDY, "analyzed")
    predecessors = [
        read(orthanc, one).get("PredecessorDocumentsSequence") for one in reports
    ]
    assert newest["supersedes"] == oldest["result_id"] == result["result_id"]
    assert oldest["superseded_by"] == newest["result_id"]
    assert study["roi"]["sop_instance_uid"] == late.SOPInstanceUID
    assert newest["input"]["sop_instance_uids"] == [expected.SOPInstanceUID]
    assert newest["phase"] == "post-contrast 1"
    assert sum(bool(one) for one in predecessors) == 1


@pytest.mark.parametrize("row", [3, 5, 11], ids=["3db29468", "43c8266d", "4ba9eb9a"])
def test_a_single_phase_slab_is_analysed_as_marked(
    site: tuple[Sentinode, Orthanc], slabs: Path, contours, write, header, row
):
    sentinode, orthanc = site
    finding = contours[row]
    image = header(slabs.parent / finding["file"])
    assert image.SOPInstanceUID == finding["SOPInstanceUID"]
    box = tuple(float(finding[name]) for name in ("x0", "y0", "x1", "y1"))
    mark = dicom_objects.sr_rectangle(image, box, like_ohif=row == 5)

    dcmsend(str(sentinode), (slabs.parent / finding["file"]).parent, write(mark))
    study = sentinode.await_state(str(image.StudyInstanceUID), "analyzed")
    reports = orthanc.await_instances(str(image.StudyInstanceUID), "SR")

    roi = study["roi"]
    assert (roi["x0"], roi["y0"], roi["x1"], roi["y1"]) == pytest.approx(box, abs=1e-3)
    assert study["selection"]["phase"] == "as marked"
    assert any("as marked" in sentence for sentence in study["selection"]["why"])
    assert read_report(read(orthanc, reports[0])).phase == "as marked"
