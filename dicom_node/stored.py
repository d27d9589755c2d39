"""The stored bytes of one frame, found in a file without reading the others.

Native frames lie one behind another. Compressed ones lie in fragments, several of
which may make one frame; an offset table may say which, and may be wrong.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import BinaryIO, Final, TypeAlias

from dicom_node.errors import UnreadableObjectError

PIXEL_DATA: Final = (0x7FE0, 0x0010)
ITEM, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
UNDEFINED: Final = 0xFFFF_FFFF
LONG_VRS: Final = (b"OB", b"OW", b"UN", b"OD", b"OF", b"OL", b"OV")
STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
"""How the first fragment of a JPEG, JPEG-LS or JPEG 2000 frame begins."""

MAX_FRAGMENTS: Final = 1 << 17

Fragment: TypeAlias = tuple[int, int]
"""Offset in the file and length of the bytes of one fragment."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a file are encoded."""

    implicit: bool
    order: str  # "<" or ">", as `struct` has it


def native_frame(
    file: BinaryIO, encoding: Encoding, frame: int, frames: int, size: int
) -> bytes:
    """Read one uncompressed frame.

    Args:
        file: Stands at the element of the pixel data.
        encoding: Of that element.
        frame: Counts from 1.
        frames: How many the header states.
        size: Bytes of one frame.

    Raises:
        UnreadableObjectError: There are no pixels, or not as many as stated. Padding
            of less than a frame behind them does not matter.
    """
    length = _element(file, encoding)
    if length == UNDEFINED:
        raise UnreadableObjectError("the pixel data are compressed, against the header")
    there = min(length, _size(file) - file.tell())
    if there < size * frames:
        raise UnreadableObjectError(
            f"the pixel data are cut off: {there} bytes of {size * frames}"
        )
    if length >= size * (frames + 1):
        raise UnreadableObjectError(
            f"the pixel data are {length} bytes; the header states {size * frames}"
        )
    file.seek((frame - 1) * size, os.SEEK_CUR)
    return file.read(size)


def compressed_frame(
    file: BinaryIO,
    encoding: Encoding,
    frame: int,
    frames: int,
    offsets: Sequence[int] = (),
) -> bytes:
    """Read one compressed frame.

    Args:
        file: Stands at the element of the pixel data.
        encoding: Of that element.
        frame: Counts from 1.
        frames: How many the header states.
        offsets: The extended offset table, when there is one.

    Raises:
        UnreadableObjectError: Cut off, or it cannot be told which fragments are the
            frame's.
    """
    if _element(file, encoding) != UNDEFINED:
        raise UnreadableObjectError("the compressed pixel data have no fragments")
    table, fragments = _fragments(file)
    mine = _of_frame(file, fragments, frame, frames, offsets or table)
    parts = []
    for start, length in mine:
        file.seek(start)
        parts.append(file.read(length))
    return b"".join(parts)


def _element(file: BinaryIO, encoding: Encoding) -> int:
    """Read the head of the pixel data element, and return its length."""
    head = file.read(8)
    if len(head) < 8:  # noqa: PLR2004 - tag and length
        raise UnreadableObjectError("the image holds no pixel data")
    tag = struct.unpack(f"{encoding.order}HH", head[:4])
    if tag != PIXEL_DATA:
        raise UnreadableObjectError("the image holds no whole-number pixel data")
    if encoding.implicit:
        (length,) = struct.unpack("<I", head[4:])
    elif head[4:6] in LONG_VRS:
        (length,) = struct.unpack(f"{encoding.order}I", file.read(4).ljust(4, b"\0"))
    else:
        (length,) = struct.unpack(f"{encoding.order}H", head[6:])
    return int(length)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _fragments(file: BinaryIO) -> tuple[tuple[int, ...], list[Fragment]]:
    """Return the basic offset table and all fragments; nothing of them is read."""
    end = _size(file)
    fragments: list[Fragment] = []
    while len(fragments) <= MAX_FRAGMENTS:
        head = file.read(8)
        if len(head) < 8:  # noqa: PLR2004 - tag and length
            break
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == SEQUENCE_END:
            return _table(file, fragments), fragments[1:]
        start = file.tell()
        if (group, element) != ITEM or start + length > end:
            break
        fragments.append((start, length))
        file.seek(length, os.SEEK_CUR)
    raise UnreadableObjectError("the fragments of the pixel data are cut off")


def _table(file: BinaryIO, fragments: Sequence[Fragment]) -> tuple[int, ...]:
    if not fragments or fragments[0][1] == 0:
        return ()
    start, length = fragments[0]
    file.seek(start)
    return struct.unpack(f"<{length // 4}I", file.read(length // 4 * 4))


def _of_frame(
    file: BinaryIO,
    fragments: Sequence[Fragment],
    frame: int,
    frames: int,
    offsets: Sequence[int],
) -> Sequence[Fragment]:
    """Say which fragments make a frame.

    As many fragments as frames need no table. Else the table must point to heads of
    fragments; without one, each frame begins as a codestream begins.
    """
    if len(fragments) == frames:
        return fragments[frame - 1 : frame]
    if frames == 1 and fragments:
        return fragments
    heads = [0, *accumulate(length + 8 for _, length in fragments)]
    if len(offsets) == frames and set(offsets) <= set(heads[:-1]):
        firsts = [heads.index(offset) for offset in offsets]
    else:
        firsts = [i for i, one in enumerate(fragments) if _begins(file, one)]
    if len(firsts) != frames or firsts[0] != 0 or firsts != sorted(set(firsts)):
        raise UnreadableObjectError(
            f"{len(fragments)} fragments cannot be shared out to {frames} frames"
        )
    first, last = list(pairwise([*firsts, len(fragments)]))[frame - 1]
    return fragments[first:last]


def _begins(file: BinaryIO, fragment: Fragment) -> bool:
    file.seek(fragment[0])
    return file.read(8).startswith(STARTS)
