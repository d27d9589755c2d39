"""Which graphics are rectangles."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from dicom_node.errors import PermanentError

Box: TypeAlias = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in continuous pixels; x along a row, y down the rows."""

CORNER_TOLERANCE: Final = 0.25
"""Pixels by which a corner may miss the rectangle: viewers round through mm."""


class NotARectangleError(PermanentError):
    """A graphic is not an upright rectangle; the message names what it is."""


def rectangle(data: Sequence[float]) -> Box:
    """Return the box of a polyline that runs through the corners of a rectangle.

    Args:
        data: x, y, x, y ... of 4 corners, or of 5 points that end where they began.
            The corners may come in any order: viewers differ.

    Raises:
        NotARectangleError: Open, rotated, with other corners, or without area.
    """
    points = list(zip(data[::2], data[1::2], strict=False))
    if len(data) % 2 or len(points) not in {4, 5}:
        raise NotARectangleError(_name(len(points)))
    if points[4:] and not _same(points[0], points[4]):
        raise NotARectangleError("an open line of 5 points")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    if min(x1 - x0, y1 - y0) <= 2 * CORNER_TOLERANCE:
        raise NotARectangleError("a line without area")
    for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        if not any(_same(corner, point) for point in points):
            raise NotARectangleError("a figure whose sides do not follow the pixels")
    return (x0, y0, x1, y1)


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return (
        abs(one[0] - other[0]) <= CORNER_TOLERANCE
        and abs(one[1] - other[1]) <= CORNER_TOLERANCE
    )


def _name(points: int) -> str:
    return {1: "a point", 2: "a line"}.get(points, f"an outline of {points} points")
