"""Pixels of one frame, decoded only after its size has been checked.

header -> sizes -> bytes of one frame -> what its codestream claims -> decoder
       -> the stored bits of each sample -> modality LUT -> bright where signal is high
"""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node import codestream, complaints, memory, stored
from dicom_node.attributes import (
    frame_header,
    number,
    pixels_begin,
    read_header,
    readable,
    real,
    text,
)
from dicom_node.codestream import COMPRESSED, UNCOMPRESSED, Stated
from dicom_node.errors import UnreadableObjectError
from dicom_node.stored import Encoding

MAX_SIDE: Final = 4096
"""Rows and columns that a decoder is ever asked for."""

MAX_FRAMES: Final = 10_000
MAX_PIXEL_BYTES: Final = 4 * 2**30
"""Of all frames together; only one is ever decoded, at most 32 MB."""

DECODER_BYTES: Final = 512 * 2**20
DECODER_FACTOR: Final = 16
"""What a decoder may allocate: this, and so many times the frame itself."""

NATIVE: Final = (*UNCOMPRESSED, ExplicitVRBigEndian)


def read_pixels(
    path: Path, frame: int, header: Dataset | None = None
) -> NDArray[np.float32]:
    """Decode one frame of an MR image.

    Sizes are checked against the header and against what the compressed frame says
    of itself before a decoder sees a byte. Other frames are not read.

    Args:
        path: A Part 10 file.
        frame: Counts from 1.
        header: Its header from `read_header`, when the caller has it already.

    Returns:
        (rows, columns) after the modality LUT, bright where the signal is high
        (MONOCHROME1 is inverted).

    Raises:
        UnreadableObjectError: Damaged, cut off, too large, not grey, compressed with
            loss, or not decodable.
        OSError: The file itself cannot be opened or read.
    """
    header = read_header(path) if header is None else header
    with readable("the pixel data"):
        flat = frame_header(header, frame)
        check_sizes(flat)
        samples = _samples(path, frame, flat, pixels_begin(header))
        values = _rescaled(samples, flat).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableObjectError("the rescaled pixels are not finite")
    inverted = text(flat, "PhotometricInterpretation") == "MONOCHROME1"
    return values.max() + values.min() - values if inverted else values


def read_samples(
    path: Path, frame: int, header: Dataset | None = None
) -> NDArray[np.int64]:
    """Decode the stored values of one frame, before the modality LUT.

    Args and errors are those of `read_pixels`; values keep their sign.
    """
    header = read_header(path) if header is None else header
    with readable("the pixel data"):
        flat = frame_header(header, frame)
        check_sizes(flat)
        return _samples(path, frame, flat, pixels_begin(header))


def check_sizes(header: Dataset) -> None:
    """Refuse what a decoder should not be asked for.

    Raises:
        UnreadableObjectError: Names the attribute that is out of bounds.
    """
    sizes = {
        "Rows": (number(header, "Rows") or 0, MAX_SIDE),
        "Columns": (number(header, "Columns") or 0, MAX_SIDE),
        "NumberOfFrames": (_frames(header), MAX_FRAMES),
    }
    for name, (size, limit) in sizes.items():
        if not 1 <= size <= limit:
            said = size or "absent or 0"
            raise UnreadableObjectError(f"{name} is {said}, not in 1-{limit}")
    samples, bits = number(header, "SamplesPerPixel"), number(header, "BitsAllocated")
    if not text(header, "PhotometricInterpretation").startswith("MONOCHROME"):
        raise UnreadableObjectError("the image is not a grey-scale image")
    if samples != 1:
        said = samples or "absent"
        raise UnreadableObjectError(f"SamplesPerPixel is {said}, not 1")
    if bits not in {8, 16}:
        raise UnreadableObjectError(f"BitsAllocated is {bits or 0}, not 8 or 16")
    if int(np.prod([size for size, _ in sizes.values()])) * bits // 8 > MAX_PIXEL_BYTES:
        raise UnreadableObjectError(
            f"the pixel data would take more than {MAX_PIXEL_BYTES // 2**20} MB"
        )


def _frames(header: Dataset) -> int:
    count = number(header, "NumberOfFrames")
    return 1 if count is None else count


