"""Pixels of one frame, decoded only after their size has been checked."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from dicom_node.attributes import (
    frame_header,
    number,
    read_header,
    readable,
    text,
)
from dicom_node.errors import UnreadableObjectError

MAX_SIDE: Final = 4096
"""Rows, columns and frames that a decoder is ever asked for."""

MAX_PIXEL_BYTES: Final = 256 * 2**20


def read_pixels(path: Path, frame: int) -> NDArray[np.float32]:
    """Decode one frame of an MR image.

    Sizes are checked against the header before a decoder sees a byte: a few bytes
    of a compressed image may ask for gigabytes.

    Args:
        path: A Part 10 file.
        frame: Counts from 1.

    Returns:
        (rows, columns) after the modality LUT, bright where the signal is high
        (MONOCHROME1 is inverted).

    Raises:
        UnreadableObjectError: Damaged, too large, not grey, or not decodable.
        OSError: The file itself cannot be opened or read.
    """
    header = read_header(path)
    with readable("the pixel data"):
        flat = frame_header(header, frame)
        _check_pixels(flat)
        stored = pixel_array(path, index=frame - 1)  # (rows, columns)
        values = apply_modality_lut(stored, flat).astype(np.float32)
        inverted = text(flat, "PhotometricInterpretation") == "MONOCHROME1"
        shape = (number(flat, "Rows"), number(flat, "Columns"))
    if values.shape != shape or not np.isfinite(values).all():
        raise UnreadableObjectError("the pixel data do not fill the image")
    return values.max() + values.min() - values if inverted else values


def _check_pixels(header: Dataset) -> None:
    """Refuse what a decoder should not be asked for.

    Raises:
        UnreadableObjectError: Names the attribute that is out of bounds.
    """
    sizes = {
        "Rows": number(header, "Rows") or 0,
        "Columns": number(header, "Columns") or 0,
        "NumberOfFrames": number(header, "NumberOfFrames") or 1,
    }
    for name, size in sizes.items():
        if not 1 <= size <= MAX_SIDE:
            raise UnreadableObjectError(f"{name} is {size}, not in 1-{MAX_SIDE}")
    samples, bits = number(header, "SamplesPerPixel"), number(header, "BitsAllocated")
    grey = text(header, "PhotometricInterpretation").startswith("MONOCHROME")
    if samples != 1 or not grey:
        raise UnreadableObjectError("the image is not a grey-scale image")
    if bits not in {8, 16}:
        raise UnreadableObjectError(f"BitsAllocated is {bits}, not 8 or 16")
    if int(np.prod(list(sizes.values()))) * bits // 8 > MAX_PIXEL_BYTES:
        raise UnreadableObjectError(
            f"the pixel data would take more than {MAX_PIXEL_BYTES // 2**20} MB"
        )
