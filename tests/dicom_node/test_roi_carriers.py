"""One rectangle through every carrier, and what each carrier adds to it."""

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes

from dicom_node.images import DOCUMENT_CLASSES, read_header, read_study
from dicom_node.report.sr import build_sr
from dicom_node.roi import READERS, KeyImage, read_rois
from dicom_node.selection import select
from tests import dicom_objects, roi_objects
from tests.dicom_objects import AT, BOX, READER, dynamic_series, mr_slice
from tests.report_cases import DEVICE, pending
from tests.roi_objects import EXACT, WHOLE

UNEVEN = (20.25, 30.5, 43.75, 50.125)
CARRIERS = {
    "SCOORD3D": "SCOORD3D",
    "SR": "SR",
    "GSPS": "GSPS",
    "RTSTRUCT": "RTSTRUCT",
    "SEG": "SEG",
}


@pytest.fixture
def read(tmp_path):
    """Read what a study's objects say, through files as the worker does."""

    def read(images, documents, **options):
        objects = read_study(dicom_objects.store(tmp_path, [*images, *documents]))
        assert objects.unreadable == ()
        return read_rois(objects.documents, objects.images, **options)

    return read


@pytest.mark.parametrize("writer", EXACT)
def test_a_rectangle_comes_back_as_it_was_drawn(read, writer):
    image = mr_slice(PixelSpacing=[0.7, 0.9])
    reading = read([image], [EXACT[writer](image, UNEVEN)])
    (roi,) = reading.rois
    assert roi.box == pytest.approx(UNEVEN, abs=1e-3)
    assert (roi.sop_instance_uid, roi.frame) == (image.SOPInstanceUID, 1)
    assert roi.carrier == CARRIERS[writer.split()[0]]
    assert roi.exact
    assert reading.refused == ()


@pytest.mark.parametrize("writer", WHOLE)
def test_a_mask_gives_the_whole_pixels_of_a_rectangle(read, writer):
    image = mr_slice(PixelSpacing=[0.7, 0.9])
    reading = read([image], [WHOLE[writer](image, UNEVEN)])
    (roi,) = reading.rois
    assert roi.box == (20.0, 30.0, 44.0, 51.0)
    assert (roi.sop_instance_uid, roi.carrier) == (image.SOPInstanceUID, "SEG")
    assert not roi.exact
    assert (roi.author, roi.label) == (READER, "lesion 1")
    assert reading.refused == ()


@pytest.mark.parametrize("drawn", [roi_objects.outline, roi_objects.mask])
def test_an_overlay_gives_the_whole_pixels_where_a_site_asks(read, drawn):
    image = mr_slice()
    roi_objects.with_overlay(image, drawn(image, UNEVEN))
    assert read([image], []).rois == ()
    (roi,) = read([image], [], overlays=True).rois
    assert roi.box == (20.0, 30.0, 44.0, 51.0)
    assert (roi.carrier, roi.exact) == ("OVERLAY", False)
    assert roi.carrier_sop_instance_uid == roi.sop_instance_uid == image.SOPInstanceUID


@pytest.mark.parametrize("writer", [*EXACT, *WHOLE])
def test_all_that_names_no_image_says_that_it_lies_by_position(read, writer):
    study = dynamic_series()
    document = (EXACT | WHOLE)[writer](study[4], BOX)
    (roi,) = read(study, [document]).rois
    by_position = writer in {
        "SCOORD3D", "SCOORD3D polyline", "RTSTRUCT without images",
        "SEG without images",
    }  # fmt: skip
    assert roi.by_position == by_position
    position = {one.SOPInstanceUID: one.ImagePositionPatient[2] for one in study}
    assert position[roi.sop_instance_uid] == 2.0
    assert roi.box == pytest.approx(BOX, abs=1e-3)


