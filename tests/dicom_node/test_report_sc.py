from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.findings import Stage
from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.own import is_own
from dicom_node.report.colour import colours, opacity, strength
from dicom_node.report.picture import Scene, draw
from dicom_node.report.sc import build_sc, patient_orientation
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, report_cases
from tests.dicom_objects import BOX, gsps_rectangle, mr_slice
from tests.report_cases import DEVICE, every_case, pending, ran

SHAPE = (96, 112)


def with_maps(selection, pixels):
    placed = report_cases.heat(pixels.shape, selection.roi.box)
    return replace(
        every_case(selection)["done"],
        sln=ran(Stage.SLN, 0.83, placed),
        nsln=ran(Stage.NSLN, 0.31, placed),
    )


@pytest.fixture
def shown(tmp_path):
    """A case with maps, the analysed header and its pixels."""
    image = mr_slice()
    objects = read_study(dicom_objects.store(tmp_path, [image]))
    (selection,) = select(objects, read_rois([gsps_rectangle([image])]))
    pixels = read_pixels(selection.path, selection.frame)
    return with_maps(selection, pixels), read_header(selection.path), pixels


def parsed(document):
    return dcmread(BytesIO(document.content))


@pytest.mark.parametrize("stage", Stage)
def test_validators_find_no_error(shown, tmp_path, stage):
    capture = build_sc(shown[0], stage, *shown[1:], DEVICE)
    assert report_cases.validate(capture, tmp_path / "capture.dcm") == []


def test_validators_find_no_error_on_a_real_slice(real_data, tmp_path):
    folder = real_data / "breast-dce-mri/annotated-slabs/3db29468"
    source = dcmread(folder / "007-0104.dcm")
    mark = gsps_rectangle([source], (226.7, 84.4, 251.3, 110.5))
    objects = read_study(dicom_objects.stored_folder(folder))
    (selection,) = select(objects, read_rois([mark]))
    pixels = read_pixels(selection.path, 1)
    case = with_maps(selection, pixels)
    header = read_header(selection.path)
    capture = build_sc(case, Stage.SLN, header, pixels, DEVICE)
    assert report_cases.validate(capture, tmp_path / "capture.dcm") == []
    assert parsed(capture).pixel_array.shape == (352, 352, 3)


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImagePositionPatient": None, "ImageLaterality": "L"},
        {"ImageOrientationPatient": None, "ImageLaterality": "L"},
        {"FrameOfReferenceUID": None},
        {"SliceThickness": None},
        {"PatientName": "MARKER", "PatientSex": "W", "StudyTime": "10:00"},
    ],
)
def test_a_source_with_gaps_still_gives_a_valid_capture(tmp_path, attributes):
    image = mr_slice(**attributes)
    objects = read_study(dicom_objects.store(tmp_path, [image]))
    (selection,) = select(objects, read_rois([gsps_rectangle([mr_slice()])]))
    pixels = read_pixels(selection.path, 1)
    case, header = with_maps(selection, pixels), read_header(selection.path)
    capture = build_sc(case, Stage.SLN, header, pixels, DEVICE)
    assert report_cases.validate(capture, tmp_path / "capture.dcm") == []


def test_the_capture_lies_where_its_source_lies(shown):
    case, header, pixels = shown
    capture = parsed(build_sc(case, Stage.SLN, header, pixels, DEVICE))
    for keyword in (
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "Rows",
        "Columns",
    ):
        assert capture[keyword].value == header[keyword].value, keyword
    (source,) = capture.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert list(capture.PatientOrientation) == ["L", "P"]
    assert capture.Laterality == "L"


def test_the_capture_says_what_it_is(shown):
    case, header, pixels = shown
    capture = parsed(build_sc(case, Stage.SLN, header, pixels, DEVICE))
    assert capture.ContentQualification == "RESEARCH"
    assert capture.SeriesDescription.startswith("RESEARCH")
    assert capture.BurnedInAnnotation == "NO"
    assert "-4.0 to +4.0 logit" in capture.DerivationDescription
    assert is_own(capture)


def test_both_stages_lie_in_one_series_under_their_own_numbers(shown):
    case, header, pixels = shown
    captures = [
        parsed(build_sc(case, stage, header, pixels, DEVICE)) for stage in Stage
    ]
    assert len({one.SeriesInstanceUID for one in captures}) == 1
    assert len({one.SOPInstanceUID for one in captures}) == 2
    assert [one.InstanceNumber for one in captures] == [3, 4]  # of version 2


