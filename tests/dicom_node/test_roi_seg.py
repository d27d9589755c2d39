import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import RLELossless

from dicom_node.images import read_study
from dicom_node.roi import read_rois
from tests import dicom_objects, roi_objects
from tests.dicom_objects import mr_slice, reread
from tests.roi_objects import segmentation


def slices(count=3, **attributes):
    return [
        mr_slice(position=(20.0, -60.0, 2.0 * k), **attributes) for k in range(count)
    ]


@pytest.fixture
def images(tmp_path):
    def images(*datasets):
        return read_study(dicom_objects.store(tmp_path, datasets)).images

    return images


def boxes(seg, images=()):
    reading = read_rois([seg], images)
    assert reading.refused == ()
    return [roi.box for roi in reading.rois]


def masks(study, *squares):
    """(slices, rows, columns) with a filled box on each slice, or none."""
    found = np.zeros((len(study), 96, 112), dtype=np.uint8)
    for k, square in enumerate(squares):
        if square:
            x0, y0, x1, y1 = square
            found[k, y0:y1, x0:x1] = 1
    return found


def test_the_slice_of_the_largest_area_counts():
    study = slices()
    seg = segmentation(study, masks(study, (5, 5, 9, 9), (4, 4, 20, 9), (6, 6, 8, 8)))
    (roi,) = read_rois([seg]).rois
    assert roi.sop_instance_uid == study[1].SOPInstanceUID
    assert roi.box == (4, 4, 20, 9)


def test_of_slices_of_equal_area_the_middle_one_counts():
    study = slices(5)
    seg = segmentation(study, masks(study, None, *[(5, 5, 15, 15)] * 3))
    assert read_rois([seg]).rois[0].sop_instance_uid == study[2].SOPInstanceUID


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_each_segment_is_a_lesion(kind):
    study = slices(1)
    found = masks(study, (5, 5, 9, 9))
    other = masks(study, (50, 40, 70, 60))
    both = found + 2 * other if kind == "LABELMAP" else np.stack([found, other], -1)
    reading = read_rois([segmentation(study, both, kind)])
    assert [roi.box for roi in reading.rois] == [(5, 5, 9, 9), (50, 40, 70, 60)]
    assert [roi.label for roi in reading.rois] == ["lesion 1", "lesion 2"]
    assert len({roi.tracking_uid for roi in reading.rois}) == 2


@pytest.mark.parametrize("maximum", [255, 100])
def test_a_fraction_counts_from_one_half(maximum):
    study = slices(1)
    field = np.zeros((1, 96, 112))
    field[0, 10:30, 10:30] = 0.3
    field[0, 15:25, 12:20] = 0.5
    seg = segmentation(study, field, "FRACTIONAL", max_fractional_value=maximum)
    assert boxes(seg) == [(12, 15, 20, 25)]


@pytest.mark.parametrize("rows", [95, 93, 7])
def test_frames_of_single_bits_follow_without_a_gap(rows):
    study = slices(3, image=dicom_objects.pixels(rows, 111))
    found = np.zeros((3, rows, 111), dtype=np.uint8)
    found[0, 1:3, 2:5], found[1, 2:6, 3:107], found[2, 1:2, 1:2] = 1, 1, 1
    assert boxes(segmentation(study, found)) == [(3, 2, 107, 6)]


def test_frames_that_begin_at_a_byte_each_are_told_by_the_length():
    study = slices(3, image=dicom_objects.pixels(95, 111))
    found = np.zeros((3, 95, 111), dtype=np.uint8)
    found[0, 5:9, 5:9], found[1, 20:61, 30:71] = 1, 1
    found[2, 7:9, 7:9] = 1
    seg = segmentation(study, found)
    seg.PixelData = b"".join(
        np.packbits(frame.ravel(), bitorder="little").tobytes() for frame in found
    )
    assert boxes(seg) == [(30, 20, 71, 61)]


