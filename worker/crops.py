"""The pixels that the networks saw, so that a result can be computed again.

A crop is what `worker.preprocess` takes of a slice: the pixels that the rectangle
touches, after the modality LUT, unwindowed. From a crop the network's input follows
bit by bit, whatever the model's preprocessing is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dicom_node.errors import UnreadableObjectError
from worker.preprocess import Box, pixel_window


@dataclass(frozen=True, slots=True)
class Crop:
    """Part of a slice: `pixels` (h, w) float32, and the rectangle on its grid."""

    pixels: NDArray[np.float32]
    box: Box


def cut(image: NDArray[np.float32], box: Box) -> Crop:
    """Take the pixels that a rectangle touches.

    Args:
        image: (rows, columns) after the modality LUT.
        box: (x0, y0, x1, y1) in continuous pixels of the image.

    Returns:
        A crop that `preprocess.to_input` turns into the same bits as the image: a
        whole number is taken from the edges, which is exact.

    Raises:
        StudyHeldError: Nothing of the rectangle lies in the image.
    """
    rows, columns = image.shape
    top, bottom, left, right = pixel_window(box, (rows, columns))
    x0, y0, x1, y1 = box
    return Crop(
        pixels=np.ascontiguousarray(image[top:bottom, left:right]),
        box=(x0 - left, y0 - top, x1 - left, y1 - top),
    )


def encode(crop: Crop) -> bytes:
    """Write a crop as safetensors: lossless, and equal crops as equal bytes."""
    return save({"pixels": crop.pixels, "box": np.array(crop.box, dtype=np.float64)})


def decode(content: bytes) -> Crop:
    """Read what `encode` wrote.

    Raises:
        UnreadableObjectError: The bytes are not a crop.
    """
    try:
        tensors = load(content)
        x0, y0, x1, y1 = tensors["box"].tolist()
        pixels = tensors["pixels"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError("the stored crop cannot be read") from error
    if pixels.dtype != np.float32 or pixels.ndim != 2:  # noqa: PLR2004 - an image
        raise UnreadableObjectError("the stored crop is not an image of float32")
    return Crop(pixels, (x0, y0, x1, y1))
