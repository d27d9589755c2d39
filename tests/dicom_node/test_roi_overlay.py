import numpy as np
import pytest
from pydicom.uid import EnhancedMRImageStorage

from dicom_node.images import read_study
from dicom_node.roi import read_rois
from dicom_node.roi.overlay import regions
from tests import dicom_objects, roi_objects
from tests.dicom_objects import BOX, mr_slice
from tests.roi_objects import outline, with_overlay

SHAPE = (96, 112)


@pytest.fixture
def read(tmp_path):
    def read(*datasets):
        images = read_study(dicom_objects.store(tmp_path, datasets)).images
        return read_rois([], images, overlays=True)

    return read


def drawn(*boxes, thickness=1, filled=False):
    """(rows, columns): rectangles as a workstation draws them."""
    bits = np.zeros(SHAPE, dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        bits[y0:y1, x0:x1] = 1
        if not filled:
            bits[y0 + thickness : y1 - thickness, x0 + thickness : x1 - thickness] = 0
    return bits


def disc(filled):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    r = np.hypot(x - 50, y - 40)
    return ((r < 15) if filled else (np.abs(r - 14) < 1)).astype(np.uint8)


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_a_drawn_rectangle_is_found_at_any_thickness(thickness):
    assert regions(drawn((20, 30, 50, 60), thickness=thickness) == 1) == (
        [(20, 30, 50, 60)],
        0,
    )


@pytest.mark.parametrize("filled", [True, False])
def test_another_region_gives_the_box_around_it(filled):
    ((box,), others) = regions(disc(filled) == 1)
    assert box == (36, 26, 65, 55)
    assert others == 0


def test_a_rectangle_is_preferred_to_other_regions():
    bits = drawn((5, 5, 25, 20)) | disc(filled=False)
    assert regions(bits == 1) == ([(5, 5, 25, 20)], 1)


def test_several_rectangles_are_several_candidates():
    bits = drawn((5, 5, 25, 20), (60, 60, 90, 90))
    assert regions(bits == 1) == ([(5, 5, 25, 20), (60, 60, 90, 90)], 0)


def test_text_rulers_and_open_lines_are_none():
    bits = np.zeros(SHAPE, dtype=np.uint8)
    bits[10, 5:90] = 1  # a ruler
    bits[8:13, 5] = bits[8:13, 89] = 1
    bits[40:45, 10:13] = 1  # letters
    bits[40:45, 15:18] = 1
    bits[60:80, 30] = bits[80, 30:60] = 1  # an open angle
    found, others = regions(bits == 1)
    assert found == []
    assert others == 4


def test_a_frame_around_a_letter_is_an_orientation_mark():
    bits = drawn((80, 70, 100, 90))
    bits[75:85, 88] = 1
    assert regions(bits == 1) == ([], 2)


@pytest.mark.parametrize(
    ("origin", "box"),
    [((1, 1), BOX), ((11, 6), (25, 40, 49, 60)), ((-9, -4), (15, 20, 39, 40))],
)
def test_the_origin_counts_rows_and_columns_from_1(read, origin, box):
    image = mr_slice()
    (roi,) = read(with_overlay(image, outline(image), origin)).rois
    assert roi.box == box


def test_a_plane_of_another_size_than_the_image_is_placed_by_its_origin(read):
    bits = outline(mr_slice())[25:55, 15:50]
    (roi,) = read(with_overlay(mr_slice(), bits, (26, 16))).rois
    assert roi.box == BOX


def test_every_group_is_read(read):
    image = mr_slice()
    with_overlay(image, drawn((5, 5, 25, 20)), group=0x6002)
    with_overlay(image, drawn((60, 60, 90, 90)), group=0x601E)
    assert len(read(image).rois) == 2


def test_the_label_and_image_are_named(read):
    image = mr_slice()
    with_overlay(image, outline(image), label=(0x1500, "LO", "lesion"))
    (roi,) = read(image).rois
    assert roi.label == "lesion"


def test_regions_on_two_slices_are_no_versions_of_each_other(read):
    images = [
        mr_slice(position=(20.0, -60.0, 2.0 * k), InstanceNumber=k) for k in range(2)
    ]
    for image in images:
        with_overlay(image, outline(image))
    assert len(read(*images).rois) == 2


def test_planes_of_an_image_of_many_frames_follow_its_frames(read):
    image = mr_slice(SOPClassUID=EnhancedMRImageStorage)
    image.NumberOfFrames = 4
    image.PixelData = image.PixelData * 4
    empty = np.zeros(SHAPE, dtype=np.uint8)
    bits = np.stack([drawn((20, 30, 50, 60)), empty, drawn((20, 30, 50, 61))])
    with_overlay(roi_objects.with_meta(image), bits, first=(0x0051, "US", 2))
    assert [(roi.frame, roi.box[3]) for roi in read(image).rois] == [(2, 60), (4, 61)]


def test_one_plane_for_several_frames_is_refused(read):
    image = mr_slice(SOPClassUID=EnhancedMRImageStorage)
    image.NumberOfFrames = 2
    image.PixelData = image.PixelData * 2
    with_overlay(roi_objects.with_meta(image), outline(image))
    reading = read(image)
    assert reading.rois == ()
    assert "without saying which" in reading.refused[0]


def test_a_retired_embedded_plane_is_counted_once_for_all_images(read):
    images = [mr_slice(position=(20.0, -60.0, 2.0 * k)) for k in range(3)]
    for image in images:
        with_overlay(image, outline(image), allocated=(0x0100, "US", 16))
    reading = read(*images)
    assert reading.rois == ()
    (said,) = reading.refused
    assert said.startswith("overlays of 3 images: embedded in the pixel data")


def test_empty_planes_say_nothing(read):
    reading = read(with_overlay(mr_slice(), np.zeros(SHAPE)))
    assert (reading.rois, reading.refused) == ((), ())
