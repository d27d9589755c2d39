"""What every real annotation gives: the rectangle, or why there is none.

Each file is read with the images that lie beside it, whatever modality they are of.
`pytest -s` prints the table; a file that is not in it fails the test.
"""

from dataclasses import dataclass

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from dicom_node.images import MR_CLASSES, read_study
from dicom_node.roi import read_rois
from dicom_node.study import StoredInstance
from tests.dicom_objects import lenient

FOLDERS = ("annotations", "mr-multivendor", "mr-transfer-syntaxes")
NO_OBJECT = {".txt", ".md", ""}
IMAGE_MODALITIES = {"CR", "CT", "MR"}
NO_SOP_INSTANCE_UID = "names no SOP class or SOP instance"
NO_PREAMBLE = "cannot be read (InvalidDicomError)"
NO_COORDINATES = "it holds no coordinates; draw a rectangle"
IMAGE_MISSING = "which it names, is not among the study's MR images; send it"


@dataclass(frozen=True)
class Expected:
    """Rectangles as (carrier, end of the SOP Instance UID, x0, y0, x1, y1)."""

    rois: tuple = ()
    refused: tuple[str, ...] = ()
    unreadable: str = ""


def boxes(carrier, *rois):
    return Expected(tuple((carrier, *roi) for roi in rois))


def refused(*reasons, unreadable=""):
    return Expected(refused=reasons, unreadable=unreadable)


def dwv(*rois, refused=()):
    found = tuple(("SR", "20240516075655.3.6", *roi) for roi in rois)
    return Expected(found, refused, NO_SOP_INSTANCE_UID)


SERIES = ".2009.6.22.21.43.10"
MARKS = {
    "annotations/dcmqi-seg/segmentations/liver.dcm": boxes(
        "SEG", (f"{SERIES}.23433.1", 79, 145, 351, 367)
    ),
    "annotations/dcmqi-seg/segmentations/partial_overlaps.dcm": boxes(
        "SEG",
        (f"{SERIES}.23432.1", 129, 171, 270, 268),
        (f"{SERIES}.23432.1", 200, 197, 349, 313),
        (f"{SERIES}.23431.1", 156, 206, 355, 283),
        (f"{SERIES}.23433.1", 274, 313, 373, 397),
        (f"{SERIES}.23433.1", 122, 330, 211, 400),
    ),
    "annotations/dcmqi-seg/sr-example/rwvm.dcm": Expected(),
    "annotations/dcmqi-seg/sr-example/seg.dcm": boxes(
        "SEG", ("430144138940", 57, 53, 67, 64)
    ),
    "annotations/dcmqi-seg/sr-example/sr.dcm": refused(NO_COORDINATES),
    "annotations/dwv-sr/dwv034/sr-arrow.dcm": dwv(refused=("a point is not",)),
    "annotations/dwv-sr/dwv034/sr-circle.dcm": dwv(refused=("a circle is not",)),
    "annotations/dwv-sr/dwv034/sr-ellipse.dcm": dwv(refused=("an ellipse is not",)),
    "annotations/dwv-sr/dwv034/sr-protractor.dcm": dwv(
        refused=("an outline of 3 points is not",)
    ),
    "annotations/dwv-sr/dwv034/sr-rectangle.dcm": dwv(
        (4.130564, 3.988131, 10.183976, 7.976261),
        (13.958457, 4.059347, 20.011869, 8.047478),
        (13.887240, 16.023739, 19.940653, 20.011869),
    ),
    "annotations/dwv-sr/dwv034/sr-roi.dcm": dwv(
        refused=("sides do not follow the pixels is not",)
    ),
    "annotations/dwv-sr/dwv034/sr-ruler.dcm": dwv(refused=("a line is not",)),
    "annotations/gsps/PR000000.dcm": refused("an ellipse is not"),
    "annotations/highdicom-sr-seg/seg_image_ct_binary.dcm": boxes(
        "SEG", (".28319.0.95", 0, 0, 16, 16)
    ),
    "annotations/highdicom-sr-seg/seg_image_ct_binary_fractional.dcm": boxes(
        "SEG", (".28319.0.95", 0, 0, 16, 16)
    ),
    "annotations/highdicom-sr-seg/seg_image_ct_binary_overlap.dcm": boxes(
        "SEG", (".28319.0.94", 4, 4, 8, 8), (".28319.0.94", 6, 6, 8, 8)
    ),
    "annotations/highdicom-sr-seg/seg_image_ct_binary_single_frame.dcm": boxes(
        "SEG", (".20040119072730.12322", 5, 6, 102, 95)
    ),
    "annotations/highdicom-sr-seg/seg_image_ct_true_fractional.dcm": boxes(
        "SEG", (".28319.0.95", 0, 0, 16, 16)
    ),
    "annotations/highdicom-sr-seg/sr_document.dcm": refused("a circle is not"),
    "annotations/highdicom-sr-seg/sr_document_with_multiple_groups.dcm": Expected(
        (("SR", ".20040119072730.12322", 25, 45, 45, 65),),
        ("a circle is not", "a point is not"),
    ),
    "annotations/ohif-sr/SR_SR-ARROW-ELIPSE_10185313.dcm": refused(
        "a point is not", "an ellipse is not"
    ),
    "annotations/rtstruct/plastimatch-lctsc/RT.dcm": refused(
        IMAGE_MISSING, *["name of a body part"] * 3, IMAGE_MISSING
    ),
    "annotations/rtstruct/pydicom-rtstruct-headless.dcm": refused(
        "ROI 1: it is of type EXTERNAL",
        "ROI 2: it is of type ISOCENTER",
        "ROI 3: it is of type ISOCENTER",
        unreadable=NO_PREAMBLE,
    ),
    "annotations/rtstruct/raystation-rtstruct-on-MR-noimages.dcm": refused(
        *[IMAGE_MISSING] * 8
    ),
    "annotations/scoord3d-sr/SEG_PT-Segmentation_7.504366.dcm": boxes(
        "SEG", ("698638217276", 47, 54, 60, 70), ("902819175981", 72, 26, 109, 93)
    ),
    "annotations/scoord3d-sr/SR_IDC_ProstateX-0207_SCOORD3D.dcm": refused(
        "a point is not"
    ),
    "annotations/scoord3d-sr/SR_Sybil_lesion_bounding_box_CT_noimages.dcm": boxes(
        "SR",
        ("525703076534", 271.587708, 289.490570, 306.093170, 316.891968),
        ("300906136269", 271, 289, 306, 317),
        ("057241341854", 270, 289, 306, 318),
        ("540674076851", 269, 288, 306, 318),
        ("848313260932", 268, 288, 306, 319),
        ("837222433020", 268, 287, 306, 319),
        ("675241815965", 267, 287, 306, 320),
        ("173399206301", 266.005951, 286.445984, 306.093170, 320.444000),
    ),
}
OVERLAYS = {
    # a freehand region; "Tra" and a framed "F" beside it are no marks
    "mr-transfer-syntaxes/pydicom/MR-SIEMENS-DICOM-WithOverlays.dcm": Expected(
        (("OVERLAY", "", 46, 239, 81, 274),), ("text, rulers or orientation marks",)
    ),
}
"""Images whose overlays hold something; every other image gives nothing."""


