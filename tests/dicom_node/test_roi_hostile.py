"""Damaged and hostile carriers: a sentence each, in bounded time and memory."""

import time
import tracemalloc
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from dicom_node import attributes
from dicom_node.images import read_study
from dicom_node.roi import read_rois
from tests import dicom_objects, roi_objects
from tests.dicom_objects import BOX, encoded, gsps_rectangle, mr_slice, reread
from tests.fuzz import elements
from tests.roi_objects import EXACT, WHOLE

ALL = EXACT | WHOLE
SECONDS = 5.0
MEGABYTES = 200


@contextmanager
def bounded():
    """Fail when the block takes much time or memory."""
    tracemalloc.start()
    begun = time.process_time()
    yield
    took, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < SECONDS
    assert peak < MEGABYTES * 2**20


@pytest.fixture
def image():
    return mr_slice()


@pytest.fixture
def images(tmp_path, image):
    return read_study(dicom_objects.store(tmp_path, [image])).images


def refusal(document, images):
    with bounded():
        reading = read_rois([document], images)
    assert reading.rois == ()
    assert reading.refused
    return " ".join(reading.refused)


def region_of(report: Dataset) -> Dataset:
    """The first region of a report."""
    todo = [report]
    while todo:
        item = todo.pop()
        if item.get("ValueType") in {"SCOORD", "SCOORD3D"}:
            return item
        todo.extend(item.get("ContentSequence") or ())
    raise AssertionError("no region")


def graphic_of(state: Dataset) -> Dataset:
    return state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]


def contour_of(structures: Dataset) -> Dataset:
    return structures.ROIContourSequence[0].ContourSequence[0]


@pytest.mark.parametrize("writer", ALL)
def test_a_file_cut_anywhere_gives_the_rectangle_or_a_reason(
    writer, image, images, tmp_path
):
    whole = encoded(ALL[writer](image, BOX))
    path = tmp_path / "cut.dcm"
    for length in np.linspace(200, len(whole) - 1, 25, dtype=int):
        path.write_bytes(whole[:length])
        try:
            described = dcmread(BytesIO(whole))
        except EOFError:
            continue
        stored = dicom_objects.stored_instance(described, path)
        objects = read_study([stored])
        reading = read_rois(objects.documents, images)
        for roi in reading.rois:
            assert roi.box == pytest.approx(BOX, abs=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("writer", "part"),
    [("SR", region_of), ("SCOORD3D", region_of), ("GSPS", graphic_of)],
)
def test_coordinates_that_are_no_numbers_are_refused(
    writer, part, value, image, images
):
    document = EXACT[writer](image, BOX)
    data = list(part(document).GraphicData)
    part(document).GraphicData = [value, *data[1:]]
    assert "no numbers" in refusal(reread(document), images)


@pytest.mark.parametrize("count", [0, 1, 3, 7, 11])
@pytest.mark.parametrize(
    ("writer", "part"),
    [("SR", region_of), ("SCOORD3D", region_of), ("GSPS", graphic_of)],
)
def test_a_wrong_count_of_coordinates_is_refused(writer, part, count, image, images):
    document = EXACT[writer](image, BOX)
    part(document).GraphicData = [float(n) for n in range(count)]
    assert "is not a rectangle" in refusal(reread(document), images)


@pytest.mark.parametrize(
    ("writer", "part"),
    [("SR", region_of), ("SCOORD3D", region_of), ("GSPS", graphic_of)],
)
def test_a_million_points_are_refused_unread(writer, part, image, images, tmp_path):
    document = EXACT[writer](image, BOX)
    part(document).GraphicData = [1.0] * 400_000
    path = tmp_path / "points.dcm"
    path.write_bytes(encoded(document))
    assert "more than 100000 points" in refusal(dcmread(path), images)


@pytest.mark.parametrize("data", [b"1\\2\\x\\" * 4, b"\\\\\\", b"\\1", b"1e999\\1\\1 "])
def test_contours_of_damaged_text_are_refused(data, image, images):
    document = roi_objects.rtstruct_rectangle(image)
    whole = encoded(document)
    value = b"\\".join(str(one).encode() for one in contour_of(document).ContourData)
    value += b" " * (len(value) % 2)
    assert whole.count(value) == 1
    damaged = dcmread(BytesIO(whole.replace(value, data.ljust(len(value)))))
    assert "ROI 1: " in refusal(damaged, images)


def test_a_contour_of_a_million_points_is_refused_unread(image, images, tmp_path):
    document = roi_objects.rtstruct_rectangle(image)
    contour_of(document).pop("ContourData")
    contour_of(document).add_new("ContourData", "UN", b"1.25\\" * 3_000_000 + b"1.")
    path = tmp_path / "points.dcm"
    path.write_bytes(encoded(document))
    stored = [dicom_objects.stored_instance(document, path)]
    with bounded():
        objects = read_study(stored)
    assert "more than 100000 points" in refusal(objects.documents[0], images)


