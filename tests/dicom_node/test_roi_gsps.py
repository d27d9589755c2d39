import pytest

from dicom_node.findings import Carrier
from dicom_node.roi import read_rois
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
