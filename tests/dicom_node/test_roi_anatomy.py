"""Outlines of body parts beside those of lesions, in both carriers that have them."""

import pytest

from dicom_node.images import read_study
from dicom_node.roi import read_rois
from dicom_node.roi.anatomy import is_anatomy
from tests import dicom_objects, roi_objects
from tests.dicom_objects import mr_slice, reread
from tests.roi_objects import corners, structure_set

LARGE = (5.0, 5.0, 90.0, 80.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Breast_L", True),
        ("right breast", True),
        ("Lung_R", True),
        ("whole breast mask", True),
        ("breast lesion", False),
        ("index lesion", False),
        ("L1", False),
        ("left", False),
        ("GTV breast", False),
        ("", False),
    ],
)
def test_a_name_is_that_of_a_body_part_or_not(name, expected):
    assert is_anatomy(name) is expected


@pytest.mark.parametrize("name", ["Breast_L", "Heart"])
def test_a_body_part_in_a_structure_set_does_not_count(tmp_path, name):
    image = mr_slice()
    document = structure_set(image, [(image, corners(LARGE)[:4])])
    document.StructureSetROISequence[0].ROIName = name
    stored = dicom_objects.store(tmp_path, [image])
    reading = read_rois([document], read_study(stored).images)
    assert reading.rois == ()
    assert "name of a body part" in reading.refused[0]


@pytest.mark.parametrize("by", ["code", "label"])
def test_a_body_part_in_a_segmentation_does_not_count(tmp_path, by):
    image = mr_slice()
    document = roi_objects.seg_rectangle(image)
    segment = document.SegmentSequence[0]
    if by == "code":
        segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "76752008"
    else:
        segment.SegmentLabel = "Breast L"
    stored = dicom_objects.store(tmp_path, [image])
    reading = read_rois([reread(document)], read_study(stored).images)
    assert reading.rois == ()
    assert reading.refused[0].endswith("segment 1 is a body part, not a lesion")
