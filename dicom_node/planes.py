"""How slices lie to each other in the patient; `geometry` maps their pixels."""

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicom_node.geometry import Plane
from dicom_node.images import MrImage, Vector

Box: TypeAlias = tuple[float, float, float, float]
Points: TypeAlias = NDArray[np.float64]

SAME_DIRECTION: Final = 1e-3
SAME_SPACING_MM: Final = 1e-3
PARALLEL: Final = 0.985
"""Cosine of the angle (10 degrees) up to which two slices have one orientation."""


def is_placed(image: MrImage) -> bool:
    """Say whether the header tells where in the patient a slice lies."""
    return None not in (image.position, image.orientation, image.spacing)


def to_patient(image: MrImage, points: Sequence[tuple[float, float]]) -> Points:
    """Return (n, 3) patient coordinates in mm of (x, y) in pixels of a placed slice."""
    return _plane(image).to_patient(points)


def to_pixels(image: MrImage, points: Points) -> Points:
    """Return (n, 3): x and y in pixels of a placed slice, and mm in front of it."""
    plane = _plane(image)
    return np.column_stack([plane.to_pixels(points), plane.distances(points)])


def _plane(image: MrImage) -> Plane:
    plane = Plane.of(image)
    if plane is None:
        raise ValueError(f"{image.sop_instance_uid} says nowhere where it lies")
    return plane


def corners(box: Box) -> list[tuple[float, float]]:
    """Return the corners of a box, from the first one around."""
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def height(image: MrImage) -> float:
    """Return where a slice lies along its own normal, in mm; 0 when unknown."""
    if image.position is None or image.orientation is None:
        return 0.0
    return _dot(_normal(image.orientation), image.position)


def along_normal(image: MrImage, other: MrImage) -> float:
    """Return how far a slice lies before another, in mm along the first's normal."""
    if image.position is None or other.position is None or image.orientation is None:
        return 0.0
    return _dot(_normal(image.orientation), _minus(other.position, image.position))


def off_axis(image: MrImage, other: MrImage) -> float:
    """Return how far the grids of two slices are shifted in their plane, in mm."""
    if image.position is None or other.position is None:
        return 0.0
    shift = _minus(other.position, image.position)
    through = along_normal(image, other)
    return math.sqrt(max(0.0, _dot(shift, shift) - through**2))


def _normal(orientation: Sequence[float]) -> Vector:
    """Return the normal of two directions: plain floats, for thousands of slices."""
    a, b, c, d, e, f = orientation
    return (b * f - c * e, c * d - a * f, a * e - b * d)


def _minus(one: Vector, other: Vector) -> Vector:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2])


def _dot(one: Vector, other: Vector) -> float:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def is_parallel(one: MrImage, other: MrImage) -> bool:
    """Say whether two slices have one orientation, as far as their headers tell."""
    if one.orientation is None or other.orientation is None:
        return True
    normals = _normal(one.orientation), _normal(other.orientation)
    return abs(_dot(*normals)) >= PARALLEL


def same_grid(one: MrImage, other: MrImage) -> bool:
    """Say whether two slices have one matrix, spacing, orientation and frame."""
    if one.rows != other.rows or one.columns != other.columns:
        return False
    if one.frame_of_reference_uid != other.frame_of_reference_uid:
        return False
    return _close(one.orientation, other.orientation, SAME_DIRECTION) and _close(
        one.spacing, other.spacing, SAME_SPACING_MM
    )


def _close(
    one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float
) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))
