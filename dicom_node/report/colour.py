"""The colours of class activation maps.

Blue speaks against metastasis, orange for it; nothing in between is invisible. Both
hues differ for colour-blind eyes, and lightness grows with the distance from zero, so
that equal steps look equal. Computed in Oklab (B. Ottosson, 2020).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

HUES: Final = (255.0, 52.0)
"""Degrees in Oklab: blue for negative values, orange for positive ones."""

LIGHTNESS: Final = (0.55, 0.72)
"""At zero, and at either end."""

CHROMA: Final = (0.02, 0.18)
MAX_ALPHA: Final = 0.70

LINEAR_BELOW: Final = 0.0031308
"""Where the transfer curve of sRGB begins to bend (IEC 61966-2-1)."""

LAB_TO_LMS: Final = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
LMS_TO_RGB: Final = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def colours(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sRGB colours in [0, 1] for values in [-1, 1]; (...) -> (..., 3)."""
    size = np.abs(strength)
    hue = np.deg2rad(np.where(strength < 0, *HUES))
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * size
    chroma = CHROMA[0] + (CHROMA[1] - CHROMA[0]) * size
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = np.clip((lab @ LAB_TO_LMS.T) ** 3 @ LMS_TO_RGB.T, 0.0, 1.0)
    low = 12.92 * linear
    high = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(linear <= LINEAR_BELOW, low, high), dtype=np.float64)


def opacity(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of the colour covers the image, in [0, MAX_ALPHA]."""
    return MAX_ALPHA * np.sqrt(np.abs(strength))


def strength(
    values: NDArray[np.float32], bounds: tuple[float, float]
) -> NDArray[np.float64]:
    """Scale values to [-1, 1]: each bound's end, zero in the middle, clipped beyond.

    Both signs share one scale, that of the larger bound, so that equal colours on
    either side mean equal distances from zero.
    """
    reach = max(abs(bounds[0]), abs(bounds[1]))
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    return np.asarray(np.clip(values, low, high) / (reach or 1.0), dtype=np.float64)


def blend(
    base: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lay the colours of values in [-1, 1] over (..., 3) sRGB in [0, 1]."""
    cover = opacity(values)[..., None]
    return base * (1.0 - cover) + colours(values) * cover
