"""Size and shape of a region on one slice, in mm.

IBSI's shapes are of volumes; these are their counterparts of a plane.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from training.baselines.intensity import Features, ratio

EDGES: Final = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]])
STRAIGHT: Final = (5, 7, 15, 17, 25, 27)
DIAGONAL: Final = (21, 33)
BOTH: Final = (13, 23)


def shape(mask: NDArray[np.bool_], spacing: float) -> Features:
    """Return shape features of a region (rows, columns) on a square grid.

    Args:
        mask: True inside; not empty.
        spacing: Of the grid, in mm.
    """
    area = float(mask.sum()) * spacing**2
    around = perimeter(mask) * spacing
    points = (np.argwhere(mask) * spacing).astype(np.float64)
    major, minor = _axes(points, spacing)
    hull, diameter = _hull(points, spacing)
    return {
        "shape_area": area,
        "shape_perimeter": around,
        "shape_circularity": ratio(2 * math.sqrt(math.pi * area), around),
        "shape_major": major,
        "shape_minor": minor,
        "shape_elongation": ratio(minor, major),
        "shape_diameter": diameter,
        "shape_solidity": min(ratio(area, hull), 1.0),
    }


def perimeter(mask: NDArray[np.bool_]) -> float:
    """Return the length of the border in pixels, diagonal steps counting sqrt 2.

    Source: Benkrid and Crookes, Design and FPGA implementation of a perimeter
    estimator, 2000.
    """
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1]
    inner = inner & padded[1:-1, :-2] & padded[1:-1, 2:]
    border = np.pad(mask & ~inner, 1).astype(int)
    kinds = np.bincount(convolve(border, EDGES, mode="constant").ravel(), minlength=64)
    straight, diagonal = kinds[list(STRAIGHT)].sum(), kinds[list(DIAGONAL)].sum()
    both = kinds[list(BOTH)].sum()
    return float(straight + diagonal * math.sqrt(2) + both * (1 + math.sqrt(2)) / 2)


def _axes(points: NDArray[np.float64], spacing: float) -> tuple[float, float]:
    """Return the axes of the ellipse with the same second moments, in mm."""
    if len(points) < 2:  # noqa: PLR2004 - one pixel has no direction
        return spacing, spacing
    moments = np.cov(points.T, bias=True) + np.eye(2) * spacing**2 / 12
    small, large = np.linalg.eigvalsh(moments).tolist()
    return 4 * math.sqrt(max(large, 0.0)), 4 * math.sqrt(max(small, 0.0))


def _hull(points: NDArray[np.float64], spacing: float) -> tuple[float, float]:
    """Return area of the convex hull of the pixels, and its largest diameter."""
    half = spacing / 2
    corners = np.concatenate(
        [points + np.array([dy, dx]) for dy in (-half, half) for dx in (-half, half)]
    )
    try:
        hull = ConvexHull(corners)
    except QhullError:
        return float(len(points)) * spacing**2, float(pdist(corners).max())
    return float(hull.volume), float(pdist(corners[hull.vertices]).max())
