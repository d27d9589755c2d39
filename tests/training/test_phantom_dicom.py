import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread

from training.phantom import law as laws
from training.phantom import writer
from training.phantom.anatomy import Level
from training.phantom.crops import crops, subjects
from training.phantom.scanner import SCANNERS
from worker.manifest import Preprocessing
from worker.preprocess import to_crop

SPEC = Preprocessing(mean=0.0, sd=1.0)
ORDER = writer.Order(cases=5, seed=7)
DCIODVFY = Path(sys.executable).with_name("dciodvfy")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    assert list(writer.write(ORDER, folder)) == [f"case-000{i}" for i in range(1, 6)]
    return folder


@pytest.fixture(scope="module")
def rows(cohort):
    with (cohort / "cohort.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def box_of(row):
    return tuple(float(row[edge]) for edge in ("x0", "y0", "x1", "y1"))


def test_every_case_is_one_study_of_three_phases(cohort, rows):
    for row in rows:
        images = [dcmread(path) for path in (cohort / row["case_id"]).glob("mr-*.dcm")]

        assert len(images) == 9
        assert {image.StudyInstanceUID for image in images} == {row["study_uid"]}
        assert len({image.SeriesInstanceUID for image in images}) == 3
        assert len({image.SOPInstanceUID for image in images}) == 9
        assert {image.FrameOfReferenceUID for image in images} == {
            images[0].FrameOfReferenceUID
        }


def test_phases_follow_one_another_and_enhance_the_lesion(cohort, rows):
    x0, y0, x1, y1 = (round(edge) for edge in box_of(rows[0]))
    series = []
    for phase in ("pre", "post-1", "post-2"):
        image = dcmread(cohort / rows[0]["case_id"] / f"mr-{phase}-100.dcm")
        middle = np.median(image.pixel_array[y0 + 12 : y1 - 12, x0 + 12 : x1 - 12])
        series.append((image.TemporalPositionIdentifier, image.AcquisitionTime, middle))

    assert [position for position, _, _ in series] == [1, 2, 3]
    assert series[0][1] < series[1][1] < series[2][1]
    assert series[1][2] > 1.5 * series[0][2]


def test_the_side_follows_from_geometry_alone(cohort, rows):
    for row in rows:
        image = dcmread(cohort / row["image"])
        x0, _, x1, _ = box_of(row)
        column = (x0 + x1) / 2 - 0.5
        step = float(image.PixelSpacing[1]) * float(image.ImageOrientationPatient[0])
        x = float(image.ImagePositionPatient[0]) + column * step

        assert abs(x) > 20
        assert ("L" if x > 0 else "R") == row["laterality"]
    assert {row["laterality"] for row in rows} == {"L", "R"}


def test_rectangles_come_as_presentation_state_and_as_report(cohort, rows):
    for number, row in enumerate(rows, start=1):
        document = dcmread(cohort / row["case_id"] / "roi.dcm")
        assert document.Modality == ("PR" if number % 2 else "SR")
        assert row["sop_instance_uid"] in str(document)


def test_the_presentation_state_draws_the_rectangle_of_the_table(cohort, rows):
    state = dcmread(cohort / rows[0]["case_id"] / "roi.dcm")
    annotation = state.GraphicAnnotationSequence[0]
    graphic = annotation.GraphicObjectSequence[0]
    points = np.array(graphic.GraphicData).reshape(-1, 2)

    assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == (
        "POLYLINE",
        "PIXEL",
    )
    assert points.shape == (5, 2)
    assert np.array_equal(points[0], points[4])
    assert (*points.min(axis=0), *points.max(axis=0)) == box_of(rows[0])
    reference = annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert reference == rows[0]["sop_instance_uid"]


@pytest.mark.skipif(not DCIODVFY.exists(), reason="dicom3tools is not installed")
@pytest.mark.parametrize("case", [1, 2, 4])
@pytest.mark.parametrize("name", ["mr-post-1-100.dcm", "roi.dcm"])
def test_objects_conform(cohort, case, name):
    path = cohort / f"case-{case:04d}" / name
    run = subprocess.run(
        [DCIODVFY, "-new", path], capture_output=True, text=True, check=False
    )

    assert "Error" not in run.stderr
    assert run.returncode == 0


def test_labels_stand_in_no_object(cohort):
    for path in cohort.rglob("*.dcm"):
        text = str(dcmread(path, stop_before_pixels=True)).lower()
        assert not any(word in text for word in ("sln", "spicul", "birads", "luminal"))


def test_the_same_seed_writes_the_same_bytes(cohort, tmp_path):
    again = tmp_path / "again"
    list(writer.write(ORDER, again, workers=2))
    names = sorted(path.relative_to(cohort) for path in cohort.rglob("*.*"))

    assert names == sorted(path.relative_to(again) for path in again.rglob("*.*"))
    for name in names:
        assert (cohort / name).read_bytes() == (again / name).read_bytes()


def test_crops_in_memory_are_those_of_the_files(cohort, rows):
    drawn = []
    for law, n in zip(laws.COHORTS, laws.apportion(5, laws.COHORTS), strict=True):
        drawn += subjects(laws.draw(law, n, ORDER.seed), ORDER.seed, ORDER.level)

    for row, expected in zip(rows, crops(drawn, SPEC), strict=True):
        pixels = dcmread(cohort / row["image"]).pixel_array.astype(np.float32)
        torch.testing.assert_close(to_crop(pixels, box_of(row), SPEC), expected)


def test_what_was_written_is_described(cohort):
    description = json.loads((cohort / "phantom.json").read_text())

    assert description["level"] == "easy"
    assert description["seed"] == 7
    assert description["cases"] == 5


def test_a_folder_with_files_is_not_written_over(cohort):
    with pytest.raises(FileExistsError, match="is not empty"):
        next(writer.write(ORDER, cohort))


def test_one_centre_can_be_written_alone(tmp_path):
    planned = writer.plan(writer.Order(cases=6, seed=1, centre=1), tmp_path)

    assert {case.known["cohort"] for case in planned} == {"training", "internal"}
    assert {case.subject.centre for case in planned} == {1}


def test_latents_change_what_the_eye_sees():
    law = laws.COHORTS[0]
    patients = laws.draw(law, 300, 5)
    pictures = torch.stack(list(crops(subjects(patients, 5, Level.BENCH), SPEC)))
    outside = pictures[:, 8:62, 8:62].mean(dim=(1, 2)).numpy()

    assert np.corrcoef(outside, patients.halo)[0, 1] > 0.15


def test_centres_have_scanners_of_their_own():
    assert len({scanner.spacing for scanner in SCANNERS.values()}) == 3
    assert len({scanner.gamma for scanner in SCANNERS.values()}) == 3
