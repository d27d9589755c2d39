"""The synthetic study is what it says: valid objects, a marked lesion, no patient."""

import subprocess
import sys
from pathlib import Path

from dicom_node.db import now
from dicom_node.study import StudyState
from worker.specimen import PATIENT_ID, specimen
from worker.tasks.analysis import analyze


def test_its_objects_are_valid_dicom(tmp_path):
    objects = specimen(now())
    for number, kind in ((0, "MRImage"), (-1, "GrayscaleSoftcopyPresentationState")):
        path = tmp_path / f"{kind}.dcm"
        objects[number].save_as(path, enforce_file_format=True)
        said = subprocess.run(
            [Path(sys.executable).with_name("dciodvfy"), "-new", path],
            capture_output=True,
            text=True,
            check=False,
        ).stderr.splitlines()
        assert kind in said
        assert [line for line in said if line.startswith("Error")] == []


def test_it_is_analysed_like_any_other(bench, source):
    objects = specimen(now())
    assert {str(one.PatientID) for one in objects} == {PATIENT_ID}
    uid = bench.receive(*objects)
    bench.queue(uid)
    assert analyze(uid, bench.site, source), bench.study(uid)
    assert bench.study(uid).state is StudyState.ANALYZED
    (result,) = bench.results(uid)
    assert result.phase == "post-contrast 1"


def test_two_of_them_are_two_studies():
    first, second = specimen(now()), specimen(now())
    uids = {str(one.SOPInstanceUID) for one in (*first, *second)}
    assert len(uids) == len(first) + len(second)
