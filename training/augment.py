"""Variation of training crops, a whole batch at a time."""

import math

import torch
from torch.nn import functional

from training.config import Augmentation
from worker.manifest import Preprocessing

MAX_SCALE = 0.12
MAX_SHIFT = 6 / 70  # of half the crop, as `affine_grid` counts
MAX_GAIN, MAX_OFFSET, MAX_LOG_GAMMA = 0.15, 0.05, 0.25


def augment(
    crops: torch.Tensor,
    kind: Augmentation,
    spec: Preprocessing,
    generator: torch.Generator,
) -> torch.Tensor:
    """Vary crops (B, resize, resize) in [0, 1] to (B, size, size).

    `crop` cuts each at a random place. `affine` turns, mirrors, scales, shifts and
    changes tone, as another scanner and another reader would.
    """
    if kind is Augmentation.CROP:
        return _random_crop(crops, spec, generator)
    return _tone(_affine(crops, spec, generator), generator)


def _random_crop(
    crops: torch.Tensor, spec: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    room = spec.resize - spec.size + 1
    corners = torch.randint(room, (len(crops), 2), generator=generator).tolist()
    return torch.stack(
        [
            crop[top : top + spec.size, left : left + spec.size]
            for crop, (top, left) in zip(crops, corners, strict=True)
        ]
    )


def _affine(
    crops: torch.Tensor, spec: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    n = len(crops)
    angle = torch.rand(n, generator=generator) * (2 * math.pi)
    mirror = torch.randint(2, (n,), generator=generator) * 2.0 - 1.0
    scale = 1 + _spread(n, MAX_SCALE, generator)
    scale = scale * (spec.size / spec.resize)  # sample the centre, one pixel per pixel
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = angle.cos() * scale * mirror
    matrix[:, 0, 1] = -angle.sin() * scale
    matrix[:, 1, 0] = angle.sin() * scale * mirror
    matrix[:, 1, 1] = angle.cos() * scale
    matrix[:, 0, 2] = _spread(n, MAX_SHIFT, generator)
    matrix[:, 1, 2] = _spread(n, MAX_SHIFT, generator)
    grid = functional.affine_grid(
        matrix, [n, 1, spec.size, spec.size], align_corners=False
    )
    moved = functional.grid_sample(
        crops[:, None], grid, padding_mode="border", align_corners=False
    )
    return moved[:, 0]  # (B, 1, S, S) -> (B, S, S)


def _tone(crops: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    n = len(crops)
    gamma = torch.exp(_spread(n, MAX_LOG_GAMMA, generator))[:, None, None]
    gain = 1 + _spread(n, MAX_GAIN, generator)[:, None, None]
    offset = _spread(n, MAX_OFFSET, generator)[:, None, None]
    return crops.clamp(0, 1) ** gamma * gain + offset


def _spread(n: int, width: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(n, generator=generator) * 2 - 1) * width
