"""Radiomics features of a patch: resampled, segmented, measured.

1. resampled to square pixels of `GRID` mm, so that a scanner's matrix does not matter;
2. scaled to 0..100 between two percentiles of the patch, because MR has no unit;
3. the region is the lesion, what is brighter than Otsu's threshold, its largest part,
   filled, as a reader would draw it pixel by pixel; or the whole rectangle;
4. IBSI statistics, histogram, co-occurrence and run lengths of `BINS` levels, shape,
   and statistics of Laplacian-of-Gaussian responses.
"""

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_fill_holes,
    gaussian_filter,
    label,
    map_coordinates,
)
from scipy.signal import fftconvolve

from training.baselines import intensity, texture
from training.baselines.intensity import Features
from training.baselines.patch import Patch
from training.baselines.shape import shape

GRID: Final = 1.0  # mm
BINS: Final = 32
WINDOW: Final = (1.0, 99.5)
FULL_SCALE: Final = 100.0
SIGMAS: Final = (1.0, 2.0)  # mm, of the Laplacian of Gaussian
TRUNCATE: Final = 4.0
MIN_PIXELS: Final = 16
MAX_SIDE: Final = 256  # pixels of the grid; larger rectangles are resampled coarser
OTSU_BINS: Final = 128

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Region(StrEnum):
    """What of a patch is measured."""

    LESION = "lesion"
    RECTANGLE = "rectangle"


def features(patch: Patch, region: Region = Region.LESION) -> Features:
    """Return all features of a patch; finite, whatever its pixels."""
    image, spacing = resample(patch)
    image = normalise(image)
    whole = np.ones(image.shape, dtype=bool)
    mask = lesion(image) if region is Region.LESION else whole
    measured = {
        **shape(mask, spacing),
        **intensity.statistics(image[mask]),
        **textures(image, mask, BINS),
    }
    for sigma in SIGMAS:
        response = laplacian_of_gaussian(image, sigma / spacing)
        found = intensity.statistics(response[mask])
        for name in ("mean", "var", "skew", "kurt", "p10", "p90"):
            measured[f"log{sigma:g}_{name}"] = found[f"stat_{name}"]
    return {name: float(np.nan_to_num(value)) for name, value in measured.items()}


def resample(patch: Patch) -> tuple[Floats, float]:
    """Return the patch on square pixels, centred alike, and their size in mm."""
    pixels = np.nan_to_num(patch.pixels.astype(np.float64))
    sides = np.array(pixels.shape) * patch.spacing
    spacing = max(GRID, float(sides.max()) / MAX_SIDE)
    counts = np.maximum(np.rint(sides / spacing).astype(int), 1)
    at = [
        (np.arange(n) - (n - 1) / 2) * spacing / step + (old - 1) / 2
        for n, old, step in zip(counts, pixels.shape, patch.spacing, strict=True)
    ]
    grid = np.meshgrid(*at, indexing="ij")
    return map_coordinates(pixels, grid, order=1, mode="nearest"), spacing


def normalise(image: Floats) -> Floats:
    """Scale an image so that its window is 0..100; a flat one becomes 0."""
    low, high = np.percentile(image, WINDOW)
    if not high > low:
        return np.zeros_like(image)
    scaled: Floats = (image - low) * (FULL_SCALE / (high - low))
    return scaled


def lesion(image: Floats) -> Mask:
    """Return the largest bright part, filled; the whole patch if that is tiny."""
    smooth = gaussian_filter(image, 1.0)
    parts, found = label(smooth > otsu(smooth))
    if found:
        largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        mask: Mask = binary_fill_holes(parts == largest)
        if mask.sum() >= MIN_PIXELS:
            return mask
    return np.ones(image.shape, dtype=bool)


def otsu(values: Floats) -> float:
    """Return the threshold that parts values into two classes best.

    Source: Otsu, IEEE Transactions on Systems, Man, and Cybernetics 1979.
    """
    counts, edges = np.histogram(values, OTSU_BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    inner = (below > 0) & (above > 0)
    if not inner.any():
        return float(middles[0])
    low = total[inner] / below[inner]
    high = (total[-1] - total[inner]) / above[inner]
    between = below[inner] * above[inner] * (low - high) ** 2
    return float(edges[1:][inner][int(np.argmax(between))])


def textures(image: Floats, mask: Mask, bins: int) -> Features:
    """Return histogram, co-occurrence and run-length features of a region."""
    levels = np.zeros(image.shape, dtype=np.intp)
    levels[mask] = intensity.discretise(image[mask], bins)
    top = int(levels.max())
    runs = texture.run_lengths(levels, top)
    return {
        **intensity.histogram(levels[mask]),
        **texture.cooccurrence_features(texture.cooccurrence(levels, top)),
        **texture.run_length_features(runs, int(mask.sum())),
    }


def laplacian_of_gaussian(image: Floats, sigma: float) -> Floats:
    """Return the response (rows, columns) to a Laplacian of Gaussian of sigma pixels.

    The kernel is sampled to 4 sigma; beyond its border the image is mirrored.
    Source: IBSI 2, section 3.2.
    """
    reach = int(np.floor(TRUNCATE * sigma + 0.5))
    at = np.arange(-reach, reach + 1.0)
    squared = (at[:, None] ** 2 + at[None] ** 2) / sigma**2
    kernel = (squared - 2) / sigma**2 * np.exp(-squared / 2) / (2 * np.pi * sigma**2)
    padded = np.pad(image, reach, mode="reflect")
    response: Floats = fftconvolve(padded, kernel, mode="valid")
    return response