@pytest.mark.parametrize("points", [1, 2])
def test_a_contour_of_one_or_two_points_is_refused(points, image, images):
    document = roi_objects.rtstruct_rectangle(image)
    data = list(contour_of(document).ContourData)
    contour_of(document).ContourData = data[: 3 * points]
    assert "encloses nothing" in refusal(reread(document), images)


@pytest.mark.parametrize(
    "data",
    [
        ["1"] * 12,
        ["1", "2", "3", "4"],
        ["1", "2", "nan"] * 4,
        [],
    ],
)
def test_contours_that_are_none_are_refused(data, image, images):
    document = roi_objects.rtstruct_rectangle(image)
    contour = contour_of(document)
    with dicom_objects.lenient():
        contour.ContourData = data
    assert "ROI 1: " in refusal(reread(document), images)


@pytest.mark.parametrize(
    ("writer", "keyword"),
    [
        ("SR", "ContentSequence"),
        ("GSPS", "GraphicAnnotationSequence"),
        ("RTSTRUCT", "ROIContourSequence"),
        ("SEG", "PerFrameFunctionalGroupsSequence"),
        ("SEG", "SegmentSequence"),
    ],
)
def test_an_empty_or_wrong_sequence_is_refused(writer, keyword, image, images):
    document = ALL[writer](image, BOX)
    setattr(document, keyword, [])
    if writer != "GSPS":  # a state without annotations is an ordinary one
        refusal(reread(document), images)
    del document[keyword]
    document.add_new(keyword, "LO", "not a sequence")
    refusal(document, images)


@pytest.mark.parametrize("writer", ALL)
def test_sequences_without_items_inside_are_no_crash(writer, image, images):
    document = ALL[writer](image, BOX)
    emptied = 0
    todo = [document]
    while todo:
        item = todo.pop()
        for element in list(item):
            if element.VR == "SQ" and element.value:
                kept = element.value
                item[element.tag].value = []
                read_rois([document], images)
                item[element.tag].value = kept
                emptied += 1
                todo.extend(kept)
    assert emptied


@pytest.mark.parametrize("writer", ALL)
def test_every_attribute_may_be_missing(writer, image, images):
    document = ALL[writer](image, BOX)
    todo = [document]
    while todo:
        item = todo.pop()
        for element in list(item):
            if element.VR == "SQ":
                todo.extend(element.value)
            del item[element.tag]
            reading = read_rois([document], images)
            assert len(reading.rois) <= 1
            item[element.tag] = element


def test_a_report_that_refers_to_itself_in_a_circle_is_refused(image, images):
    report = EXACT["SR"](image, BOX)
    pointer = Dataset()
    pointer.RelationshipType = "SELECTED FROM"
    pointer.ReferencedContentItemIdentifier = [1]
    region = region_of(report)
    region.ContentSequence = [pointer]
    assert "it refers to no image" in refusal(reread(report), images)
    report.ContentSequence.append(pointer)
    pointer.ReferencedContentItemIdentifier = [1, len(report.ContentSequence)]
    assert "it refers to no image" in refusal(reread(report), images)


def test_a_report_nested_without_end_is_refused(image, images):
    report = EXACT["SR"](image, BOX)
    for _ in range(2000):
        box = Dataset()
        box.ValueType = "CONTAINER"
        box.ContentSequence = report.ContentSequence
        report.ContentSequence = [box]
    assert "cannot be read (RecursionError)" in refusal(report, images)


def test_a_state_with_a_million_rectangles_is_refused(image, images):
    state = gsps_rectangle([image])
    annotation = state.GraphicAnnotationSequence[0]
    graphics = []
    for n in range(1500):
        graphic = Dataset()
        graphic.GraphicAnnotationUnits = "PIXEL"
        graphic.GraphicType = "POLYLINE"
        graphic.GraphicData = roi_objects.corners((n, n, n + 9, n + 9)).ravel().tolist()
        graphics.append(graphic)
    annotation.GraphicObjectSequence = graphics
    assert "more than 1000 rectangles" in refusal(state, images)


def test_a_structure_set_with_too_many_contours_is_refused(image, images):
    document = roi_objects.rtstruct_rectangle(image)
    one = contour_of(document)
    document.ROIContourSequence[0].ContourSequence = [one] * 6000
    assert "more than 5000 contours" in refusal(document, images)


