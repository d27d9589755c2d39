import pytest
import torch

from training.augment import augment
from training.config import Augmentation
from training.datasets import CROP


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def crops():
    return torch.rand(16, 70, 70, generator=generator(3))


@pytest.mark.parametrize("kind", list(Augmentation))
def test_the_same_generator_gives_the_same_variation(crops, kind):
    first = augment(crops, kind, CROP, generator(1))

    assert first.shape == (16, 64, 64)
    assert torch.equal(first, augment(crops, kind, CROP, generator(1)))
    assert not torch.equal(first, augment(crops, kind, CROP, generator(2)))


def test_a_random_crop_is_a_part_of_the_crop(crops):
    varied = augment(crops, Augmentation.CROP, CROP, generator())
    for whole, part in zip(crops, varied, strict=True):
        places = whole.unfold(0, 64, 1).unfold(1, 64, 1)  # (7, 7, 64, 64)
        assert (places == part).all(dim=(2, 3)).sum() == 1


def test_an_affine_variation_keeps_the_middle_in_the_middle():
    crops = torch.zeros(64, 70, 70)
    crops[:, 31:39, 31:39] = 1
    varied = augment(crops, Augmentation.AFFINE, CROP, generator())
    bright = (varied > varied.amax(dim=(1, 2), keepdim=True) / 2).float()
    at = torch.arange(64) + 0.5
    rows = (bright.sum(dim=2) * at).sum(dim=1) / bright.sum(dim=(1, 2))

    assert (rows - 32).abs().max() < 5
    assert (rows - 32).mean().abs() < 1
