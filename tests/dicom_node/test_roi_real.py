"""Rectangles of clinicians on real breast MRI, through every carrier and back."""

import csv
import itertools

import pytest
from pydicom import dcmread

from dicom_node.images import read_study
from dicom_node.roi import read_rois
from tests import dicom_objects, roi_objects
from tests.roi_objects import EXACT, WHOLE

FINDINGS = 13


@pytest.fixture(scope="module")
def findings(real_data):
    """The rectangles of contours.csv with their image and the images around it."""
    folder = real_data / "breast-dce-mri"
    with (folder / "contours.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        path = folder / row["file"]
        box = tuple(float(row[edge]) for edge in ("x0", "y0", "x1", "y1"))
        with dicom_objects.lenient():
            image = dcmread(path, stop_before_pixels=True)
            around = dicom_objects.stored_folder(path.parent)
        assert image.SOPInstanceUID == row["SOPInstanceUID"]
        found.append((image, box, read_study(around).images))
    assert len(found) == FINDINGS
    return found


def read_one(document, images):
    reading = read_rois([document], images)
    assert reading.refused == ()
    (roi,) = reading.rois
    return roi


@pytest.mark.parametrize(
    ("number", "writer"), [*itertools.product(range(FINDINGS), EXACT)]
)
def test_a_rectangle_on_a_real_slice_is_recovered(findings, number, writer):
    image, box, images = findings[number]
    with dicom_objects.lenient():
        roi = read_one(EXACT[writer](image, box), images)
    assert roi.box == pytest.approx(box, abs=0.01)
    assert roi.exact
    assert roi.sop_instance_uid == image.SOPInstanceUID


@pytest.mark.parametrize(
    ("number", "writer"), [*itertools.product(range(FINDINGS), WHOLE)]
)
def test_a_mask_on_a_real_slice_gives_the_enclosing_pixels(findings, number, writer):
    image, box, images = findings[number]
    with dicom_objects.lenient():
        roi = read_one(WHOLE[writer](image, box), images)
    assert roi.box == roi_objects.whole(box)
    assert not roi.exact
    assert roi.sop_instance_uid == image.SOPInstanceUID


@pytest.mark.parametrize("number", range(FINDINGS))
def test_an_overlay_on_a_real_slice_gives_the_enclosing_pixels(
    findings, number, tmp_path
):
    image, box, _ = findings[number]
    drawn = roi_objects.outline(image, box)
    with dicom_objects.lenient():
        marked = roi_objects.with_overlay(dicom_objects.reread(image), drawn)
        stored = dicom_objects.store(tmp_path, [marked])
    (roi,) = read_rois([], read_study(stored).images, overlays=True).rois
    assert roi.box == roi_objects.whole(box)
    assert not roi.exact


@pytest.mark.parametrize("number", range(FINDINGS))
def test_a_key_object_gives_the_real_slice(findings, number):
    image, _, images = findings[number]
    with dicom_objects.lenient():
        selection = roi_objects.key_object(image)
    (key,) = read_rois([selection], images).key_images
    assert key.sop_instance_uid == image.SOPInstanceUID


def test_the_empty_overlays_of_a_real_scanner_say_nothing(real_data):
    folder = real_data / "breast-dce-mri/multiphase-study-d1f3d33d"
    images = read_study(dicom_objects.stored_folder(folder)).images
    reading = read_rois([], images, overlays=True)
    assert (reading.rois, reading.refused) == ((), ())
