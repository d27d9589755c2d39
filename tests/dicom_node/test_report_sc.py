import json
import urllib.request
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import dcmread

from dicom_node.findings import Stage
from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.own import is_own
from dicom_node.report.colour import colours, opacity, strength
from dicom_node.report.lettering import GLYPHS, lettering
from dicom_node.report.picture import AGAINST, FOR, Scene, draw
from dicom_node.report.sc import CAPTION, build_sc, patient_orientation
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, report_cases
from tests.dicom_objects import BOX, gsps_rectangle, mr_slice
from tests.peers import Orthanc
from tests.report_cases import DEVICE, every_case, pending, ran
from tests.validators import dciodvfy, written

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
    assert dciodvfy(written(capture, tmp_path), "SC") == []


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
    assert dciodvfy(written(capture, tmp_path), "SC") == []
    assert parsed(capture).pixel_array.shape == (352, 352, 3)


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


def test_a_pacs_shows_the_picture_that_was_drawn(shown, tmp_path):
    case, header, pixels = shown
    capture = build_sc(case, Stage.SLN, header, pixels, DEVICE)
    pacs = Orthanc(tmp_path / "pacs", 11112).start()
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{pacs.http}/instances", data=capture.content
        ) as answer:
            stored = json.load(answer)["ID"]
        with urllib.request.urlopen(
            f"http://127.0.0.1:{pacs.http}/instances/{stored}/preview"
        ) as answer:
            shown_there = np.asarray(Image.open(BytesIO(answer.read())))
    finally:
        pacs.stop()
    np.testing.assert_array_equal(shown_there, parsed(capture).pixel_array)


def test_the_capture_says_what_it_is(shown):
    case, header, pixels = shown
    capture = parsed(build_sc(case, Stage.SLN, header, pixels, DEVICE))
    assert capture.ContentQualification == "RESEARCH"
    assert capture.SeriesDescription.startswith("RESEARCH")
    assert capture.BurnedInAnnotation == "NO"
    assert "-4.0 to +4.0 logit" in capture.DerivationDescription
    assert "weights sha256 " + "ab" * 32 in capture.DerivationDescription
    assert "preprocessing sha256 " + "cd" * 32 in capture.DerivationDescription
    assert [one.Manufacturer for one in capture.ContributingEquipmentSequence] == [
        "ACME",
        "Sentinode",
        "Highdicom open-source contributors",
    ]
    assert is_own(capture)


def test_a_source_without_a_place_keeps_the_proportions_of_its_pixels(shown):
    case, header, pixels = shown
    header.PixelSpacing = [1.4, 0.7]
    del header.ImagePositionPatient
    capture = parsed(build_sc(case, Stage.SLN, header, pixels, DEVICE))
    assert "PixelSpacing" not in capture
    assert list(capture.PixelAspectRatio) == [1400, 700]


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


SIZES = [
    (64, 64),
    (96, 64),
    (128, 128),
    (191, 512),
    (352, 352),
    (512, 192),
    (1024, 1024),
]


def scene_of(size, *, upper=True, bounds=(-4.0, 4.0)):
    rows, columns = size
    top = 0.1 if upper else 0.7
    box = (columns * 0.4, rows * top, columns * 0.6, rows * (top + 0.2))
    return scene(
        pixels=np.zeros(size, dtype=np.float32),
        heat=report_cases.heat(size, box),
        box=box,
        bounds=bounds,
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("upper", [True, False])
def test_caption_and_scale_fit_every_matrix(size, upper):
    shown = scene_of(size, upper=upper)
    picture = draw(shown)
    assert picture.shape == (*size, 3)
    half = picture[size[0] // 2 :] if upper else picture[: size[0] // 2]
    letters = (half >= 180).all(axis=-1)
    assert letters.any()
    assert not letters[:, [0, -1]].any()
    assert not letters[-1 if upper else 0].any()


@pytest.mark.parametrize("size", SIZES)
def test_the_strip_covers_less_than_half_of_the_slice(size):
    bright_left = np.zeros(size, np.float32)
    bright_left[:, : size[1] // 2] = 1
    picture = draw(replace(scene_of(size), pixels=bright_left))
    covered = (picture[:, 0] < 200).all(axis=-1)
    assert 0 < covered.sum() < size[0] / 2


@pytest.mark.parametrize("size", SIZES)
def test_the_orange_end_of_the_scale_is_the_one_for_metastasis(size):
    rows = slice(size[0] // 2, None)
    bar = draw(scene_of(size))[rows].astype(int)
    orange = np.argwhere(bar[..., 0] - bar[..., 2] > 60)[:, 1]
    blue = np.argwhere(bar[..., 2] - bar[..., 0] > 60)[:, 1]
    assert blue.max() < orange.min()


@pytest.mark.parametrize("bounds", [(-4.0, 4.0), (-1.0, 6.0), (0.0, 5.0), (-3.0, 0.0)])
def test_a_scale_of_any_bounds_can_be_drawn(bounds):
    picture = draw(scene_of((352, 352), bounds=bounds))
    assert coloured(picture[176:]).any()


def test_small_letters_are_those_that_were_meant():
    image = Image.new("RGB", (16, 5))
    lettering(64).write(ImageDraw.Draw(image), (0, 0), "Lo-1")
    rows = [
        "".join(" #"[int(value > 0)] for value in row)
        for row in np.asarray(image)[..., 0]
    ]
    assert [row.rstrip() for row in rows] == [
        "#    #       #",
        "#   # #     ##",
        "#   # # ###  #",
        "#   # #      #",
        "###  #      ###",
    ]


def test_every_letter_of_caption_and_scale_can_be_drawn_small():
    said = CAPTION.format("NSLN") + AGAINST + FOR + "+-0123456789."
    assert set(said.upper()) - {" "} <= set(GLYPHS)


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
