"""The quality gate: each check at its limit, then on real breast MRI and phantoms."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_node.dynamic import before_contrast
from dicom_node.errors import StudyHeldError
from dicom_node.findings import Carrier, Laterality, Roi, Selection
from dicom_node.images import MrImage, read_pixels, read_study
from dicom_node.kinds import catalogue
from dicom_node.study import Reason
from tests import dicom_objects
from training.config import DEMO, DEMO_STAGE_TWO
from training.phantom.anatomy import Level
from training.phantom.crops import subjects
from training.phantom.law import COHORTS, draw
from training.phantom.render import (
    Phase,
    View,
    marked_part,
    render_slice,
    whole_slice,
)
from worker import gate, quality
from worker.manifest import FeatureGate, SizeRange
from worker.preprocess import pixel_window
from worker.quality import Check, Marked

SIZES = SizeRange(shortest=12.0, longest=80.0, tolerance=1.25)
HEADER = MrImage(
    sop_instance_uid="1.2.3",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
    series_uid="1.2.4",
    study_uid="1.2.5",
    path=Path("none"),
    frame=1,
    rows=100,
    columns=100,
    spacing=(1.0, 1.0),
    position=(0.0, 0.0, 0.0),
    orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
)
IMAGE = np.random.default_rng(3).integers(0, 1000, (100, 100)).astype(np.float32)
INSIDE = (slice(40, 60), slice(40, 60))


def marked(image=IMAGE, before=None, sides=(20.0, 20.0), where=INSIDE, **header):
    return Marked(
        header=replace(HEADER, **header),
        sides_mm=sides,
        image=image,
        crop=image[where],
        before=before,
        crop_before=None if before is None else before[where],
    )


def checks(one: Marked, *, after_contrast=True, sizes=SIZES) -> set[Check]:
    found = quality.judge(one, after_contrast=after_contrast, sizes=sizes)
    assert all(str(fault).startswith(f"{fault.check}: ") for fault in found)
    return {fault.check for fault in found}


def test_a_good_crop_passes():
    assert checks(marked(before=IMAGE / 2)) == set()


@pytest.mark.parametrize(("levels", "held"), [(1, True), (9, True), (10, False)])
def test_a_crop_of_few_grey_levels_is_constant(levels, held):
    image = IMAGE.copy()
    image[INSIDE] = 500 + 40 * (np.arange(400).reshape(20, 20) % levels)
    assert (Check.CONSTANT in checks(marked(image))) is held


@pytest.mark.parametrize(("span", "held"), [(40, True), (60, False)])
def test_a_crop_that_spans_little_of_the_image_is_constant(span, held):
    image = IMAGE.copy()  # its own span is 985
    image[INSIDE] = 700 + np.linspace(0, span, 400).reshape(20, 20)
    assert checks(marked(image)) == ({Check.CONSTANT} if held else set())


@pytest.mark.parametrize(("at_the_top", "held"), [(20, False), (21, True)])
def test_a_crop_with_many_pixels_at_the_maximum_is_saturated(at_the_top, held):
    image = IMAGE.copy()
    crop = np.linspace(100, 900, 400)
    crop[-at_the_top:] = 1000
    image[INSIDE] = crop.reshape(20, 20)
    assert checks(marked(image)) == ({Check.SATURATED} if held else set())


@pytest.mark.parametrize("offset", [0.0, -1000.0, 5000.0])
@pytest.mark.parametrize(("bright", "held"), [(340, True), (420, False)])
def test_a_dark_crop_shows_no_tissue_whatever_the_offset(bright, held, offset):
    image = IMAGE.copy()
    image[INSIDE] = np.linspace(0, bright, 400).reshape(20, 20)
    found = checks(marked((image + offset).astype(np.float32)))
    assert found == ({Check.SIGNAL} if held else set())


@pytest.mark.parametrize(
    ("gain", "held"), [(0.8, True), (1.0, True), (1.04, True), (1.06, False)]
)
def test_a_crop_that_is_no_brighter_than_before_contrast_is_held(gain, held):
    after = (IMAGE * gain).astype(np.float32)
    assert checks(marked(after, IMAGE)) == ({Check.CONTRAST} if held else set())
    assert checks(marked(after, IMAGE), after_contrast=False) == set()


def test_a_small_lesion_in_bright_fat_is_enough():
    before = np.full((100, 100), 800, np.float32) + IMAGE / 10
    after = before.copy()
    after[48:52, 48:52] += 600  # 4% of the crop, +3% of its mean
    assert checks(marked(after, before)) == set()


@pytest.mark.parametrize(
    ("description", "held"),
    [
        ("t1_fl3d_tra_pre", True),
        ("AX T1 NATIV", True),
        ("t1_fl3d_dyn_pre+5post", False),
        ("t1_fl3d_tra_dynaVIEWS_spair_1+5", False),
        ("", False),
    ],
)
def test_a_lone_series_that_calls_itself_one_before_contrast_is_held(description, held):
    found = checks(marked(description=description))
    assert found == ({Check.CONTRAST} if held else set())


@pytest.mark.parametrize(
    ("sides", "held"),
    [
        ((9.59, 20.0), True),
        ((20.0, 9.59), True),
        ((9.6, 100.0), False),
        ((100.1, 20.0), True),
    ],
)
def test_a_side_outside_the_range_of_training_is_held(sides, held):
    assert checks(marked(sides=sides)) == ({Check.SIZE} if held else set())
    assert checks(marked(sides=sides), sizes=None) == set()


def test_an_image_without_a_usable_orientation_is_held():
    assert checks(marked(orientation=None)) == {Check.ORIENTATION}


@pytest.mark.parametrize(
    ("spacing", "held"),
    [
        (None, True),
        ((0.09, 1.0), True),
        ((0.1, 5.0), False),
        ((1.0, 5.1), True),
    ],
)
def test_pixels_of_an_absurd_size_are_held(spacing, held):
    found = checks(marked(spacing=spacing))
    assert found == ({Check.SPACING} if held else set())


@pytest.mark.parametrize(
    ("away", "held"), [(1.5, False), (1.51, True), (float("nan"), True), (None, False)]
)
def test_features_far_from_training_are_held(away, held):
    limit = FeatureGate(enabled=True, reason="test", limit=1.5, n=10)
    assert bool(quality.judge_features(away, limit)) is held


def test_a_gate_that_is_switched_off_lets_every_feature_pass():
    off = FeatureGate(enabled=False, reason="test", limit=1.5, n=10)
    assert quality.judge_features(99.0, off) == ()
    assert quality.judge_features(99.0, None) == ()


def test_a_typical_case_is_at_distance_one():
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=(5000, 6)) @ rng.normal(size=(6, 6)) + 3
    covariance = np.cov(mixed.T)
    values, axes = np.linalg.eigh(covariance)
    whitening = (axes / np.sqrt(values)) @ axes.T
    away = [quality.distance(one, mixed.mean(0), whitening) for one in mixed]
    assert np.sqrt(np.mean(np.square(away))) == pytest.approx(1, abs=0.01)


CHOSEN = Selection(
    roi=Roi("1.2.3", 1, 1, 2, 3, 4, Carrier.SR, "1.2.9"),
    sop_instance_uid="1.2.3",
    frame=1,
    path=Path("none"),
    phase="post-contrast 1",
    laterality=Laterality.RIGHT,
    laterality_derived=False,
    area_mm2=1.0,
    candidates=1,
    why=("Because.",),
)
FAULTS = (quality.Fault(Check.SIZE, "too small"), quality.Fault(Check.SIGNAL, "air"))


def test_a_fault_holds_its_side_by_name():
    with pytest.raises(StudyHeldError) as caught:
        gate.settle(CHOSEN, FAULTS, (), accepted=False)
    assert caught.value.reason is Reason.QUALITY
    assert caught.value.detail == (
        "Side R, quality gate: size: too small; signal: air."
    )


def test_what_is_overruled_stands_among_the_reasons():
    let_pass = gate.settle(CHOSEN, FAULTS, (), accepted=True)
    assert let_pass.why == (
        "Because.",
        "Quality gate, overruled by a person: size: too small.",
        "Quality gate, overruled by a person: signal: air.",
    )
    standing = gate.settle(CHOSEN, (), FAULTS, accepted=False)
    assert "the numbers stand" in standing.why[1]


BOX = (222.0, 96.0, 252.0, 122.0)
FIRST_POST, BEFORE = "009-t1", "008-t1"


def cut(image, box):
    top, bottom, left, right = pixel_window(box, image.shape)
    return image[top:bottom, left:right]


def of(image: MrImage, box, before: MrImage | None) -> Marked:
    pixels = read_pixels(image.path, image.frame)
    rest = None if before is None else read_pixels(before.path, before.frame)
    between_rows, between_columns = image.spacing
    return Marked(
        header=image,
        sides_mm=(
            (box[2] - box[0]) * between_columns,
            (box[3] - box[1]) * between_rows,
        ),
        image=pixels,
        crop=cut(pixels, box),
        before=rest,
        crop_before=None if rest is None else cut(rest, box),
    )


@pytest.fixture(scope="module")
def dynamic(real_data):
    folder = real_data / "breast-dce-mri/multiphase-study-d1f3d33d"
    return read_study(dicom_objects.stored_folder(folder)).images


def of_series(images, number):
    found = [one for one in images if one.series_number == number]
    return sorted(found, key=lambda one: one.position[2])


def test_the_stated_rectangle_passes_on_every_slice_and_phase(dynamic):
    margins = []
    for number in (9, 13, 15, 17, 19):
        for image in of_series(dynamic, number):
            before = before_contrast(image, catalogue(dynamic))
            assert before.series_number == 8
            one = of(image, BOX, before)
            assert checks(one) == set()
            floor = float(np.percentile(one.before, 1))
            margins.append(quality.enhancement(one.crop, one.crop_before, floor))
    assert min(margins) > 2 * quality.MIN_ENHANCEMENT


def test_pixels_from_before_contrast_do_not_pass_for_later_ones(dynamic):
    for early, late in zip(of_series(dynamic, 8), of_series(dynamic, 9), strict=True):
        assert checks(of(early, BOX, early)) == {Check.CONTRAST}
        assert checks(of(early, BOX, late)) == {Check.CONTRAST}  # exchanged


@pytest.mark.parametrize(
    "box",
    [
        (20.0, 10.0, 50.0, 40.0),
        (170.0, 20.0, 190.0, 40.0),
        (165.0, 90.0, 190.0, 110.0),
        (260.0, 120.0, 280.0, 140.0),
    ],
    ids=["air", "air in front", "between the breasts", "suppressed fat"],
)
@pytest.mark.parametrize("compared", [True, False])
def test_air_and_dark_fat_are_held(dynamic, box, compared):
    image = of_series(dynamic, 9)[4]
    before = before_contrast(image, catalogue(dynamic)) if compared else None
    assert checks(of(image, box, before)) & {Check.CONSTANT, Check.SIGNAL}


def test_annotated_lesions_pass(real_data):
    folder = real_data / "breast-dce-mri"
    with (folder / "contours.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    sides = []
    for row in rows:
        box = tuple(float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        path = folder / row["file"]
        (stored,) = [
            one for one in dicom_objects.stored_folder(path.parent) if one.path == path
        ]
        (image,) = read_study([stored]).images
        one = of(image, box, None)
        assert checks(one, sizes=None) == set(), row["file"]
        sides.append(one.sides_mm)
    assert len(sides) == 13
    for shortest, recipe in ((13.0, DEMO), (15.6, DEMO_STAGE_TWO)):  # as trained
        demo = SizeRange(
            shortest=shortest, longest=91.6, tolerance=recipe.side_tolerance
        )
        assert all(quality.judge_size(one, demo) == () for one in sides)


@pytest.mark.parametrize("law", COHORTS, ids=lambda law: law.name)
def test_phantoms_pass_after_contrast_and_not_before(law):
    for subject in subjects(draw(law, 6, 4), 4, Level.BENCH):
        scene, whole = marked_part(subject), whole_slice(subject)
        early, late = (
            render_slice(whole, scene, View(phase)).astype(np.float32)
            for phase in (Phase.PRE, Phase.POST_1)
        )
        one = Marked(
            HEADER,
            (20.0, 20.0),
            late,
            cut(late, scene.box),
            early,
            cut(early, scene.box),
        )
        assert checks(one) == set()
        swapped = replace(
            one, image=early, crop=one.crop_before, before=late, crop_before=one.crop
        )
        assert Check.CONTRAST in checks(swapped)