@pytest.mark.parametrize(
    "attributes",
    [
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 1000},
        {"Rows": 4096, "Columns": 4096, "NumberOfFrames": 16000},
        {"Rows": 0},
        {"NumberOfFrames": 0, "PixelData": b""},
        {"NumberOfFrames": 2},
        {"NumberOfFrames": -5},
        {"BitsAllocated": 32},
        {"SegmentationType": "OTHER"},
        {"PixelData": b"\0\0"},
    ],
)
def test_a_segmentation_whose_sizes_are_lies_is_refused(attributes, image, images):
    seg = WHOLE["SEG"](image, BOX)
    for keyword, value in attributes.items():
        setattr(seg, keyword, value)
    refusal(seg, images)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_bomb_is_refused_before_it_is_decoded(syntax, image, images):
    seg = WHOLE["SEG label map"](image, BOX)
    seg.Rows = seg.Columns = 4096
    seg.NumberOfFrames = 60
    groups = seg.PerFrameFunctionalGroupsSequence
    seg.PerFrameFunctionalGroupsSequence = list(groups) * 60
    seg.file_meta.TransferSyntaxUID = syntax
    assert "more than 256 MB" in refusal(seg, images)


def test_a_segmentation_without_pixels_is_refused(image, images):
    seg = WHOLE["SEG"](image, BOX)
    del seg.PixelData
    assert "no pixel data" in refusal(reread(seg), images)


@pytest.mark.parametrize("origin", [None, [1], ["x"]])
def test_a_damaged_overlay_is_a_reason(origin, image, tmp_path):
    roi_objects.with_overlay(image, roi_objects.outline(image))
    element = image[0x6000, 0x0050]
    del image[0x6000, 0x0050]
    if origin is not None:
        image.add_new(0x60000050, "SS" if origin == [1] else "LO", origin)
    else:
        image[0x6000, 0x0010].value = 60000
    del element
    stored = dicom_objects.store(tmp_path, [image])
    with bounded():
        reading = read_rois([], read_study(stored).images, overlays=True)
    assert reading.rois == ()
    assert "overlays of 1 images" in reading.refused[0]


def test_noise_in_an_overlay_is_a_reason_in_time(tmp_path):
    noise = np.random.default_rng(1).integers(0, 2, (1024, 1024))
    image = roi_objects.with_overlay(mr_slice(), noise)
    stored = dicom_objects.store(tmp_path, [image])
    with bounded():
        reading = read_rois([], read_study(stored).images, overlays=True)
    assert reading.rois == ()
    assert "text, rulers" in reading.refused[0]


def test_two_documents_that_replace_each_other_are_both_refused(image, images):
    documents = [gsps_rectangle([image]), gsps_rectangle([image])]
    for one, other in (documents, documents[::-1]):
        instance, series, study = Dataset(), Dataset(), Dataset()
        instance.ReferencedSOPInstanceUID = other.SOPInstanceUID
        series.ReferencedSOPSequence = [instance]
        study.ReferencedSeriesSequence = [series]
        one.PredecessorDocumentsSequence = [study]
    reading = read_rois(documents, images)
    assert reading.rois == ()
    assert len(reading.refused) == 2


@pytest.mark.parametrize("depth", [14, 40, 90, 150])
def test_a_damaged_value_deep_inside_is_a_reason_in_time(depth, image, tmp_path):
    report = EXACT["SR"](image, BOX)
    element = [0x0040, 0xA132, b"UL", b"\\"]
    for _ in range(depth):
        element = [0x0040, 0xA730, b"SQ", [[element]]]
    del report.ContentSequence
    path = tmp_path / "deep.dcm"
    path.write_bytes(encoded(report) + elements.encode([element]))
    with bounded():
        (why,) = read_study([dicom_objects.stored_instance(report, path)]).unreadable
    assert ("document cannot be read" if depth < 100 else "levels deep") in why


def test_items_that_would_fill_the_memory_are_a_reason(image, tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "MAX_PARSED_BYTES", 100 * 2**20)
    report = EXACT["SR"](image, BOX)
    del report.ContentSequence
    many = b"\xfe\xff\x00\xe0\0\0\0\0" * 400_000 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path = tmp_path / "many.dcm"
    path.write_bytes(encoded(report) + b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + many)
    (why,) = read_study([dicom_objects.stored_instance(report, path)]).unreadable
    assert "MemoryError" in why
    bytearray(200 * 2**20)  # the bound has gone with its object


@pytest.mark.parametrize("frame", ["0", "-3", "1.5", "1\\0"])
def test_a_frame_that_no_image_has_is_refused(frame, image, images):
    state = gsps_rectangle([image])
    reference = state.GraphicAnnotationSequence[0].ReferencedImageSequence[0]
    reference.add_new("ReferencedFrameNumber", "DS", frame.split("\\"))
    assert "names no real frame" in refusal(reread(state), images)
