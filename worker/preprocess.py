"""From a slice and a rectangle to the network's input, for training and serving.

image (rows, columns) -> crop -> window to [0, 1] -> 70x70 `to_crop`
                      -> centre 64x64            `centre`   (random in training)
                      -> z-score, three channels `standardise`
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dicom_node.errors import StudyHeldError
from dicom_node.study import Reason
from worker.manifest import Preprocessing

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in continuous pixels; (0, 0) is the image's outer corner."""


class PixelWindow(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of an image."""

    top: int
    bottom: int
    left: int
    right: int


def pixel_window(box: Box, shape: tuple[int, int]) -> PixelWindow:
    """Return the pixels that a rectangle touches, clipped to the image.

    Args:
        box: (x0, y0, x1, y1) in continuous pixels.
        shape: (rows, columns) of the image.

    Raises:
        StudyHeldError: Nothing of the rectangle lies in the image.
    """
    if not all(math.isfinite(edge) for edge in box):
        raise StudyHeldError(Reason.ROI_UNREADABLE, "the rectangle is not finite")
    x0, y0, x1, y1 = box
    rows, columns = shape
    window = PixelWindow(
        top=max(math.floor(y0), 0),
        bottom=min(math.ceil(y1), rows),
        left=max(math.floor(x0), 0),
        right=min(math.ceil(x1), columns),
    )
    if window.top >= window.bottom or window.left >= window.right:
        raise StudyHeldError(
            Reason.ROI_OUTSIDE_IMAGE,
            f"the rectangle covers no pixel of an image of {rows} x {columns}",
        )
    return window


def to_crop(image: NDArray[np.float32], box: Box, spec: Preprocessing) -> torch.Tensor:
    """Crop an image to its rectangle, window it and resize it.

    Args:
        image: (rows, columns) after the modality LUT, any unit; gain and offset
            do not matter.
        box: (x0, y0, x1, y1) in continuous pixels of the image.
        spec: The model's preprocessing; `mean` and `sd` are not used here.

    Returns:
        (resize, resize) float32 in [0, 1].

    Raises:
        StudyHeldError: The rectangle lies outside, or the crop has no contrast.
    """
    rows, columns = image.shape
    top, bottom, left, right = pixel_window(box, (rows, columns))
    crop = image[top:bottom, left:right].astype(np.float64)  # large offsets keep bits
    low, high = np.percentile(crop, spec.window_percentiles)
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        raise StudyHeldError(
            Reason.QUALITY,
            "The marked pixels have no contrast: there is nothing to score.",
        )
    windowed = np.clip((crop - low) / (high - low), 0, 1).astype(np.float32)
    resized = functional.interpolate(
        torch.from_numpy(windowed)[None, None],  # (h, w) -> (1, 1, h, w)
        size=(spec.resize, spec.resize),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return resized[0, 0].clamp(0, 1)  # (1, 1, R, R) -> (R, R)


def margin(spec: Preprocessing) -> int:
    """Return the pixels that the centre crop leaves on each side: 3 of 70."""
    return (spec.resize - spec.size) // 2


def centre(crop: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    """Take the centre (..., size, size) of crops (..., resize, resize)."""
    edge = margin(spec)
    return crop[..., edge : edge + spec.size, edge : edge + spec.size]


def standardise(crop: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    """Turn crops (..., size, size) in [0, 1] into inputs (..., 3, size, size).

    The three channels are equal: ResNet18 wants RGB, a DCE slice is grey.
    """
    x = (crop - spec.mean) / spec.sd
    channels = [-1] * (x.dim() - 2) + [spec.channels, -1, -1]
    return x.unsqueeze(-3).expand(*channels)  # (..., S, S) -> (..., 3, S, S)


def to_input(image: NDArray[np.float32], box: Box, spec: Preprocessing) -> torch.Tensor:
    """Prepare the marked part of a slice for the network, as it is served.

    Args:
        image: (rows, columns) after the modality LUT, any unit.
        box: (x0, y0, x1, y1) in continuous pixels of the image.
        spec: The model's preprocessing.

    Returns:
        (3, size, size) float32.

    Raises:
        StudyHeldError: The rectangle lies outside, or the crop has no contrast.
    """
    return standardise(centre(to_crop(image, box, spec), spec), spec)