def test_a_compressed_label_map_is_decoded():
    study = slices(2)
    found = masks(study, (5, 5, 9, 9), (50, 40, 70, 60))
    seg = segmentation(study, found, "LABELMAP", transfer_syntax_uid=RLELossless)
    assert boxes(seg) == [(50, 40, 70, 60)]


def test_a_finer_grid_is_mapped_through_the_patient(images):
    coarse = mr_slice()
    fine = mr_slice(
        image=dicom_objects.pixels(192, 224),
        PixelSpacing=[0.5, 0.5],
        position=(19.75, -60.25, 0.0),
    )
    seg = roi_objects.seg_rectangle(fine, (40, 60, 89, 100))
    (roi,) = read_rois([roi_objects.without_sources(seg)], images(coarse)).rois
    assert roi.box == (20, 30, 45, 50)
    assert roi.by_position


def test_a_grid_turned_in_the_plane_is_refused(images):
    turned = mr_slice(ImageOrientationPatient=[0.8, 0.6, 0, -0.6, 0.8, 0])
    seg = roi_objects.without_sources(roi_objects.seg_rectangle(turned))
    reading = read_rois([seg], images(mr_slice()))
    assert reading.rois == ()
    assert "sides do not follow the pixels" in reading.refused[0]


def test_a_frame_between_the_slices_is_refused(images):
    away = mr_slice(position=(20.0, -60.0, 7.5))
    seg = roi_objects.without_sources(roi_objects.seg_rectangle(away))
    reading = read_rois([seg], images(*slices()))
    assert reading.rois == ()
    assert "3.5 mm off the nearest slice" in reading.refused[0]


def test_a_frame_that_lies_elsewhere_than_its_image_is_refused(images):
    image = mr_slice()
    seg = roi_objects.seg_rectangle(image)
    plane = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    plane.ImagePositionPatient = [20.0, -60.0, 40.0]
    reading = read_rois([reread(seg)], images(image))
    assert reading.rois == ()
    assert "off the nearest slice" in reading.refused[0]


def test_without_a_position_the_named_image_of_the_same_size_counts(images):
    image = mr_slice()
    seg = roi_objects.seg_rectangle(image, (5, 6, 20, 30))
    del seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    assert boxes(reread(seg), images(image)) == [(5, 6, 20, 30)]
    small = mr_slice(image=dicom_objects.pixels(50, 50))
    reading = read_rois([reread(seg)], images(small))
    assert "has another size" in reading.refused[0]


def test_the_series_that_a_segmentation_names_is_preferred(images):
    study = dicom_objects.dynamic_series()
    seg = roi_objects.seg_rectangle(study[7])
    for groups in seg.PerFrameFunctionalGroupsSequence:
        del groups.DerivationImageSequence
    (roi,) = read_rois([reread(seg)], images(*study)).rois
    assert roi.sop_instance_uid == study[7].SOPInstanceUID
    assert not roi.by_position


def test_an_empty_segment_is_named():
    study = slices(1)
    seg = segmentation(study, masks(study, (5, 5, 9, 9)))
    more = Dataset()
    more.SegmentNumber, more.SegmentLabel = 2, "nothing"
    seg.SegmentSequence.append(more)
    assert "segment 2 is empty" in read_rois([seg]).refused[0]


def test_parts_far_from_each_other_are_lesions_of_their_own():
    study = slices(1)
    found = masks(study, (5, 5, 15, 15)) + masks(study, (80, 40, 95, 60))
    found += masks(study, (18, 5, 21, 9))  # a satellite of the first
    assert boxes(segmentation(study, found)) == [(5, 5, 21, 15), (80, 40, 95, 60)]


def test_more_segments_than_anybody_draws_are_refused():
    study = slices(1)
    seg = segmentation(study, masks(study, (5, 5, 9, 9)))
    for n in range(300):
        more = Dataset()
        more.SegmentNumber = n + 1
        seg.SegmentSequence.append(more)
    reading = read_rois([seg])
    assert reading.rois == ()
    assert "300 segments" in reading.refused[0]
