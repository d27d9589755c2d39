import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.images import read_study
from dicom_node.roi import read_rois
from tests import dicom_objects, roi_objects
from tests.dicom_objects import BOX, dynamic_series, mr_slice, reread
from tests.roi_objects import corners, structure_set


def ellipse(box, points=64):
    x0, y0, x1, y1 = box
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(t)
    return np.column_stack((x, (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(t)))


@pytest.fixture
def read(tmp_path):
    def read(document, *datasets):
        stored = dicom_objects.store(tmp_path, datasets)
        return read_rois([document], read_study(stored).images)

    return read


@pytest.mark.parametrize("named", [True, False])
def test_the_slice_of_the_largest_contour_counts(read, named):
    study = dynamic_series(phases=1)
    contours = [
        (study[0], ellipse((20, 30, 30, 40))),
        (study[1], ellipse((20, 30, 50, 64))),
        (study[2], corners((20, 30, 40, 50))),
    ]
    (roi,) = read(structure_set(study[0], contours, named=named), *study).rois
    assert roi.sop_instance_uid == study[1].SOPInstanceUID
    assert roi.box == pytest.approx((20, 30, 50, 64), abs=1e-3)
    assert not roi.exact


def test_of_equal_contours_the_middle_one_counts(read):
    study = dynamic_series(phases=1)
    contours = [(image, corners(BOX)[:4]) for image in study]
    (roi,) = read(structure_set(study[0], contours), *study).rois
    assert roi.sop_instance_uid == study[1].SOPInstanceUID
    assert roi.exact


def test_contours_far_from_each_other_are_lesions_of_their_own(read):
    image = mr_slice()
    both = [(20.0, 30.0, 30.0, 40.0), (60.0, 35.0, 80.0, 60.0)]
    contours = [(image, corners(box)[:4]) for box in both]
    rois = read(structure_set(image, contours), image).rois
    assert [roi.box for roi in rois] == [pytest.approx(box, abs=1e-3) for box in both]
    assert all(roi.exact for roi in rois)


def test_two_contours_on_one_slice_have_one_box_around_them(read):
    image = mr_slice()
    contours = [
        (image, corners((20, 30, 30, 40))[:4]),
        (image, corners((38, 35, 55, 60))[:4]),
    ]
    (roi,) = read(structure_set(image, contours), image).rois
    assert roi.box == pytest.approx((20, 30, 55, 60), abs=1e-3)
    assert not roi.exact


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_hole_changes_neither_slice_nor_box(read, kind):
    study = dynamic_series(phases=1)[:2]
    contours = [
        (study[0], ellipse((20, 20, 60, 60))),
        (study[0], ellipse((25, 25, 50, 50))),
        (study[1], ellipse((20, 20, 62, 62))),
    ]
    document = structure_set(study[0], contours)
    for contour in document.ROIContourSequence[0].ContourSequence:
        contour.ContourGeometricType = kind
    (roi,) = read(reread(document), *study).rois
    assert roi.sop_instance_uid == study[1].SOPInstanceUID


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_rounded_coordinates_keep_a_rectangle_exact(read, decimals):
    image = mr_slice(PixelSpacing=[0.7, 0.7])
    box = (20.31, 30.47, 43.83, 50.19)
    document = roi_objects.rtstruct_rectangle(image, box, decimals=decimals)
    (roi,) = read(document, image).rois
    assert roi.box == pytest.approx(box, abs=0.6 * 10**-decimals / 0.7)
    assert roi.exact


def test_a_rectangle_with_points_along_its_sides_is_exact(read):
    image = mr_slice()
    points = []
    for start, end in zip(corners(BOX)[:4], corners(BOX)[1:], strict=True):
        points.extend(start + (end - start) * part for part in np.linspace(0, 0.9, 10))
    (roi,) = read(structure_set(image, [(image, np.array(points))]), image).rois
    assert roi.box == pytest.approx(BOX, abs=1e-3)
    assert roi.exact


def test_a_turned_rectangle_gives_the_box_around_it(read):
    image = mr_slice()
    diamond = np.array([[30, 20], [50, 40], [30, 60], [10, 40]], dtype=float)
    (roi,) = read(structure_set(image, [(image, diamond)]), image).rois
    assert roi.box == pytest.approx((10, 20, 50, 60), abs=1e-3)
    assert not roi.exact


def test_the_largest_slice_has_to_be_there(read):
    study = dynamic_series(phases=1)
    contours = [
        (study[0], ellipse((20, 30, 30, 40))),
        (study[1], ellipse((20, 30, 50, 64))),
    ]
    reading = read(structure_set(study[0], contours), study[0])
    assert reading.rois == ()
    assert study[1].SOPInstanceUID in reading.refused[0]


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_open_contours_are_refused_by_name(read, kind):
    image = mr_slice()
    document = roi_objects.rtstruct_rectangle(image)
    contour = document.ROIContourSequence[0].ContourSequence[0]
    contour.ContourGeometricType = kind
    reading = read(reread(document), image)
    assert reading.rois == ()
    assert kind.lower().replace("_", " ") in reading.refused[0]


def test_the_outline_of_the_whole_patient_is_no_lesion(read):
    image = mr_slice()
    document = roi_objects.rtstruct_rectangle(image)
    document.RTROIObservationsSequence[0].RTROIInterpretedType = "EXTERNAL"
    assert "EXTERNAL" in read(reread(document), image).refused[0]


def test_another_frame_of_reference_is_refused(read):
    image = mr_slice()
    document = roi_objects.rtstruct_rectangle(image)
    document.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    assert "frame of reference is not that" in read(reread(document), image).refused[0]


def test_a_contour_across_the_slices_is_refused(read):
    study = dynamic_series(phases=1)
    image = mr_slice(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    document = roi_objects.rtstruct_rectangle(image, named=False)
    reading = read(document, *study)
    assert reading.rois == ()
    assert "or across it" in reading.refused[0]


def test_by_position_the_phase_of_the_dynamic_series_comes_first(read):
    study = dynamic_series()
    other = [
        mr_slice(
            series_uid="1.2.826.0.1.3680043.8.498.9",
            series_number=1,
            position=(20.0, -60.0, 2.0 * k),
            ScanningSequence="SE",
            SeriesDescription="t2_tse",
        )
        for k in range(3)
    ]
    document = roi_objects.rtstruct_rectangle(study[4], named=False)
    (roi,) = read(document, *other, *study).rois
    assert roi.sop_instance_uid in {one.SOPInstanceUID for one in study}
    assert roi.by_position


def test_a_newer_structure_set_replaces_the_one_that_it_names(tmp_path):
    image = mr_slice()
    old = roi_objects.rtstruct_rectangle(image)
    new = roi_objects.rtstruct_rectangle(image, (5.0, 5.0, 30.0, 40.0))
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = old.SOPInstanceUID
    new.PredecessorStructureSetSequence = [reference]
    images = read_study(dicom_objects.store(tmp_path, [image])).images
    reading = read_rois([old, new], images)
    assert [roi.carrier_sop_instance_uid for roi in reading.rois] == [
        new.SOPInstanceUID
    ]
    assert "another document replaces it" in reading.refused[0]
