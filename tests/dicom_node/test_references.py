"""Which images a document refers to, for every kind of document there is data of."""

import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from dicom_node import references
from dicom_node.references import foreign_references, image_references
from tests import dicom_objects

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def slices():
    return dicom_objects.dynamic_series()


@pytest.mark.parametrize("make", ["gsps", "sr", "ohif"])
def test_a_document_refers_to_the_images_that_it_was_drawn_on(slices, make):
    image = slices[4]
    document = {
        "gsps": lambda: dicom_objects.gsps_rectangle([image, slices[5]]),
        "sr": lambda: dicom_objects.sr_rectangle(image),
        "ohif": lambda: dicom_objects.sr_rectangle(image, like_ohif=True),
    }[make]()
    wanted = {image.SOPInstanceUID, slices[5].SOPInstanceUID}
    found = image_references(document)
    assert image.SOPInstanceUID in found
    assert set(found) <= wanted
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("rtstruct/raystation-rtstruct-on-MR-noimages.dcm", 120),
        ("ohif-sr/SR_SR-ARROW-ELIPSE_10185313.dcm", 1),
        ("dwv-sr/dwv034/sr-rectangle.dcm", 1),
        ("scoord3d-sr/SR_IDC_ProstateX-0207_SCOORD3D.dcm", 1),
        ("gsps/PR000000.dcm", 0),  # on a CR
        ("highdicom-sr-seg/seg_image_ct_binary.dcm", 0),  # on a CT
    ],
)
def test_real_documents_refer_to_their_mr_images_alone(real_data, name, images):
    path = real_data / "annotations" / name
    found = image_references(dcmread(path, stop_before_pixels=True))
    assert len(found) == images


def nested(depth: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR, "1.2.3"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Sequence([item])
        item = outer
    return item


def test_what_is_nested_without_end_is_given_up():
    assert image_references(nested(references.MAX_DEPTH)) == ("1.2.3",)
    assert image_references(nested(references.MAX_DEPTH + 2)) == ()
    assert image_references(nested(900)) == ()


def test_references_without_end_are_cut_off():
    document = Dataset()
    items = []
    for number in range(references.MAX_REFERENCES + 9):
        item = Dataset()
        item.ReferencedSOPClassUID = MR
        item.ReferencedSOPInstanceUID = f"1.2.{number}"
        items.append(item)
    document.ReferencedImageSequence = Sequence(items)
    assert len(image_references(document)) == references.MAX_REFERENCES


@pytest.mark.parametrize("uid", ["", "not a uid", "1.2.840.\\1.3", "../../etc"])
def test_what_is_no_uid_is_no_reference(uid):
    item = Dataset()
    item.add_new(0x00081155, "LO", uid)
    document = Dataset()
    document.ReferencedImageSequence = Sequence([item])
    assert image_references(document) == ()


def test_only_references_to_mr_images_count(slices):
    document = dicom_objects.sr_rectangle(slices[4])
    document.PredecessorDocumentsSequence = Sequence([nested(0)])
    predecessor = document.PredecessorDocumentsSequence[0]
    predecessor.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    assert image_references(document) == (slices[4].SOPInstanceUID,)


def test_images_of_the_study_itself_are_not_foreign(slices, tmp_path):
    mark = dicom_objects.gsps_rectangle([slices[4]])
    assert foreign_references(dicom_objects.store(tmp_path, [*slices, mark])) == {}
    alone = foreign_references(dicom_objects.store(tmp_path, [*slices[:4], mark]))
    assert alone == {mark.SOPInstanceUID: (slices[4].SOPInstanceUID,)}


def test_a_damaged_document_refers_to_nothing(slices, tmp_path):
    (stored,) = dicom_objects.store(tmp_path, [dicom_objects.sr_rectangle(slices[4])])
    stored.path.write_bytes(stored.path.read_bytes()[:700])
    assert foreign_references([stored]) == {}
    stored.path.unlink()
    assert foreign_references([stored]) == {}
