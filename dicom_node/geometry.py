"""Pixels of an image and millimetres of the patient: the one mapping between them.

Source: PS3.3 C.7.6.2.1.1. ImagePositionPatient is the *centre* of the first pixel, a
continuous pixel coordinate counts from its outer corner: hence the half pixel.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicom_node.images import MrImage


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the pixels of one slice lie in the patient (LPS, mm).

    `position` is the centre of the first pixel, `orientation` the directions of a
    row and of a column, `spacing` (between rows, between columns).
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, image: MrImage) -> Self | None:
        """Return the plane of an image, or None when its header does not tell."""
        if image.position is None or image.orientation is None or image.spacing is None:
            return None
        return cls(image.position, image.orientation, image.spacing)

    @property
    def normal(self) -> NDArray[np.float64]:
        """The unit vector at a right angle to the slice."""
        across = np.cross(self.orientation[:3], self.orientation[3:])
        unit: NDArray[np.float64] = across / np.linalg.norm(across)
        return unit

    @property
    def _steps(self) -> NDArray[np.float64]:
        """(2, 3): the way to the next pixel along a row, and down a column."""
        directions = np.array(self.orientation, dtype=np.float64).reshape(2, 3)
        between_rows, between_columns = self.spacing
        steps: NDArray[np.float64] = directions * [[between_columns], [between_rows]]
        return steps

    def to_patient(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Map (n, 2) continuous pixels x, y to (n, 3) millimetres."""
        centred = np.asarray(pixels, dtype=np.float64) - 0.5
        points: NDArray[np.float64] = centred @ self._steps + np.asarray(self.position)
        return points

    def to_pixels(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map (n, 3) millimetres to (n, 2) continuous pixels x, y, along the normal."""
        offsets = np.asarray(points, dtype=np.float64) - np.asarray(self.position)
        pixels: NDArray[np.float64] = offsets @ np.linalg.pinv(self._steps) + 0.5
        return pixels

    def distances(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return how far (n, 3) points lie from the slice, in mm along its normal."""
        offsets = np.asarray(points, dtype=np.float64) - np.asarray(self.position)
        away: NDArray[np.float64] = offsets @ self.normal
        return away
