"""Which graphics are rectangles, and what encloses those that are not."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from dicom_node.attributes import PARSE_ERRORS
from dicom_node.errors import PermanentError

Box: TypeAlias = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in continuous pixels; x along a row, y down the rows."""

Points: TypeAlias = NDArray[np.float64]
"""(n, 2) pixels or (n, 3) millimetres."""

CORNER_TOLERANCE: Final = 0.25
"""Pixels by which a corner may miss the rectangle: viewers round through mm."""

MAX_POINTS: Final = 100_000
"""Points of one outline that are looked at."""

RECTANGLE_POINTS: Final = frozenset({4, 5})
"""Points of a rectangle; the fifth is the first again."""

DRAW: Final = "draw one whose sides follow the pixels"
"""What a person can do about a figure that is no rectangle."""

SINGLE_BYTES: Final = 4
"""Size of one number of representation FL."""


class NotARectangleError(PermanentError):
    """A graphic is not an upright rectangle; the message names what it is."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a lesion of many slices covers on one: area in any unit, height in mm.

    `number` is the caller's name for the slice.
    """

    number: int
    area: float
    height: float


def rectangle(data: Sequence[float]) -> Box:
    """Return the box of a polyline that runs through the corners of a rectangle.

    Args:
        data: x, y, x, y ... of 4 corners, or of 5 points that end where they began.
            The corners may come in any order: viewers differ.

    Raises:
        NotARectangleError: Open, rotated, with other corners, or without area.
    """
    if len(data) % 2 or len(data) not in {2 * n for n in RECTANGLE_POINTS}:
        raise NotARectangleError(name_of(len(data) // 2))
    points = list(zip(data[::2], data[1::2], strict=True))
    if points[4:] and not _same(points[0], points[4]):
        raise NotARectangleError("an open line of 5 points")
    box = enclosing(np.array(points, dtype=np.float64))
    x0, y0, x1, y1 = box
    for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        if not any(_same(corner, point) for point in points):
            raise NotARectangleError("a figure whose sides do not follow the pixels")
    return box


def enclosing(points: Points) -> Box:
    """Return the smallest box around (n, 2) points.

    Raises:
        NotARectangleError: It has no area.
    """
    x0, y0 = (float(edge) for edge in points.min(axis=0))
    x1, y1 = (float(edge) for edge in points.max(axis=0))
    if min(x1 - x0, y1 - y0) <= 2 * CORNER_TOLERANCE:
        raise NotARectangleError("a line without area")
    return (x0, y0, x1, y1)


def follows(points: Points, box: Box) -> bool:
    """Say whether a closed outline of any number of points runs around its box."""
    corners = np.array([box[:2], (box[2], box[1]), box[2:], (box[0], box[3])])
    reach = np.abs(corners[:, None] - points[None]).max(axis=2).min(axis=1)
    if reach.max() > CORNER_TOLERANCE:
        return False
    beside = np.minimum(np.abs(points - box[:2]), np.abs(points - box[2:])).min(axis=1)
    steps = np.diff(np.vstack((points, points[:1])), axis=0)
    along = np.abs(steps).min(axis=1) <= CORNER_TOLERANCE
    return bool(beside.max() <= CORNER_TOLERANCE and along.all())


def polygon_area(points: Points) -> float:
    """Return the area that an outline of (n, 3) points in one plane encloses."""
    centred = points - points[0]
    across = np.cross(centred, np.roll(centred, -1, axis=0))
    return float(np.linalg.norm(across.sum(axis=0)) / 2)


def coordinates(item: Dataset, keyword: str, most: int = MAX_POINTS) -> Points:
    """Return the numbers of GraphicData, ContourData and the like, flat.

    They are counted before they are converted: a million of them in a small file
    would cost seconds and a gigabyte.

    Args:
        item: Holds the attribute.
        keyword: Names it.
        most: How many points of three coordinates are of interest.

    Raises:
        NotARectangleError: There are more, or not all are finite numbers.
    """
    value = item.get_item(keyword).value if keyword in item else None
    if value is None or len(value) == 0:
        return np.empty(0)
    if _count(value, keyword) > 3 * most:
        raise NotARectangleError(f"an outline of more than {most} points")
    try:
        if isinstance(value, bytes) and _is_text(keyword):
            numbers = np.array(value.strip(b"\0 \\").split(b"\\")).astype(np.float64)
        else:
            numbers = np.array(item[keyword].value, dtype=np.float64)
    except PARSE_ERRORS:
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise NotARectangleError("a figure whose coordinates are no numbers")
    return numbers


def _count(value: Sized, keyword: str) -> int:
    """Return how many numbers a value holds, whether it was converted or not."""
    if not isinstance(value, bytes):
        return len(value)
    return value.count(b"\\") + 1 if _is_text(keyword) else len(value) // SINGLE_BYTES


def _is_text(keyword: str) -> bool:
    return dictionary_VR(keyword) == "DS"


def largest(slices: Sequence[Slice]) -> Slice:
    """Return the slice where a lesion is largest; of equals the middle one."""
    top = max(one.area for one in slices)
    equal = [one for one in slices if np.isclose(one.area, top, rtol=1e-6)]
    return sorted(equal, key=lambda one: one.height)[(len(equal) - 1) // 2]


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return (
        abs(one[0] - other[0]) <= CORNER_TOLERANCE
        and abs(one[1] - other[1]) <= CORNER_TOLERANCE
    )


def name_of(points: int) -> str:
    """Return how sentences for people name a line of so many points."""
    return {1: "a point", 2: "a line"}.get(points, f"an outline of {points} points")
