"""Outlines in the overlay planes of images (PS3.3 C.9.2); only where a site asks.

An overlay is a bitmap of whatever a workstation drew: regions, but also text, rulers
and orientation marks. A part of it that is a drawn or filled rectangle counts; where
there is none, any other outline or filled shape does, as the box around it. What is
small, thin, open or drawn around another part is refused as text or rulers. A box
gives whole pixels, so it is never exact.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.tag import Tag

from dicom_node.attributes import moment, read_header, readable
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Carrier, Roi
from dicom_node.images import MrImage
from dicom_node.pixels import MAX_SIDE
from dicom_node.roi.masks import MAX_PARTS, Mask, WholeBox, components, extents
from dicom_node.roi.reading import MAX_NAME, Found, RoiReading

GROUPS: Final = range(0x6000, 0x601F, 2)
ROWS, COLUMNS, FRAMES, TYPE = 0x0010, 0x0011, 0x0015, 0x0040
ORIGIN, FRAME_ORIGIN, BITS_ALLOCATED, DATA = 0x0050, 0x0051, 0x0100, 0x3000
LABEL: Final = 0x1500

MIN_SIDE_PX: Final = 6
MIN_SOLID: Final = 0.5
"""Part of its box that a region covers: an ellipse 0.79, a letter less."""

MIN_BORDER: Final = 0.95
"""Part of the border of its box that a rectangle covers."""

OTHER_GRAPHICS: Final = "text, rulers or orientation marks"


@dataclass(frozen=True, slots=True)
class _Plane:
    """One overlay plane: `origin` (row, column) counts from 1 and may be negative."""

    bits: Mask
    origin: tuple[int, int]
    label: str


def read(images: Sequence[MrImage]) -> RoiReading:
    """Read the overlays of images from their files.

    Returns:
        A rectangle for each region; what was refused is counted, not listed by image,
        since a scanner may put the same text on a thousand of them.

    Raises:
        OSError: A file itself cannot be opened or read.
    """
    rois: list[Roi] = []
    refused: Counter[str] = Counter()
    files: dict[Path, list[MrImage]] = {image.path: [] for image in images}
    for image in images:
        files[image.path].append(image)
    for frames in files.values():
        try:
            reading = _read_file(frames, refused)
        except UnreadableObjectError as error:
            refused[str(error)] += 1
        else:
            rois.extend(reading.rois)
    said = (f"overlays of {n} images: {what}" for what, n in refused.items())
    return RoiReading(tuple(rois), tuple(said))


def _read_file(frames: Sequence[MrImage], refused: Counter[str]) -> RoiReading:
    header = read_header(frames[0].path)
    found = Found(f"overlays of image {frames[0].sop_instance_uid}")
    with readable("an overlay"):
        for group in GROUPS:
            for frame, plane in _planes(header, group, len(frames), refused):
                image = next((one for one in frames if one.frame == frame), None)
                if image is not None:
                    _read_plane(plane, image, header, (found, refused))
    return found.reading()


def _read_plane(
    plane: _Plane,
    image: MrImage,
    header: Dataset,
    gathered: tuple[Found, Counter[str]],
) -> None:
    found, refused = gathered
    boxes, others = regions(plane.bits)
    if others:
        refused[f"a part that is {OTHER_GRAPHICS}, or no closed region"] += 1
    for x0, y0, x1, y1 in boxes:
        down, right = plane.origin[0] - 1, plane.origin[1] - 1
        roi = Roi(
            image.sop_instance_uid,
            image.frame,
            float(x0 + right),
            float(y0 + down),
            float(x1 + right),
            float(y1 + down),
            carrier=Carrier.OVERLAY,
            carrier_sop_instance_uid=image.sop_instance_uid,
            label=plane.label[:MAX_NAME] or None,
            marked_at=moment(header, "ContentDate", "ContentTime"),
            exact=False,
        )
        found.add(roi)


def _planes(
    header: Dataset, group: int, frames: int, refused: Counter[str]
) -> Iterator[tuple[int, _Plane]]:
    """Yield the planes of one overlay group with their frame, unless all are zero."""
    if Tag(group, ROWS) not in header:
        return
    if (_number(header, group, BITS_ALLOCATED) or 1) != 1:
        refused["embedded in the pixel data, a retired form that is not read"] += 1
        return
    value = _value(header, group, DATA) or b""
    if not isinstance(value, bytes) or not value.strip(b"\0"):
        return
    count = _number(header, group, FRAMES)
    first = _number(header, group, FRAME_ORIGIN)
    if count is None and first is None and frames > 1:
        refused["one plane for several frames, without saying which"] += 1
        return
    yield from (
        ((first or 1) + index, plane)
        for index, plane in enumerate(_unpacked(header, group, value, count or 1))
        if plane.bits.any()
    )


def _unpacked(
    header: Dataset, group: int, value: bytes, count: int
) -> Iterator[_Plane]:
    rows, columns = (_number(header, group, one) or 0 for one in (ROWS, COLUMNS))
    sides = 1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE
    pixels = rows * columns
    if not sides or not 1 <= count <= MAX_SIDE or pixels * count > 8 * len(value):
        raise UnreadableObjectError(
            f"{count} planes of {columns} x {rows} in {len(value)} bytes"
        )
    down, right = (int(one) for one in _value(header, group, ORIGIN) or (1, 1))
    label = str(_value(header, group, LABEL) or "").strip()
    for index in range(count):
        first, last = pixels * index, pixels * (index + 1)
        piece = np.frombuffer(value[first // 8 : -(-last // 8)], dtype=np.uint8)
        bits = np.unpackbits(piece, bitorder="little")[first % 8 :][:pixels]
        mask = bits.reshape(rows, columns).astype(np.bool_)
        yield _Plane(mask, (down, right), label)


def _number(header: Dataset, group: int, element: int) -> int | None:
    value = _value(header, group, element)
    return None if value is None else int(value)


def _value(header: Dataset, group: int, element: int) -> Any:  # noqa: ANN401 - by element
    tag = Tag(group, element)
    return header[tag].value if tag in header else None


def regions(mask: Mask) -> tuple[list[WholeBox], int]:
    """Return the boxes of the regions that were drawn, and how many parts are none.

    Args:
        mask: (rows, columns); rows and columns of any size.
    """
    labels = components(mask, diagonal=True)
    if labels is None:
        return [], 1
    boxes = {part: one.box for part, one in extents(labels).items()}
    if len(boxes) > MAX_PARTS:
        return [], len(boxes)
    large = {part: box for part, box in boxes.items() if _is_large(box)}
    free = {
        part: box
        for part, box in large.items()
        if not any(_encloses(box, boxes[one]) for one in boxes if one != part)
    }
    rectangles = [box for part, box in free.items() if _is_rectangle(labels, part, box)]
    found = rectangles or [
        box for part, box in free.items() if _is_region(labels, part, box)
    ]
    return found, len(boxes) - len(found)


def _is_large(box: WholeBox) -> bool:
    return min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE_PX


def _encloses(outer: WholeBox, inner: WholeBox) -> bool:
    return (
        outer[0] < inner[0]
        and outer[1] < inner[1]
        and inner[2] < outer[2]
        and inner[3] < outer[3]
    )


def _part(labels: NDArray[np.int32], part: int, box: WholeBox) -> Mask:
    x0, y0, x1, y1 = box
    own: Mask = labels[y0:y1, x0:x1] == part
    return own


def _is_rectangle(labels: NDArray[np.int32], part: int, box: WholeBox) -> bool:
    """Say whether a part covers the border of its box, and all or nothing within."""
    own = _part(labels, part, box)
    border = np.ones_like(own)
    border[1:-1, 1:-1] = False
    return bool(own[border].mean() >= MIN_BORDER)


def _is_region(labels: NDArray[np.int32], part: int, box: WholeBox) -> bool:
    """Say whether a part, with what it encloses, covers most of its box."""
    own = np.pad(_part(labels, part, box), 1)
    around = components(~own, diagonal=False)
    if around is None:
        return False
    outside = around == around[0, 0]
    return float((~outside[1:-1, 1:-1]).mean()) >= MIN_SOLID