def test_the_same_case_gives_the_same_bytes(shown):
    case, header, pixels = shown
    once = build_sc(case, Stage.SLN, header, pixels, DEVICE)
    assert build_sc(case, Stage.SLN, header, pixels, DEVICE) == once


def test_a_stage_without_a_map_gives_no_capture(shown):
    case, header, pixels = shown
    with pytest.raises(ValueError, match="no class activation map"):
        build_sc(pending(case.selection), Stage.NSLN, header, pixels, DEVICE)


def test_a_map_on_another_grid_is_refused(shown):
    case, header, pixels = shown
    with pytest.raises(ValueError, match="differ"):
        build_sc(case, Stage.SLN, header, pixels[:-1], DEVICE)


def scene(**changes):
    values = {
        "pixels": dicom_objects.pixels().astype(np.float32),
        "heat": report_cases.heat(SHAPE, BOX),
        "bounds": (-4.0, 4.0),
        "box": BOX,
        "caption": "RESEARCH USE ONLY \N{EN DASH} CAM (SLN)",
    }
    return Scene(**{**values, **changes})


def coloured(picture):
    wide = picture.astype(int)
    return np.ptp(wide, axis=-1) > 8


def test_colour_stays_inside_the_field_that_the_network_saw():
    seen = np.isfinite(scene().heat)
    picture = draw(scene())
    upper = coloured(picture)[:52]  # above caption and scale
    assert upper.any()
    assert not (upper & ~seen[:52]).any()


def test_a_map_of_zeros_leaves_the_slice_grey():
    flat = np.where(np.isfinite(scene().heat), 0.0, np.nan).astype(np.float32)
    assert not coloured(draw(scene(heat=flat)))[:52].any()


def test_the_scale_is_the_models_not_the_images():
    weak = scene(heat=scene().heat * 0.1)
    strong_colours = coloured(draw(scene()))[:52].sum()
    assert coloured(draw(weak))[:52].sum() < strong_colours
    np.testing.assert_array_equal(draw(weak)[60:], draw(scene())[60:])


def test_the_rectangle_hides_none_of_its_pixels():
    plain = draw(scene(box=(70.0, 10.0, 80.0, 20.0)))
    x0, y0, x1, y1 = (int(edge) for edge in BOX)
    np.testing.assert_array_equal(draw(scene())[y0:y1, x0:x1], plain[y0:y1, x0:x1])


def test_the_caption_keeps_away_from_the_mark():
    low = (20.0, 70.0, 44.0, 90.0)
    picture = draw(scene(heat=report_cases.heat(SHAPE, low), box=low))
    assert (picture[:40] == 235).all(axis=-1).any()
    assert coloured(picture)[71:89, 21:43].any()


@pytest.mark.parametrize("size", [(64, 64), (352, 352), (512, 384), (1024, 1024)])
def test_the_caption_fits_every_matrix(size):
    rows, columns = size
    box = (columns * 0.4, rows * 0.2, columns * 0.6, rows * 0.4)
    picture = draw(
        scene(
            pixels=np.zeros(size, dtype=np.float32),
            heat=report_cases.heat(size, box),
            box=box,
        )
    )
    assert picture.shape == (rows, columns, 3)
    lit = (picture[rows // 2 :] >= 180).all(axis=-1)
    assert lit.any()
    assert not lit[:, -1].any()


def test_colours_run_from_blue_to_orange_and_lighten_with_distance():
    ends = colours(np.array([-1.0, 0.0, 1.0]))
    assert ends[0].argmax() == 2
    assert ends[2].argmax() == 0
    light = ends @ np.array([0.2126, 0.7152, 0.0722])
    assert light[1] < min(light[0], light[2])
    assert opacity(np.array(0.0)) == 0.0


def test_equal_distances_from_zero_look_equally_strong_under_uneven_bounds():
    values = np.array([-1.0, 1.0, 9.0], dtype=np.float32)
    np.testing.assert_allclose(strength(values, (-1.0, 4.0)), [-0.25, 0.25, 1.0])


@pytest.mark.parametrize(
    ("cosines", "letters"),
    [
        ([1, 0, 0, 0, 1, 0], ("L", "P")),
        ([-1, 0, 0, 0, 1, 0], ("R", "P")),
        ([0, 1, 0, 0, 0, -1], ("P", "F")),
        ([0.8, 0.6, 0, 0, 0, -1], ("LP", "F")),
    ],
)
def test_directions_are_named_by_the_patient(cosines, letters):
    header = mr_slice(ImageOrientationPatient=cosines)
    assert patient_orientation(header) == letters