def _samples(path: Path, frame: int, header: Dataset, start: int) -> NDArray[np.int64]:
    """Return the stored values (rows, columns), signed as the header says."""
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    encoding = Encoding(
        implicit=syntax == ImplicitVRLittleEndian,
        order=">" if syntax == ExplicitVRBigEndian else "<",
    )
    frames, shape = _frames(header), _shape(header)
    size = shape[0] * shape[1] * (number(header, "BitsAllocated") or 0) // 8
    with path.open("rb") as file:
        file.seek(start)
        if syntax in NATIVE:
            content = stored.native_frame(file, encoding, frame, frames, size)
            return _extract(_native(content, header, encoding.order), header, None)
        if syntax not in COMPRESSED:
            raise UnreadableObjectError(
                f"its transfer syntax {syntax or '(none)'} is not a lossless one that "
                "is accepted"
            )
        table = header.get("ExtendedOffsetTable") or b""
        offsets = np.frombuffer(table, "<u8").tolist()
        content = stored.compressed_frame(file, encoding, frame, frames, offsets)
    stated = codestream.inspect(content, syntax, size // (shape[0] * shape[1]))
    _check_agreement(stated, header)
    return _extract(_decoded(content, syntax, header, stated), header, stated)


def _shape(header: Dataset) -> tuple[int, int]:
    return number(header, "Rows") or 0, number(header, "Columns") or 0


def _native(content: bytes, header: Dataset, order: str) -> NDArray[np.int64]:
    width = (number(header, "BitsAllocated") or 0) // 8
    if width == 1 and order == ">":
        raise UnreadableObjectError("8-bit pixels in Big Endian order are not accepted")
    values = np.frombuffer(content, f"{order}u{width}")
    return values.reshape(_shape(header)).astype(np.int64)


def _check_agreement(stated: Stated | None, header: Dataset) -> None:
    """Compare what a compressed frame states with the header.

    Raises:
        UnreadableObjectError: They differ: one of the two is wrong.
    """
    if stated is None:
        return
    rows, columns = _shape(header)
    if (stated.rows, stated.columns) != (rows, columns):
        raise UnreadableObjectError(
            f"the compressed frame is {stated.rows} x {stated.columns}, the header "
            f"states {rows} x {columns}"
        )
    allocated = number(header, "BitsAllocated") or 0
    if stated.samples != 1 or not 1 < stated.bits <= allocated:
        raise UnreadableObjectError(
            f"the compressed frame has {stated.samples} x {stated.bits} bits, the "
            f"header allocates {allocated}"
        )


def _decoded(
    content: bytes, syntax: str, header: Dataset, stated: Stated | None
) -> NDArray[np.int64]:
    """Let a decoder work on one frame, within bounds of memory."""
    rows, columns = _shape(header)
    bits = stated.bits if stated else number(header, "BitsAllocated") or 0
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 8 * math.ceil(bits / 8),
        "bits_stored": bits,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,  # `_extract` does, for every syntax alike
        "apply_j2k_sign_correction": False,
        "apply_jls_sign_correction": False,
    }
    room = DECODER_BYTES + DECODER_FACTOR * rows * columns * 2
    with memory.bounded(room), complaints.heeded():
        values, _ = get_decoder(syntax).as_array(
            encapsulate([content], has_bot=False), index=0, raw=True, **options
        )
    if values.shape != (rows, columns):
        raise UnreadableObjectError("the pixel data do not fill the image")
    return values.astype(np.int64)


def _extract(
    values: NDArray[np.int64], header: Dataset, stated: Stated | None
) -> NDArray[np.int64]:
    """Take BitsStored bits below HighBit out of each value, and give them a sign.

    What lies above or below (old overlays, padding) is not the image's. A codec
    that carries just the stored bits has shifted them down already.
    """
    stored_bits = number(header, "BitsStored") or number(header, "BitsAllocated") or 0
    high = number(header, "HighBit")
    high = stored_bits - 1 if high is None else high
    signed = number(header, "PixelRepresentation")
    allocated = number(header, "BitsAllocated") or 0
    if not 1 <= stored_bits <= high + 1 <= allocated or signed not in {0, 1}:
        raise UnreadableObjectError(
            f"BitsStored {stored_bits}, HighBit {high} and PixelRepresentation "
            f"{signed} do not describe pixels of {allocated} bits"
        )
    if stated is None or stated.bits > high:
        values = values >> (high + 1 - stored_bits)
    values = values & ((1 << stored_bits) - 1)
    if not signed:
        return values
    sign = 1 << (stored_bits - 1)
    return (values ^ sign) - sign


def _rescaled(samples: NDArray[np.int64], header: Dataset) -> NDArray[np.floating]:
    """Apply the modality LUT: a table, or slope and intercept.

    Raises:
        UnreadableObjectError: Slope or intercept is there and is no number.
    """
    if header.get("ModalityLUTSequence"):
        return apply_modality_lut(samples, header).astype(np.float64)
    line = []
    for keyword, absent in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        value = real(header, keyword)
        if value is None and text(header, keyword):
            raise UnreadableObjectError(f"{keyword} is not a number")
        line.append(absent if value is None else value)
    return samples * line[0] + line[1]
