import numpy as np
import pytest
import torch

from dicom_node.errors import StudyHeldError
from dicom_node.study import Reason
from worker import preprocess
from worker.manifest import Preprocessing

SPEC = Preprocessing(mean=0.25, sd=0.17)
BOX = (40.3, 30.7, 90.2, 71.0)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.gamma(2.0, 100.0, (1, 1, 16, 16)))
    fine = torch.nn.functional.interpolate(coarse, size=(128, 120), mode="bilinear")
    return fine[0, 0].numpy().astype(np.float32)


def test_a_crop_becomes_three_equal_standardised_channels(image):
    x = preprocess.to_input(image, BOX, SPEC)

    assert x.shape == (3, 64, 64)
    assert x.dtype == torch.float32
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])
    assert x.min() >= (0 - 0.25) / 0.17 - 1e-6
    assert x.max() <= (1 - 0.25) / 0.17 + 1e-6


def test_serving_is_the_training_crop_at_its_centre(image):
    crop = preprocess.to_crop(image, BOX, SPEC)  # what training keeps

    assert crop.shape == (70, 70)
    expected = (crop[3:67, 3:67] - 0.25) / 0.17
    assert torch.equal(preprocess.to_input(image, BOX, SPEC)[0], expected)


def test_a_batch_of_crops_is_treated_as_each_alone(image):
    crops = torch.stack([preprocess.to_crop(image, BOX, SPEC)] * 2)
    batch = preprocess.standardise(preprocess.centre(crops, SPEC), SPEC)

    assert batch.shape == (2, 3, 64, 64)
    assert torch.equal(batch[1], preprocess.to_input(image, BOX, SPEC))


@pytest.mark.parametrize(("gain", "offset"), [(7, 300), (0.01, -5), (1, 60000)])
def test_scanner_gain_and_offset_do_not_matter(image, gain, offset):
    changed = (image * gain + offset).astype(np.float32)

    torch.testing.assert_close(
        preprocess.to_input(changed, BOX, SPEC),
        preprocess.to_input(image, BOX, SPEC),
        atol=1e-3,
        rtol=1e-3,
    )


def test_pixels_outside_the_rectangle_do_not_matter(image):
    changed = image.copy()
    changed[:30], changed[71:], changed[:, :40], changed[:, 91:] = 1e6, 1e6, -1e6, 1e6

    assert torch.equal(
        preprocess.to_input(changed, BOX, SPEC), preprocess.to_input(image, BOX, SPEC)
    )


def test_every_pixel_that_the_rectangle_touches_belongs_to_the_crop():
    assert preprocess.pixel_window(BOX, (128, 120)) == (30, 71, 40, 91)
    assert preprocess.pixel_window((3.0, 4.0, 8.0, 9.0), (128, 120)) == (4, 9, 3, 8)


def test_a_rectangle_over_the_edge_is_clipped():
    window = preprocess.pixel_window((-5.5, 100.0, 20.0, 140.0), (128, 120))

    assert window == (100, 128, 0, 20)


@pytest.mark.parametrize(
    "box", [(120.0, 0.0, 130.0, 9.0), (-9.0, 0.0, 0.0, 9.0), (5.0, 5.0, 5.0, 9.0)]
)
def test_a_rectangle_without_a_pixel_holds_the_study(image, box):
    with pytest.raises(StudyHeldError) as caught:
        preprocess.to_input(image, box, SPEC)
    assert caught.value.reason is Reason.ROI_OUTSIDE_IMAGE


def test_a_rectangle_that_is_not_finite_holds_the_study(image):
    with pytest.raises(StudyHeldError) as caught:
        preprocess.to_input(image, (float("nan"), 0.0, 9.0, 9.0), SPEC)
    assert caught.value.reason is Reason.ROI_UNREADABLE


@pytest.mark.parametrize("level", [0.0, 500.0, float("nan")])
def test_a_crop_without_contrast_holds_the_study(level):
    flat = np.full((128, 120), level, dtype=np.float32)

    with pytest.raises(StudyHeldError) as caught:
        preprocess.to_input(flat, BOX, SPEC)
    assert caught.value.reason is Reason.QUALITY


def test_the_window_cuts_at_its_percentiles():
    ramp = np.arange(100 * 100, dtype=np.float32).reshape(100, 100)
    crop = preprocess.to_crop(ramp, (0.0, 0.0, 100.0, 100.0), SPEC)

    assert crop[0, 0].item() == pytest.approx(0, abs=0.005)
    assert crop[-1, -1].item() == pytest.approx(1, abs=0.005)
    assert crop[35, 35].item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("size", [(1, 4), (3, 2), (5, 70)])
def test_small_and_narrow_rectangles_are_enlarged(image, size):
    height, width = size
    crop = preprocess.to_crop(image, (40.0, 40.0, 40.0 + width, 40.0 + height), SPEC)

    assert crop.shape == (70, 70)
    assert torch.isfinite(crop).all()
