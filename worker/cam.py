"""Placing a class activation map on the grid of the slice that it explains."""

import numpy as np
from numpy.typing import NDArray

from worker.manifest import Preprocessing
from worker.preprocess import Box, margin, pixel_window


def place(
    cam: NDArray[np.float32], box: Box, shape: tuple[int, int], spec: Preprocessing
) -> NDArray[np.float32]:
    """Upsample a map to the source slice, keeping its unit and its values.

    The network saw the centre 64 of the 70-pixel crop, so the map fills the
    rectangle but for that margin. Cell n is centred on pixel 8n of the input, as
    strided convolutions with odd kernels and symmetric padding sample it, not on
    the middle of the n-th eighth. In between the map is bilinear; beyond the
    outermost centres it is constant. Nothing is stretched or clipped.

    Args:
        cam: (map, map), in units of the logit difference.
        box: (x0, y0, x1, y1) in continuous pixels of the slice.
        shape: (rows, columns) of the slice.
        spec: The preprocessing that made the input.

    Returns:
        (rows, columns) float32; NaN where the network did not look.
    """
    top, bottom, left, right = pixel_window(box, shape)
    rows, row_weights = _sample(top, bottom, cam.shape[0], spec)
    columns, column_weights = _sample(left, right, cam.shape[1], spec)
    heat = np.full(shape, np.nan, dtype=np.float32)
    values = row_weights @ cam.astype(np.float64) @ column_weights.T  # (h, w)
    heat[np.ix_(rows, columns)] = values
    return heat


def _sample(
    start: int, stop: int, cells: int, spec: Preprocessing
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the pixels in the field of view and their weights on the cells.

    The weights are (pixels, cells); each row sums to one.
    """
    pixels = np.arange(start, stop)
    scale = spec.resize / (stop - start)  # crop pixels per slice pixel
    at = (pixels + 0.5 - start) * scale - margin(spec)  # in input pixels, 0..size
    seen = (at >= 0) & (at <= spec.size)
    cell = np.clip((at[seen] - 0.5) * cells / spec.size, 0, cells - 1)
    weights = 1.0 - np.abs(cell[:, None] - np.arange(cells))  # (pixels, cells)
    return pixels[seen], np.clip(weights, 0, 1)
