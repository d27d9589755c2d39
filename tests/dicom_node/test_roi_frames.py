"""A reference to an image of many frames has to name the frame."""

import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage

from dicom_node.images import read_study
from dicom_node.roi import read_rois
from tests import dicom_objects, roi_objects
from tests.dicom_objects import BOX, encoded, gsps_rectangle, mr_slice, sr_rectangle


def enhanced(frames: int = 3) -> Dataset:
    """An enhanced MR image of axial slices, 2 mm apart."""
    image = mr_slice(SOPClassUID=EnhancedMRImageStorage)
    image.SOPInstanceUID = dicom_objects.derived("enhanced", str(frames))
    image.NumberOfFrames = frames
    image.PixelData = image.PixelData * frames
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = image.PixelSpacing
    shared.PixelMeasuresSequence[0].SliceThickness = 2.0
    shared.PlaneOrientationSequence = [Dataset()]
    orientation = image.ImageOrientationPatient
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = orientation
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    for k in range(frames):
        groups, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = [20.0, -60.0, 2.0 * k]
        groups.PlanePositionSequence = [plane]
        image.PerFrameFunctionalGroupsSequence.append(groups)
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        del image[keyword]
    return roi_objects.with_meta(image)


@pytest.fixture
def images(tmp_path):
    def images(*datasets):
        return read_study(dicom_objects.store(tmp_path, datasets)).images

    return images


def references(document):
    """Every reference of a document to an image, wherever it stands."""
    for element in document.iterall():
        if element.keyword in {"ReferencedSOPSequence", "ReferencedImageSequence"}:
            yield from element.value


def slice_as(image: Dataset, k: int) -> Dataset:
    """A frame of the enhanced image as a slice with the enhanced image's UID."""
    flat = mr_slice(position=(20.0, -60.0, 2.0 * k))
    flat.SOPInstanceUID = image.SOPInstanceUID
    return flat


@pytest.mark.parametrize(
    "writer",
    [sr_rectangle, lambda image: gsps_rectangle([image]), roi_objects.key_object],
)
def test_a_reference_without_a_frame_is_not_frame_1(images, writer):
    image = enhanced()
    document = writer(slice_as(image, 0))
    reading = read_rois([document], images(image))
    assert (reading.rois, reading.key_images) == ((), ())
    assert "has several frames and the reference names none" in reading.refused[0]


@pytest.mark.parametrize(
    "writer", [sr_rectangle, lambda image: gsps_rectangle([image])]
)
def test_a_reference_that_names_a_frame_is_followed(images, writer):
    image = enhanced()
    document = writer(slice_as(image, 0))
    for reference in references(document):
        reference.ReferencedFrameNumber = 2
    (roi,) = read_rois([document], images(image)).rois
    assert (roi.frame, roi.box) == (2, BOX)


@pytest.mark.parametrize(
    "writer", [sr_rectangle, lambda image: gsps_rectangle([image])]
)
def test_an_image_of_one_frame_needs_no_number(images, writer):
    image = enhanced(frames=1)
    (roi,) = read_rois([writer(slice_as(image, 0))], images(image)).rois
    assert roi.frame == 1


@pytest.mark.parametrize(
    "writer",
    [
        roi_objects.rtstruct_rectangle,
        lambda image: roi_objects.rtstruct_rectangle(image, named=False),
        roi_objects.scoord3d_rectangle,
        lambda image: roi_objects.scoord3d_rectangle(image, named=True),
    ],
)
def test_patient_coordinates_tell_the_frame(images, writer):
    image = enhanced()
    (roi,) = read_rois([writer(slice_as(image, 2))], images(image)).rois
    assert (roi.sop_instance_uid, roi.frame) == (image.SOPInstanceUID, 3)
    assert roi.box == pytest.approx(BOX, abs=1e-3)


def test_the_position_of_a_segmentation_tells_the_frame(images):
    image = enhanced()
    seg = roi_objects.seg_rectangle(slice_as(image, 1))
    (roi,) = read_rois([seg], images(image)).rois
    assert (roi.frame, roi.box) == (2, BOX)


def test_a_document_is_found_by_its_file(tmp_path):
    image = enhanced()
    seg = roi_objects.seg_rectangle(slice_as(image, 1))
    (tmp_path / "seg.dcm").write_bytes(encoded(seg))
    stored = dicom_objects.store(tmp_path, [image])
    stored.append(dicom_objects.stored_instance(seg, tmp_path / "seg.dcm"))
    objects = read_study(stored)
    assert "PixelData" not in objects.documents[0]
    (roi,) = read_rois(objects.documents, objects.images).rois
    assert roi.frame == 2