@pytest.mark.parametrize("writer", ["SR", "SCOORD3D", "GSPS", "RTSTRUCT"])
def test_author_and_time_are_read(read, writer):
    image = mr_slice()
    (roi,) = read([image], [EXACT[writer](image, BOX)]).rois
    assert (roi.author, roi.marked_at) == (READER, AT)
    assert not roi.adjudicator


def test_a_structure_is_named_after_its_roi(read):
    image = mr_slice()
    (roi,) = read([image], [roi_objects.rtstruct_rectangle(image)]).rois
    assert roi.label == "index lesion"


def test_an_adjudicator_is_known_by_the_role_in_the_procedure(read):
    image = mr_slice()
    (roi,) = read([image], [roi_objects.adjudicated_rectangle(image)]).rois
    assert roi.adjudicator
    assert roi.author == READER


def test_a_key_object_selection_gives_the_slice_alone(read):
    image = mr_slice()
    selection = roi_objects.key_object(image)
    reading = read([image], [selection])
    key = KeyImage(image.SOPInstanceUID, 1, selection.SOPInstanceUID)
    assert reading.key_images == (key,)
    assert (reading.rois, reading.refused) == ((), ())


def test_a_rejected_image_is_not_singled_out(read):
    image = mr_slice()
    title = codes.DCM.RejectedForQualityReasons
    reading = read([image], [roi_objects.key_object(image, title)])
    assert reading.key_images == ()


@pytest.mark.parametrize("writer", [*EXACT, *WHOLE])
def test_what_we_wrote_is_left_out(writer):
    image = mr_slice()
    document = (EXACT | WHOLE)[writer](image, BOX)
    document.ManufacturerModelName = "Sentinode"
    reading = read_rois([document])
    assert (reading.rois, reading.refused) == ((), ())


@pytest.mark.parametrize(
    "writer", ["SR", "GSPS", "GSPS display", "GSPS compound", "SEG"]
)
def test_pixels_of_an_image_that_is_missing_are_kept(writer):
    image = mr_slice()
    (roi,) = read_rois([(EXACT | WHOLE)[writer](image, BOX)]).rois
    assert roi.sop_instance_uid == image.SOPInstanceUID
    assert roi.box == pytest.approx(BOX, abs=1e-3)


@pytest.mark.parametrize(
    ("writer", "lacking"),
    [
        ("SCOORD3D", "frame of reference 1.2.826.0.1.3680043.8.498.1002"),
        (
            "RTSTRUCT without images",
            "frame of reference 1.2.826.0.1.3680043.8.498.1002",
        ),
        ("SEG without images", "frame of reference 1.2.826.0.1.3680043.8.498.1002"),
        ("RTSTRUCT", "image {}, which it names"),
    ],
)
def test_what_needs_an_image_says_which_is_lacking(writer, lacking):
    image = mr_slice()
    reading = read_rois([(EXACT | WHOLE)[writer](image, BOX)])
    assert reading.rois == ()
    assert lacking.format(image.SOPInstanceUID) in reading.refused[0]


@pytest.mark.parametrize("writer", [*EXACT, *WHOLE])
def test_a_report_can_cite_the_carrier(tmp_path, writer):
    study = dynamic_series()
    document = (EXACT | WHOLE)[writer](study[4], BOX)
    objects = read_study(dicom_objects.store(tmp_path, [*study, document]))
    (selection,) = select(objects, read_rois(objects.documents, objects.images))
    assert selection.phase == "post-contrast 1"
    header = read_header(selection.path)
    built = build_sr(pending(selection), header, objects.documents[0], None, DEVICE)
    cited = str(dcmread(BytesIO(built.content)))
    assert document.SOPInstanceUID in cited


@pytest.mark.parametrize("writer", [*EXACT, *WHOLE])
def test_a_wrong_modality_does_not_matter(read, writer):
    image = mr_slice()
    document = (EXACT | WHOLE)[writer](image, BOX)
    document.Modality = "OT"
    assert len(read([image], [document]).rois) == 1


def test_every_document_of_a_study_has_a_reader():
    assert READERS.keys() == DOCUMENT_CLASSES
