"""Frames of a segmentation, decoded one by one after their sizes were checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.attributes import number, real, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.memory import bounded
from dicom_node.pixels import MAX_SIDE

MAX_FRAMES: Final = 4 * MAX_SIDE
MAX_PIXELS: Final = 2**30
"""Pixels of all frames together; each takes its time."""

MAX_DECODED_BYTES: Final = 2**28
"""What compressed frames may become, all together."""

DECODER_BYTES: Final = 2**29
"""What a decoder may allocate: a compressed frame may claim other sizes."""

HALF: Final = 0.5
"""Part of the highest fraction from which a pixel belongs to a segment."""

LABELMAP: Final = "LABELMAP"
FRACTIONAL: Final = "FRACTIONAL"
BINARY: Final = "BINARY"
ONE_BIT: Final = 1
BITS: Final = {BINARY: {1, 8}, FRACTIONAL: {8}, LABELMAP: {8, 16}}


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a segmentation that were checked.

    A pixel belongs to the segment of its frame from `threshold` on; in a label map
    its value is the number of its segment, and `threshold` is not used.
    """

    kind: str
    rows: int
    columns: int
    frames: int
    bits: int
    threshold: float


def layout(document: Dataset) -> Layout:
    """Return the sizes of a segmentation.

    Raises:
        UnreadableObjectError: Out of bounds, or of an unknown kind.
    """
    kind = text(document, "SegmentationType")
    bits = number(document, "BitsAllocated") or 0
    if bits not in BITS.get(kind, ()):
        raise UnreadableObjectError(
            f"the segmentation is of type {kind or 'unknown'} in {bits} bits, not "
            "BINARY, FRACTIONAL or LABELMAP"
        )
    rows, columns = (number(document, one) or 0 for one in ("Rows", "Columns"))
    frames = number(document, "NumberOfFrames") or 1
    too_many = rows * columns * frames > MAX_PIXELS
    sides = 1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE
    if not sides or not 1 <= frames <= MAX_FRAMES or too_many:
        raise UnreadableObjectError(
            f"the segmentation claims {frames} frames of {columns} x {rows} pixels"
        )
    threshold = 1.0
    if kind == FRACTIONAL:
        threshold = HALF * (real(document, "MaximumFractionalValue") or 2**bits - 1)
    return Layout(kind, rows, columns, frames, bits, threshold)


def frames(document: Dataset, size: Layout) -> Iterator[NDArray[np.integer]]:
    """Yield each frame (rows, columns) as it is stored.

    Args:
        document: With its pixel data, or read from a file up to them.
        size: Of this document.

    Raises:
        UnreadableObjectError: The pixel data are missing, or not as long as claimed.
    """
    with_pixels = _with_pixels(document)
    if with_pixels["PixelData"].is_undefined_length or _is_encapsulated(document):
        yield from _decoded(document, with_pixels, size)
        return
    data = np.frombuffer(with_pixels.PixelData, dtype=np.uint8)
    cut = _bits if size.bits == ONE_BIT else _words
    for frame in range(size.frames):
        yield cut(data, size, frame).reshape(size.rows, size.columns)


def _with_pixels(document: Dataset) -> Dataset:
    """Return a data set with pixel data, from the file where they were left."""
    path = getattr(document, "filename", None)
    if "PixelData" not in document and path:
        document = dcmread(path, specific_tags=["PixelData"])
    if "PixelData" not in document:
        raise UnreadableObjectError("the segmentation holds no pixel data")
    return document


def _is_encapsulated(document: Dataset) -> bool:
    meta = getattr(document, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta else None
    return bool((syntax or ImplicitVRLittleEndian).is_compressed)


def _decoded(
    document: Dataset, with_pixels: Dataset, size: Layout
) -> Iterator[NDArray[np.integer]]:
    if size.rows * size.columns * size.frames * size.bits // 8 > MAX_DECODED_BYTES:
        raise UnreadableObjectError(
            f"the segmentation would take more than {MAX_DECODED_BYTES // 2**20} MB"
        )
    source = document if "PixelData" in document else with_pixels.filename
    frames = iter_pixels(source, raw=True)
    for _ in range(size.frames):
        with bounded(DECODER_BYTES):
            frame = next(frames)
        if frame.shape != (size.rows, size.columns):
            raise UnreadableObjectError("a frame is not of the size that it claims")
        yield frame


def _bits(data: NDArray[np.uint8], size: Layout, frame: int) -> NDArray[np.uint8]:
    """Unpack one frame of single bits; frames follow without a gap (PS3.5 8.1.1).

    Some writers begin each frame at a byte of its own; the length tells them apart.
    """
    pixels = size.rows * size.columns
    packed = -(-pixels * size.frames // 8)
    aligned = -(-pixels // 8) * size.frames
    is_packed = len(data) - packed in {0, 1}
    if not is_packed and len(data) - aligned not in {0, 1}:
        raise UnreadableObjectError(_wrong_length(len(data), packed))
    first = pixels * frame if is_packed else aligned // size.frames * 8 * frame
    piece = data[first // 8 : -(-(first + pixels) // 8)]
    bits = np.unpackbits(piece, bitorder="little")
    return bits[first % 8 : first % 8 + pixels]


def _words(data: NDArray[np.uint8], size: Layout, frame: int) -> NDArray[np.integer]:
    length = size.rows * size.columns * size.bits // 8
    if len(data) - length * size.frames not in {0, 1}:
        raise UnreadableObjectError(_wrong_length(len(data), length * size.frames))
    piece = data[length * frame : length * (frame + 1)]
    return piece.view("<u2") if size.bits > 8 else piece  # noqa: PLR2004 - bits of a byte


def _wrong_length(found: int, claimed: int) -> str:
    return f"the segmentation holds {found} bytes of pixels where it claims {claimed}"
