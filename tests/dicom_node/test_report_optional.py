"""The optional documents: the rectangle as a presentation state, the map as numbers."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.findings import Stage
from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.own import is_own
from dicom_node.report.gsps import build_gsps
from dicom_node.report.pm import build_pm
from dicom_node.report.sr import build_sr
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, report_cases
from tests.dicom_objects import BOX, gsps_rectangle, mr_slice
from tests.report_cases import DEVICE, every_case, ran
from tests.validators import dciodvfy, dcmpschk, written


def parsed(document):
    return dcmread(BytesIO(document.content))


def made_of(image, folder):
    """A case with a map on an image: case, header and pixels."""
    objects = read_study(dicom_objects.store(folder, [image]))
    (selection,) = select(objects, read_rois([gsps_rectangle([mr_slice()])]))
    pixels = read_pixels(selection.path, 1)
    heat = report_cases.heat(pixels.shape, selection.roi.box)
    case = replace(every_case(selection)["pending"], sln=ran(Stage.SLN, 0.83, heat))
    return case, read_header(selection.path), pixels


@pytest.fixture
def shown(tmp_path):
    return made_of(mr_slice(), tmp_path)


def test_validators_find_no_error(shown, tmp_path):
    case, header, pixels = shown
    state = written(build_gsps(case, header, pixels, DEVICE), tmp_path)
    values = written(build_pm(case, Stage.SLN, header, DEVICE), tmp_path)
    assert dciodvfy(state, "GSPS") == []
    assert dcmpschk(state) == []
    assert dciodvfy(values, "PM") == []


def test_the_state_draws_the_rectangle_that_the_report_describes(shown):
    case, header, pixels = shown
    state = parsed(build_gsps(case, header, pixels, DEVICE))
    (annotation,) = state.GraphicAnnotationSequence
    (outline,) = annotation.GraphicObjectSequence
    (text,) = annotation.TextObjectSequence
    x0, y0, x1, y1 = BOX
    assert outline.GraphicAnnotationUnits == "PIXEL"
    assert list(outline.GraphicData) == [x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]
    assert text.UnformattedTextValue.startswith("RESEARCH USE ONLY")
    (image,) = annotation.ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == header.SOPInstanceUID
    report = parsed(build_sr(case, header, None, None, DEVICE))
    group = report.ContentSequence[-1].ContentSequence[0]
    tracking = [item for item in group.ContentSequence if item.ValueType == "UIDREF"]
    assert [item.UID for item in tracking] == [outline.TrackingUID]


def test_a_rectangle_that_leaves_the_image_is_drawn_to_its_edge(shown):
    case, header, pixels = shown
    roi = replace(case.selection.roi, x0=-2.0, y1=97.5)
    outside = replace(case, selection=replace(case.selection, roi=roi))
    state = parsed(build_gsps(outside, header, pixels, DEVICE))
    data = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData
    assert (min(data), max(data)) == (0.0, 96.0)


def test_neither_is_read_as_a_mark(shown, tmp_path):
    case, header, pixels = shown
    documents = [
        build_gsps(case, header, pixels, DEVICE),
        build_pm(case, Stage.SLN, header, DEVICE),
    ]
    datasets = [parsed(document) for document in documents]
    assert all(is_own(dataset) for dataset in datasets)
    assert read_rois(datasets).rois == ()
    folder = tmp_path / "routed back"
    folder.mkdir()
    objects = read_study(dicom_objects.store(folder, [mr_slice(), *datasets]))
    assert objects.documents == ()
    assert len(objects.images) == 1


def test_the_window_is_that_of_what_is_stored(tmp_path):
    plain = made_of(mr_slice(), tmp_path)
    rescaled = made_of(mr_slice(RescaleSlope=2, RescaleIntercept=-5), tmp_path)
    state, other = (parsed(build_gsps(*one, DEVICE)) for one in (plain, rescaled))
    (window,), (wider,) = state.SoftcopyVOILUTSequence, other.SoftcopyVOILUTSequence
    assert (other.RescaleSlope, other.RescaleIntercept) == (2, -5)
    assert wider.WindowWidth == pytest.approx(2 * window.WindowWidth)
    assert wider.WindowCenter == pytest.approx(2 * window.WindowCenter - 5)


def test_white_stays_white_where_low_is_white(tmp_path):
    image = mr_slice(PhotometricInterpretation="MONOCHROME1")
    state = parsed(build_gsps(*made_of(image, tmp_path), DEVICE))
    stored = dicom_objects.pixels()
    low, high = np.percentile(stored, (1.0, 99.5))
    (window,) = state.SoftcopyVOILUTSequence
    assert state.PresentationLUTShape == "INVERSE"
    assert window.WindowCenter == pytest.approx((low + high) / 2, abs=2)


def test_the_map_holds_the_values_and_nothing_where_nothing_was_seen(shown):
    case, header, pixels = shown
    values = parsed(build_pm(case, Stage.SLN, header, DEVICE))
    heat = np.frombuffer(values.FloatPixelData, np.float32).reshape(pixels.shape)
    np.testing.assert_array_equal(heat, case.sln.heat)
    assert np.isnan(heat).any()
    assert np.isnan(values.FloatPixelPaddingValue)
    shared = values.SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert quantity.CodeValue == "130402"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [1.0, 1.0]


def test_the_same_case_gives_the_same_bytes(shown):
    case, header, pixels = shown
    once = build_gsps(case, header, pixels, DEVICE)
    assert build_gsps(case, header, pixels, DEVICE) == once
    once = build_pm(case, Stage.SLN, header, DEVICE)
    assert build_pm(case, Stage.SLN, header, DEVICE) == once


def test_building_leaves_the_source_as_it_was(shown):
    case, header, pixels = shown
    before = str(header)
    build_gsps(case, header, pixels, DEVICE)
    build_pm(case, Stage.SLN, header, DEVICE)
    assert str(header) == before


def test_a_stage_without_a_map_gives_no_values(shown):
    case, header, _ = shown
    with pytest.raises(ValueError, match="no class activation map"):
        build_pm(case, Stage.NSLN, header, DEVICE)
