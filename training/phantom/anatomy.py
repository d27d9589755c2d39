"""One phantom patient: the latents made visible, and nuisance that means nothing."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.phantom.scanner import COLUMNS, MIDDLE_Y, ROWS, SCANNERS
from worker.preprocess import Box

Image = NDArray[np.float64]

BREAST_X: Final = 72.0  # mm from the midline to the middle of a breast
CURVE_STEPS: Final = 720


class Level(StrEnum):
    """How plainly the latents show: `easy` has more signal and less nuisance."""

    BENCH = "bench"
    EASY = "easy"

    @property
    def signal(self) -> float:
        """Factor on every effect of a latent."""
        return 1.8 if self is Level.EASY else 1.0

    @property
    def nuisance(self) -> float:
        """Factor on every variation that means nothing."""
        return 0.5 if self is Level.EASY else 1.0


@dataclass(frozen=True, slots=True)
class Subject:
    """One patient to draw. `size` in cm; latents standard normal.

    `seed` fixes all nuisance and noise. `side` is +1 for the left breast.
    """

    seed: tuple[int, ...]
    centre: int
    level: Level
    side: int
    size: float
    spiculation: float
    halo: float
    rim: float
    heterogeneity: float


@dataclass(frozen=True, slots=True)
class Waves:
    """A random field as a sum of plane waves: cos(kx x + ky y + phase)."""

    kx: NDArray[np.float64]
    ky: NDArray[np.float64]
    phase: NDArray[np.float64]

    def at(self, x: Image, y: Image) -> Image:
        """Evaluate on the grid y (rows,) by x (columns,): about N(0, 1)."""
        down = np.outer(y, self.ky)  # (rows, K)
        across = np.outer(self.kx, x) + self.phase[:, None]  # (K, columns)
        # einsum, not a matrix product: BLAS would wake its threads for so little
        field: Image = np.einsum("rk,kc->rc", np.cos(down), np.cos(across))
        field -= np.einsum("rk,kc->rc", np.sin(down), np.sin(across))
        field *= math.sqrt(2 / len(self.kx))
        return field


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Everything drawn once per patient; lengths in mm, brightness in units."""

    centre_x: float
    centre_y: float
    radius: float
    contour: NDArray[np.float64]
    lesion: float
    rim_depth: float
    texture: float
    halo: float
    halo_length: float
    depth: float
    density: float
    gland: float
    vessel_angles: NDArray[np.float64]
    vessel_offsets: NDArray[np.float64]
    bias_phase: NDArray[np.float64]
    lesion_waves: Waves
    gland_waves: Waves


def anatomy(subject: Subject) -> Anatomy:
    """Draw the shape and the brightness of everything in a patient."""
    rng = np.random.default_rng([*subject.seed, 0])
    signal, nuisance = subject.level.signal, subject.level.nuisance
    radius = 5.0 * subject.size  # mm
    contour = _contour(subject, radius, rng)
    return Anatomy(
        centre_x=subject.side * (BREAST_X + rng.uniform(-18, 18)),
        centre_y=-max(30.0, 0.9 * radius + 12) - rng.uniform(0, 15),
        radius=radius,
        contour=contour,
        lesion=330.0 * math.exp(0.22 * nuisance * rng.standard_normal()),
        rim_depth=_soft(0.34 + 0.17 * signal * subject.rim),
        texture=_soft(0.16 + 0.075 * signal * subject.heterogeneity),
        halo=_soft(0.22 + 0.11 * signal * subject.halo),
        halo_length=rng.uniform(5, 7),
        depth=rng.uniform(85, 100),
        density=rng.uniform(-1, 1) * nuisance,
        gland=70.0 * math.exp(0.4 * nuisance * rng.standard_normal()),
        vessel_angles=rng.uniform(0, math.pi, 3),
        vessel_offsets=rng.uniform(-35, 35, 3) / nuisance,
        bias_phase=rng.uniform(0, 2 * math.pi, 2),
        lesion_waves=_waves(rng, 60, (3.0, 8.0)),
        gland_waves=_waves(rng, 80, (4.0, 25.0)),
    )


def _soft(value: float) -> float:
    """Return a smooth positive part: log(1 + exp) with a scale of 0.05."""
    return 0.05 * math.log1p(math.exp(min(value / 0.05, 500.0)))


def _waves(
    rng: np.random.Generator, count: int, wavelength: tuple[float, float]
) -> Waves:
    short, long = wavelength
    k = 2 * math.pi / np.exp(rng.uniform(math.log(short), math.log(long), count))
    angle = rng.uniform(0, 2 * math.pi, count)
    phase = rng.uniform(0, 2 * math.pi, count)
    return Waves(k * np.cos(angle), k * np.sin(angle), phase)


def _contour(
    subject: Subject, radius: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the radius in mm at CURVE_STEPS angles: lobulation and spicules."""
    angle = np.linspace(0, 2 * math.pi, CURVE_STEPS, endpoint=False)
    lobes = np.zeros(CURVE_STEPS)
    for harmonic in range(2, 6):
        amplitude = 0.10 * subject.level.nuisance * rng.standard_normal() / harmonic
        lobes += amplitude * np.cos(harmonic * angle + rng.uniform(0, 2 * math.pi))
    length = _soft(0.20 + 0.12 * subject.level.signal * subject.spiculation)
    spikes = np.zeros(CURVE_STEPS)
    for _ in range(rng.integers(9, 15)):
        turned = (angle - rng.uniform(0, 2 * math.pi)) % (2 * math.pi)
        away = np.abs(turned - math.pi) / rng.uniform(0.10, 0.18)
        spikes = np.maximum(spikes, rng.uniform(0.5, 1.5) * np.clip(1 - away, 0, None))
    # Spicules grow with the square root of the size, so that they do not tell it.
    reach = length * math.sqrt(radius * 10.0) * spikes
    contour: NDArray[np.float64] = 0.92 * radius * (1 + lobes) + reach
    return contour


def reader_box(subject: Subject, body: Anatomy) -> Box:
    """Draw the reader's rectangle: the lesion and 3-9 mm on every side.

    Returns:
        (x0, y0, x1, y1) in continuous pixels of the slice, in quarters of a pixel,
        which the 32-bit floats of a presentation state hold exactly.
    """
    rng = np.random.default_rng([*subject.seed, 1])
    scanner = SCANNERS[subject.centre]
    angle = np.linspace(0, 2 * math.pi, CURVE_STEPS, endpoint=False)
    x = scanner.turn * (body.centre_x + body.contour * np.cos(angle))
    y = scanner.turn * (body.centre_y - MIDDLE_Y + body.contour * np.sin(angle))
    left, top, right, bottom = rng.uniform(3, 9, 4)
    edges = np.array([x.min() - left, y.min() - top, x.max() + right, y.max() + bottom])
    pixels = edges / scanner.spacing + np.array([COLUMNS, ROWS, COLUMNS, ROWS]) / 2
    limits = np.array([COLUMNS, ROWS, COLUMNS, ROWS])
    x0, y0, x1, y1 = np.clip(np.rint(pixels * 4) / 4, 0, limits).tolist()
    return (x0, y0, x1, y1)
