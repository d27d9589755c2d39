import pytest
from pydicom import Dataset

from dicom_node.findings import Carrier
from dicom_node.roi import read_rois
from tests import roi_objects
from tests.dicom_objects import AT, BOX, READER, gsps_rectangle, mr_slice


def graphic(state):
    return state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]


def test_a_rectangle_comes_back_as_it_was_drawn():
    image = mr_slice()
    state = gsps_rectangle([image], BOX, label="index lesion")
    (roi,) = read_rois([state]).rois
    assert roi.box == BOX
    assert roi.sop_instance_uid == image.SOPInstanceUID
    assert roi.carrier is Carrier.GSPS
    assert roi.carrier_sop_instance_uid == state.SOPInstanceUID
    assert (roi.author, roi.label, roi.marked_at) == (READER, "index lesion", AT)
    assert roi.tracking_uid == graphic(state).TrackingUID


def test_an_annotation_without_images_is_on_all_that_the_state_refers_to():
    images = [mr_slice(position=(20.0, -60.0, z)) for z in (0.0, 2.0)]
    state = gsps_rectangle(images)
    del state.GraphicAnnotationSequence[0].ReferencedImageSequence
    found = {roi.sop_instance_uid for roi in read_rois([state]).rois}
    assert found == {image.SOPInstanceUID for image in images}


@pytest.mark.parametrize(
    ("keyword", "value", "named"),
    [
        ("GraphicAnnotationUnits", "MATRIX", "a figure in units of MATRIX"),
        ("GraphicType", "ELLIPSE", "an ellipse"),
        ("GraphicData", [1.0, 2.0, 3.0, 4.0], "a line"),
    ],
)
def test_what_is_no_rectangle_in_pixels_is_refused_with_a_reason(keyword, value, named):
    state = gsps_rectangle([mr_slice()])
    setattr(graphic(state), keyword, value)
    reading = read_rois([state])
    assert reading.rois == ()
    (said,) = reading.refused
    assert said.startswith(f"presentation state {state.SOPInstanceUID}: {named} ")


def test_the_text_beside_a_rectangle_is_its_label():
    state = gsps_rectangle([mr_slice()])
    text = type(state.GraphicAnnotationSequence[0])()
    text.UnformattedTextValue = "L1"
    state.GraphicAnnotationSequence[0].TextObjectSequence = [text]
    assert read_rois([state]).rois[0].label == "L1"


@pytest.mark.parametrize("area", [(1, 1, 112, 96), (11, 21, 60, 70), (-9, -9, 150, 99)])
def test_display_units_are_fractions_of_the_displayed_area(area):
    image = mr_slice()
    (roi,) = read_rois([roi_objects.display_rectangle(image, BOX, area)]).rois
    assert roi.box == pytest.approx(BOX, abs=1e-4)


def test_the_displayed_area_is_that_of_the_marked_image():
    image, other = mr_slice(), mr_slice(position=(20.0, -60.0, 2.0))
    state = roi_objects.display_rectangle(image)
    area, wrong = state.DisplayedAreaSelectionSequence[0], Dataset()
    wrong.update(area)
    wrong.DisplayedAreaBottomRightHandCorner = [10, 10]
    wrong.ReferencedImageSequence = [reference_to(other)]
    area.ReferencedImageSequence = [reference_to(image)]
    state.DisplayedAreaSelectionSequence = [wrong, area]
    assert read_rois([state]).rois[0].box == pytest.approx(BOX, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ImageHorizontalFlip": "Y"}, "flipped or turned"),
        ({"ImageRotation": 90}, "flipped or turned"),
        ({"DisplayedAreaSelectionSequence": []}, "missing or damaged"),
    ],
)
def test_display_units_that_mean_no_pixel_are_refused(changes, named):
    state = roi_objects.display_rectangle(mr_slice())
    for keyword, value in changes.items():
        setattr(state, keyword, value)
    reading = read_rois([state])
    assert reading.rois == ()
    assert named in reading.refused[0]


def test_a_displayed_area_that_counts_from_0_is_refused():
    state = roi_objects.display_rectangle(mr_slice(), BOX, (0, 0, 112, 96))
    reading = read_rois([state])
    assert reading.rois == ()
    assert "counts pixels from 0" in reading.refused[0]


def test_pixels_that_claim_to_be_fractions_are_refused():
    state = gsps_rectangle([mr_slice()])
    graphic(state).GraphicAnnotationUnits = "DISPLAY"
    assert "no fraction" in read_rois([state]).refused[0]


def test_flip_and_rotation_do_not_matter_in_pixels():
    state = gsps_rectangle([mr_slice()])
    state.ImageRotation, state.ImageHorizontalFlip = 90, "Y"
    assert read_rois([state]).rois[0].box == BOX


@pytest.mark.parametrize(
    ("angle", "point", "box"),
    [
        (0.0, None, BOX),
        (360.0, None, BOX),
        (180.0, [32.0, 40.0], BOX),
        (180.0, [20.0, 30.0], (-4.0, 10.0, 20.0, 30.0)),
    ],
)
def test_a_compound_rectangle_may_be_turned_by_half_turns(angle, point, box):
    more = {} if point is None else {"RotationPoint": point}
    state = roi_objects.compound_rectangle(
        mr_slice(), with_simple=False, RotationAngle=angle, **more
    )
    assert read_rois([state]).rois[0].box == box


@pytest.mark.parametrize("angle", [30.0, 90.0, 180.0])
def test_a_compound_rectangle_turned_otherwise_is_refused(angle):
    state = roi_objects.compound_rectangle(
        mr_slice(), with_simple=False, RotationAngle=angle
    )
    reading = read_rois([state])
    assert reading.rois == ()
    assert f"turned by {angle:g} degrees" in reading.refused[0]


def test_a_compound_that_cannot_be_read_leaves_its_simple_double():
    state = roi_objects.compound_rectangle(mr_slice(), RotationAngle=30.0)
    assert [roi.box for roi in read_rois([state]).rois] == [BOX]


@pytest.mark.parametrize("kind", ["RULER", "ARROW", "ELLIPSE", "AXIS"])
def test_the_double_of_another_compound_graphic_is_no_rectangle(kind):
    state = roi_objects.compound_rectangle(mr_slice(), CompoundGraphicType=kind)
    reading = read_rois([state])
    assert reading.rois == ()
    assert "is not a rectangle" in reading.refused[0]


def test_a_double_without_a_common_number_counts_once():
    state = roi_objects.compound_rectangle(mr_slice())
    del graphic(state).CompoundGraphicInstanceID
    assert [roi.box for roi in read_rois([state]).rois] == [BOX]


def reference_to(image):
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item
