"""Scanners of the phantom's three centres, and where their pixels lie."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.preprocess import PixelWindow

ROWS: Final = 256
COLUMNS: Final = 384
MIDDLE_Y: Final = -20.0  # mm; the middle row lies in front of the chest wall


@dataclass(frozen=True, slots=True)
class Scanner:
    """What a centre does to an image. `spacing`, `blur` in mm; `noise` in units.

    `turn` is -1 where rows run to the right and columns to the front.
    """

    spacing: float
    blur: float
    gain: float
    offset: float
    gamma: float
    bias: float
    noise: float
    turn: int


SCANNERS: Final = {
    1: Scanner(0.80, 0.55, 1.0, 0.0, 1.00, 0.10, 16.0, 1),
    2: Scanner(0.95, 0.75, 1.5, 40.0, 0.85, 0.18, 22.0, -1),
    3: Scanner(1.10, 0.90, 0.7, 15.0, 1.15, 0.25, 26.0, 1),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """Positions of pixel centres: x (columns,) and y (rows,), in mm."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def cut(self, window: PixelWindow) -> "Grid":
        """Return the grid of a window."""
        return Grid(
            self.x[window.left : window.right], self.y[window.top : window.bottom]
        )


def full_grid(scanner: Scanner) -> Grid:
    """Return the grid of a whole slice: the midline is in the middle."""
    step = scanner.spacing * scanner.turn
    columns = np.arange(COLUMNS, dtype=np.float64) - (COLUMNS - 1) / 2
    rows = np.arange(ROWS, dtype=np.float64) - (ROWS - 1) / 2
    return Grid(columns * step, rows * step + MIDDLE_Y)
