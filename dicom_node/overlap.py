"""How two marks lie to each other: on one slice? of one lesion? how much in common?

Two marks are of one lesion when they overlap on one slice, or on slices no farther
apart than the larger mark is long (a lesion is about as deep as it is wide) while
overlapping by IoU 0.3 or the centre of one lying in the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.candidates import Candidate
from dicom_node.dynamic import slice_spacing
from dicom_node.images import MrImage
from dicom_node.planes import Box, corners, is_placed, to_patient, to_pixels

SAME_LESION: Final = 0.3
"""IoU from which two rectangles are of one lesion, wherever their edges lie."""

ALIGNED_PX: Final = 1.0
"""How far a side may stray from rows and columns and still follow them."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How a mark lies to the one that is compared with it.

    `box` is the mark in pixels of the other's image; `apart_mm` the distance of the
    slices. `is_one_slice` and `is_one_lesion` follow from them; `is_comparable` is
    False when the two lie in planes that cross, so that no IoU says anything.
    """

    other: Candidate
    box: Box
    iou: float
    apart_mm: float
    is_one_slice: bool
    is_one_lesion: bool
    is_comparable: bool = True


def compare(one: Candidate, other: Candidate, images: Sequence[MrImage]) -> Overlap:
    """Say how the mark `other` lies to the mark `one`.

    Marks whose planes cross, or whose place in the patient is unknown or in another
    frame of reference, cannot be compared: they count as of one lesion, so that a
    person looks, unless both are placed and do not meet.
    """
    if one.marked == other.marked:
        return _overlap(one, other, other.roi.box, (0.0, True))
    placed = is_placed(one.marked) and is_placed(other.marked)
    frames = {one.marked.frame_of_reference_uid, other.marked.frame_of_reference_uid}
    if not placed or len(frames) > 1:
        return Overlap(other, other.roi.box, 0.0, 0.0, False, True, False)
    at = to_pixels(one.marked, to_patient(other.marked, corners(other.roi.box)))
    (x0, y0, near), (x1, y1, far) = at.min(axis=0), at.max(axis=0)
    reach = slice_spacing(one.marked, images) / 2
    box = (float(x0), float(y0), float(x1), float(y1))
    if far - near <= reach and _is_upright(at):
        apart = abs(float(near + far) / 2)
        return _overlap(one, other, box, (apart, apart <= reach))
    depth = _length_mm(one) / 2
    meets = _touch(one.roi.box, box) and near <= depth and far >= -depth
    return Overlap(other, box, 0.0, 0.0, False, meets, False)


def _is_upright(at: NDArray[np.float64]) -> bool:
    """Say whether corners, one after the other, follow the rows and columns."""
    sides = np.abs(np.diff(at[:, :2], axis=0))
    return bool((sides.min(axis=1) <= ALIGNED_PX).all())


def _overlap(
    one: Candidate, other: Candidate, box: Box, slices: tuple[float, bool]
) -> Overlap:
    apart, is_one_slice = slices
    iou = _iou(one.roi.box, box)
    if is_one_slice:
        return Overlap(other, box, iou, apart, True, iou > 0)
    close = apart <= max(_length_mm(one), _length_mm(other))
    nested = _holds_centre(one.roi.box, box) or _holds_centre(box, one.roi.box)
    return Overlap(
        other, box, iou, apart, False, close and (iou >= SAME_LESION or nested)
    )


def _iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or tall <= 0:
        return 0.0
    both = width * tall
    return both / (_area(one) + _area(other) - both)


def _touch(one: Box, other: Box) -> bool:
    """Say whether two boxes meet; one may be a line, a plane seen edge-on."""
    across = one[0] <= other[2] and other[0] <= one[2]
    return across and one[1] <= other[3] and other[1] <= one[3]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _holds_centre(box: Box, other: Box) -> bool:
    x, y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _length_mm(candidate: Candidate) -> float:
    """Return the longer side of a mark."""
    x0, y0, x1, y1 = candidate.roi.box
    between_rows, between_columns = candidate.marked.spacing or (1.0, 1.0)
    return max((x1 - x0) * between_columns, (y1 - y0) * between_rows)