def described(path):
    """A row of the ledger for a file; an image of any modality counts as MR."""
    with lenient():
        header = dcmread(path, stop_before_pixels=True, force=True)
    sop_class = str(header.get("SOPClassUID", ""))
    if header.get("Modality") in IMAGE_MODALITIES and "Rows" in header:
        sop_class = sop_class if sop_class in MR_CLASSES else MRImageStorage
    uids = [str(header.get(one, "")) for one in ("SOPInstanceUID", "SeriesInstanceUID")]
    return StoredInstance(uids[0], uids[1], sop_class, path, "")


def objects_below(folder):
    return [
        described(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.suffix not in NO_OBJECT or path.name.isdigit())
        if "LICENSE" not in path.name
    ]


def outcome(instance, images):
    """Read one document beside its images; a file that is none is taken apart."""
    objects = read_study([instance])
    documents = objects.documents
    if objects.unreadable:
        with lenient():
            documents = [dcmread(instance.path, force=True)]
    return read_rois(documents, images), " ".join(objects.unreadable)


def rows_of(real_data):
    """Yield (name, reading, unreadable) for every file of the three folders."""
    for folder in FOLDERS:
        for top in sorted((real_data / folder).iterdir()):
            if not top.is_dir():
                continue
            stored = objects_below(top)
            shown = [one for one in stored if one.sop_class_uid in MR_CLASSES]
            images = read_study(shown).images
            for one in stored:
                name = str(one.path.relative_to(real_data))
                if one in shown:
                    own = read_study([one])
                    reading = read_rois([], own.images, overlays=True)
                    yield name, reading, " ".join(own.unreadable)
                else:
                    yield (name, *outcome(one, images))


def is_as_expected(reading, unreadable, expected):
    assert len(reading.rois) == len(expected.rois)
    for roi, (carrier, uid, *box) in zip(reading.rois, expected.rois, strict=True):
        assert roi.carrier == carrier
        assert roi.sop_instance_uid.endswith(uid)
        assert roi.box == pytest.approx(box, abs=1e-5)
    assert len(reading.refused) == len(expected.refused)
    for said, reason in zip(reading.refused, expected.refused, strict=True):
        assert reason in said
    assert bool(unreadable) == bool(expected.unreadable)
    assert expected.unreadable in unreadable


def printed(name, reading, unreadable):
    found = [
        f"{roi.carrier} frame {roi.frame} of ...{roi.sop_instance_uid[-12:]}: "
        + ", ".join(f"{edge:.2f}" for edge in roi.box)
        for roi in reading.rois
    ]
    said = [unreadable] if unreadable else []
    print(name)  # noqa: T201 - the table is what the test shows
    for line in (*found, *said, *reading.refused) or ("no mark",):
        print(f"    {line}")  # noqa: T201 - see above


def test_every_real_annotation_gives_its_rectangle_or_the_reason(real_data):
    expected = MARKS | OVERLAYS
    seen, images = set(), 0
    for name, reading, unreadable in rows_of(real_data):
        printed(name, reading, unreadable)
        seen.add(name)
        is_image = name not in expected
        images += is_image
        is_as_expected(reading, unreadable, expected.get(name, Expected()))
    assert expected.keys() <= seen
    assert images == IMAGES


IMAGES = 85
"""Images of the three folders that carry no mark; another file needs a row above."""
