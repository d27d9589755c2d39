"""What a compressed frame says of itself, read before a decoder allocates for it.

A decoder believes the codestream, not the DICOM header: a few bytes may ask it for
gigabytes. So size, depth and number of parts are read here and compared first.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final

from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import UnreadableObjectError

UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
COMPRESSED: Final = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
    HTJ2KLossless,
)
"""Without loss; nothing else is received or decoded."""

JPEG_FRAMES: Final = {JPEGLossless: 0xC3, JPEGLosslessSV1: 0xC3, JPEGLSLossless: 0xF7}
"""The start-of-frame marker of each lossless JPEG: SOF3, and SOF55 of JPEG-LS."""

WAVELETS: Final = (JPEG2000Lossless, HTJ2KLossless)
START_OF_SCAN: Final = 0xDA
END: Final = b"\xff\xd9"
STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a length: TEM, RST0-7, SOI."""

MARKER, FILL = 0xFF, 0xFF
COD, COC, SOT = 0x52, 0x53, 0x90
MAX_TILES: Final = 1 << 10
MAX_PRECINCTS: Final = 1 << 16
"""Parts of an image that a JPEG 2000 decoder is asked to set up, at most."""

MAX_LEVELS: Final = 32
RLE_HEADER: Final = 64


@dataclass(frozen=True, slots=True)
class Stated:
    """Size and depth as a codestream states them; `bits` of one sample."""

    rows: int
    columns: int
    samples: int
    bits: int


def inspect(frame: bytes, transfer_syntax: str, stored_bytes: int) -> Stated | None:
    """Read what one compressed frame claims to be.

    Args:
        frame: The frame's bytes without encapsulation.
        transfer_syntax: A lossless, compressed one that is accepted.
        stored_bytes: Bytes of one sample by the DICOM header, 1 or 2.

    Returns:
        None for RLE, which states no size.

    Raises:
        UnreadableObjectError: Cut off, lossy, or nothing for a decoder.
    """
    try:
        if transfer_syntax in JPEG_FRAMES:
            return _jpeg(frame, JPEG_FRAMES[UID(transfer_syntax)])
        if transfer_syntax in WAVELETS:
            return _wavelet(frame)
        if transfer_syntax == RLELossless:
            _check_run_lengths(frame, stored_bytes)
            return None
    except (IndexError, struct.error):
        raise UnreadableObjectError("the compressed pixels are cut off") from None
    raise UnreadableObjectError("the compression is not one of the lossless ones")


def _jpeg(frame: bytes, wanted: int) -> Stated:
    """Read the segments up to the first scan; the rest is compressed samples."""
    stated = None
    for marker, at, length in _segments(frame):  # noqa: B007 - used behind the loop
        if marker == wanted:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at)
            stated = Stated(rows, columns, samples, bits)
        if marker == START_OF_SCAN:
            break
    if stated is None:
        raise UnreadableObjectError("the compressed pixels are no lossless JPEG")
    if wanted == JPEG_FRAMES[JPEGLSLossless] and frame[at + length - 3]:  # NEAR
        raise UnreadableObjectError("the image is compressed with loss")
    if frame.rfind(END) < at:
        raise UnreadableObjectError("the compressed pixels are cut off")
    return stated


def _segments(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, place and length of each JPEG segment's content."""
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while True:
        start, marker = frame[at], frame[at + 1]
        if start != MARKER:
            raise UnreadableObjectError("the compressed pixels are no JPEG")
        if marker == FILL or marker in STANDALONE:
            at += 1 if marker == FILL else 2
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        yield marker, at + 4, length - 2
        at += 2 + length


def _check_run_lengths(frame: bytes, stored_bytes: int) -> None:
    count, *offsets = struct.unpack_from("<16I", frame)
    offsets = offsets[:count]
    if count != stored_bytes:
        raise UnreadableObjectError(
            f"the pixels are run-length coded in {count} parts, not {stored_bytes}"
        )
    if offsets[0] != RLE_HEADER or sorted(offsets) != offsets:
        raise UnreadableObjectError("the run-length header is damaged")
    if offsets[-1] >= len(frame):
        raise UnreadableObjectError("the compressed pixels are cut off")


def _wavelet(frame: bytes) -> Stated:
    """Walk the main header of a JPEG 2000 codestream, then its parts of tiles."""
    at = frame.find(b"\xff\x4f\xff\x51")  # a JP2 file has boxes before it
    if at < 0:
        raise UnreadableObjectError("the compressed pixels are no JPEG 2000")
    stated = _size(frame, at + 4)
    at += 2
    while True:
        start, marker, length = struct.unpack_from(">BBH", frame, at)
        if start != MARKER:
            raise UnreadableObjectError("the JPEG 2000 header is damaged")
        if marker == SOT:
            break
        if marker == COD:
            _check_style(frame, frame[at + 4], at + 9, stated)
        if marker == COC:
            _check_style(frame, frame[at + 5], at + 6, stated)
        at += 2 + length
    _check_tiles_end(frame, at)
    return stated


def _size(frame: bytes, at: int) -> Stated:
    _, _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = (
        struct.unpack_from(">HHIIIIIIIIH", frame, at)
    )
    depth, step_x, step_y = struct.unpack_from(">BBB", frame, at + 38)
    if (step_x, step_y) != (1, 1) or min(tile_x, tile_y, x1 - x0, y1 - y0) < 1:
        raise UnreadableObjectError("the JPEG 2000 header is damaged")
    across = ceil((x1 - tile_x0) / tile_x)
    tiles = across * ceil((y1 - tile_y0) / tile_y)
    if tiles > MAX_TILES:
        raise UnreadableObjectError(f"the image is cut into {tiles} tiles")
    return Stated(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1)


def _check_style(frame: bytes, style: int, at: int, stated: Stated) -> None:
    """Check one coding style: reversible, and not cut into millions of precincts.

    Args:
        frame: The codestream.
        style: Its first flag says that precincts have sizes of their own.
        at: Where the number of levels stands; what follows has a fixed place.
        stated: The image.
    """
    levels, transform = frame[at], frame[at + 4]
    if levels > MAX_LEVELS:
        raise UnreadableObjectError("the JPEG 2000 header is damaged")
    if transform != 1:
        raise UnreadableObjectError("the image is compressed with loss")
    if not style & 1:
        return
    precincts = 0
    for level in range(levels + 1):
        size = frame[at + 5 + level]
        shrunk = 2 ** (levels - level)
        rows, columns = ceil(stated.rows / shrunk), ceil(stated.columns / shrunk)
        precincts += ceil(rows / 2 ** (size >> 4)) * ceil(columns / 2 ** (size & 15))
    if precincts > MAX_PRECINCTS:
        raise UnreadableObjectError(f"the image is cut into {precincts} precincts")


def _check_tiles_end(frame: bytes, at: int) -> None:
    """Check that every part of a tile, and the end marker, are there."""
    while frame[at : at + 2] == bytes((MARKER, SOT)):
        (length,) = struct.unpack_from(">I", frame, at + 6)
        if length == 0:  # the last part, up to the end marker
            break
        at += length
    if frame.find(END, at) < 0:
        raise UnreadableObjectError("the compressed pixels are cut off")
