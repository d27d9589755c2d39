"""What drift is looked for in: size, contrast and brightness of a marked part."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.attributes import text
from dicom_node.errors import NodeError
from dicom_node.images import read_header, read_pixels
from training.datasets import CROP
from training.row import CohortRow
from training.snapshot import Snapshot
from worker import crops, preprocess
from worker.crops import Crop

Floats = NDArray[np.float64]

NAMES: Final = ("roi_mm", "window_low", "window_high", "crop_mean", "crop_sd")
UNKNOWN_SCANNER: Final = "unknown"


def of_crop(crop: Crop, roi_mm: float) -> tuple[float, ...]:
    """Return the features of `NAMES`; `roi_mm` is the root of the rectangle's area.

    Raises:
        StudyHeldError: The crop has no contrast.
    """
    low, high = np.percentile(crop.pixels, CROP.window_percentiles)
    scaled = preprocess.to_crop(crop.pixels, crop.box, CROP).double()
    return roi_mm, float(low), float(high), float(scaled.mean()), float(scaled.std())


def of_snapshot(part: Snapshot) -> tuple[dict[str, Floats], dict[str, int]]:
    """Return the features of a snapshot's rows (n,), and how many each scanner made.

    A row whose slice is not there, as in a snapshot in memory, has what its crop shows.
    """
    table = np.full((len(part.rows), len(NAMES)), np.nan)
    scanners: dict[str, int] = {}
    scaled = part.crops.crops.double().numpy()
    table[:, 3], table[:, 4] = scaled.mean((1, 2)), scaled.std((1, 2), ddof=1)
    if part.crops.sides is not None:
        table[:, 0] = np.sqrt(part.crops.sides.double().numpy().prod(axis=1))
    for at, row in enumerate(part.rows):
        path = part.folder / row.image
        if path.is_file():
            table[at, 1:3] = _window(path, row)
            name = scanner(path)
            scanners[name] = scanners.get(name, 0) + 1
    columns = {name: table[:, i] for i, name in enumerate(NAMES)}
    known = {name: c for name, c in columns.items() if np.isfinite(c).any()}
    return known, scanners


def _window(path: Path, row: CohortRow) -> tuple[float, float]:
    crop = crops.cut(read_pixels(path, row.frame), row.box)
    low, high = np.percentile(crop.pixels, CROP.window_percentiles)
    return float(low), float(high)


def scanner(path: Path) -> str:
    """Return maker and model of the scanner of a slice; it names no patient."""
    try:
        header = read_header(path)
    except (NodeError, OSError):
        return UNKNOWN_SCANNER
    maker, model = text(header, "Manufacturer"), text(header, "ManufacturerModelName")
    return f"{maker} {model}".strip() or UNKNOWN_SCANNER
