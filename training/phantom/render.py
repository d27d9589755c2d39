"""Drawing a phantom: tissue as functions of patient coordinates, then a scanner.

Every tissue is a function of the position in mm (patient x to the left, y to the
back), so a slice and a cut-out of it agree whatever the grid.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from training.phantom.anatomy import (
    BREAST_X,
    CURVE_STEPS,
    Anatomy,
    Image,
    Subject,
    anatomy,
    reader_box,
)
from training.phantom.scanner import COLUMNS, ROWS, SCANNERS, Grid, Scanner, full_grid
from worker.preprocess import Box, PixelWindow, pixel_window

HALO_REACH: Final = 25.0  # mm beyond the contour; the halo has faded to nothing


class Phase(StrEnum):
    """DCE phases; the network looks at the first one after contrast."""

    PRE = "pre"
    POST_1 = "post-1"
    POST_2 = "post-2"


LESION_UPTAKE: Final = {Phase.PRE: 0.0, Phase.POST_1: 1.0, Phase.POST_2: 0.85}
GLAND_UPTAKE: Final = {Phase.PRE: 0.0, Phase.POST_1: 1.0, Phase.POST_2: 1.5}


@dataclass(frozen=True, slots=True)
class View:
    """Which image of a patient: phase, and slice counted from the largest lesion."""

    phase: Phase
    slice: int = 0
    thickness: float = 3.0

    def shrink(self, radius: float) -> float:
        """Return the lesion's extent on this slice, 1 at its largest, 0 if missed."""
        off = self.slice * self.thickness / radius
        return math.sqrt(1 - off * off) if abs(off) < 1 else 0.0


def _lesion(body: Anatomy, grid: Grid, shrink: float) -> tuple[Image, Image]:
    """Return the lesion's own brightness and its halo, both (rows, columns)."""
    x, y = grid.x[None] - body.centre_x, grid.y[:, None] - body.centre_y
    distance = np.hypot(x, y)
    step = np.arctan2(y, x) * (CURVE_STEPS / (2 * math.pi))
    edge = body.contour[np.rint(step).astype(np.intp) % CURVE_STEPS] * shrink
    inside = 1 / (1 + np.exp(np.clip((distance - edge) / 0.35, -40, 40)))
    depth = np.clip(1 - distance / np.maximum(edge, 1e-6), 0, 1)  # 0 rim, 1 centre
    profile = 1 - np.clip(body.rim_depth, 0, 0.9) * np.clip(depth / 0.6, 0, 1)
    texture = 1 + body.texture * body.lesion_waves.at(grid.x, grid.y)
    outside = np.clip(distance - edge, 0, None)
    fade = np.clip(1 - outside / HALO_REACH, 0, 1)
    halo = body.halo * np.exp(-outside / body.halo_length) * fade
    return body.lesion * inside * profile * texture, body.lesion * halo * (1 - inside)


def _step(signed: Image, width: float) -> Image:
    """Return 1 where signed distance is well below 0, 0 well above it."""
    smooth: Image = 1 / (1 + np.exp(np.clip(signed / width, -40, 40)))
    return smooth


def _vessels(body: Anatomy, x: Image, y: Image) -> Image:
    """Return bright winding lines, (rows, columns)."""
    bright = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for angle, offset in zip(body.vessel_angles, body.vessel_offsets, strict=True):
        across = (x - body.centre_x) * math.cos(angle)
        across = across + (y - body.centre_y) * math.sin(angle)
        along = (y - body.centre_y) * math.cos(angle)
        along = along - (x - body.centre_x) * math.sin(angle)
        away = across - offset - 4 * np.sin(along / 11 + offset)
        bright += 150 * np.exp(-((away / 1.2) ** 2))
    return bright


@dataclass(frozen=True, slots=True)
class Scene:
    """What all images of a patient share on one grid; arrays are (rows, columns).

    `window` is the reader's rectangle in pixels of the slice, `inner` the same in
    pixels of this grid. `base` is brightness without contrast agent, `uptake` what
    glands and vessels add after it, `breast` the mask of breast tissue.
    """

    subject: Subject
    body: Anatomy
    box: Box
    grid: Grid
    window: PixelWindow
    inner: PixelWindow
    base: Image
    uptake: Image
    breast: Image


def whole_slice(subject: Subject) -> Scene:
    """Set the scene on the grid of a whole slice."""
    body = anatomy(subject)
    extent = PixelWindow(0, ROWS, 0, COLUMNS)
    return _scene(subject, body, reader_box(subject, body), extent)


def marked_part(subject: Subject) -> Scene:
    """Set the scene on the reader's rectangle and what the scanner blurs into it."""
    scanner = SCANNERS[subject.centre]
    edge = math.ceil(3 * scanner.blur / scanner.spacing) + 1
    body = anatomy(subject)
    box = reader_box(subject, body)
    top, bottom, left, right = pixel_window(box, (ROWS, COLUMNS))
    wide = PixelWindow(
        max(top - edge, 0),
        min(bottom + edge, ROWS),
        max(left - edge, 0),
        min(right + edge, COLUMNS),
    )
    return _scene(subject, body, box, wide)


def _scene(subject: Subject, body: Anatomy, box: Box, extent: PixelWindow) -> Scene:
    window = pixel_window(box, (ROWS, COLUMNS))
    grid = full_grid(SCANNERS[subject.centre]).cut(extent)
    x, y = grid.x[None], grid.y[:, None]
    torso = _step(np.hypot(x / 150, (y - 95) / 92) - 1, 0.008)
    across = (np.abs(x) - BREAST_X) / 62
    breast = _step(np.hypot(across, np.minimum(y, 0) / body.depth) - 1, 0.015)
    breast = breast * _step(y - 8, 1.5)
    middle = np.hypot(across, (y + 0.45 * body.depth) / (0.42 * body.depth))
    waves = body.gland_waves.at(grid.x, grid.y)
    gland = _step(middle - 0.9 + 0.25 * waves - 0.25 * body.density, 0.12) * breast
    return Scene(
        subject=subject,
        body=body,
        box=box,
        grid=grid,
        window=window,
        inner=PixelWindow(
            window.top - extent.top,
            window.bottom - extent.top,
            window.left - extent.left,
            window.right - extent.left,
        ),
        base=20 + 60 * np.maximum(torso, breast) + 50 * torso + 55 * gland,
        uptake=body.gland * gland * (1 + 0.3 * waves) + breast * _vessels(body, x, y),
        breast=breast,
    )


def _neighbourhood(scene: Scene) -> PixelWindow:
    """Return the pixels within reach of the lesion and its halo."""
    reach = float(scene.body.contour.max()) + HALO_REACH
    columns = np.flatnonzero(np.abs(scene.grid.x - scene.body.centre_x) <= reach)
    rows = np.flatnonzero(np.abs(scene.grid.y - scene.body.centre_y) <= reach)
    return PixelWindow(
        int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    )


def _noise_free(scene: Scene, view: View) -> Image:
    """Return the image (rows, columns) as the scanner would without noise."""
    uptake = scene.uptake * GLAND_UPTAKE[view.phase]
    shrink = view.shrink(scene.body.radius)
    if shrink > 0:
        near = _neighbourhood(scene)
        core, halo = _lesion(scene.body, scene.grid.cut(near), shrink)
        part = (slice(near.top, near.bottom), slice(near.left, near.right))
        covered = np.clip(core / scene.body.lesion, 0, 1)
        lesion = core + halo * scene.breast[part]
        uptake[part] *= 1 - covered
        uptake[part] += LESION_UPTAKE[view.phase] * lesion
    scanner = SCANNERS[scene.subject.centre]
    return _scan(scanner, scene.body, scene.grid, scene.base + uptake)


def _scan(scanner: Scanner, body: Anatomy, grid: Grid, image: Image) -> Image:
    """Apply blur, bias field, gamma, gain and offset."""
    image = gaussian_filter(image, scanner.blur / scanner.spacing, truncate=3.0)
    field = np.cos(grid.y[:, None] / 90 + body.bias_phase[0])
    field = field + np.cos(grid.x[None] / 120 + body.bias_phase[1])
    image = image * (1 + scanner.bias / 2 * field)
    scanned: Image = scanner.gain * 400 * (image / 400) ** scanner.gamma
    return scanned + scanner.offset


def _noisy(image: Image, sigma: float, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Add Rician noise and store as the scanner does, in 12 bits."""
    real, imaginary = rng.standard_normal((2, *image.shape)) * sigma
    magnitude = np.hypot(image + real, imaginary)
    stored: NDArray[np.uint16] = np.clip(np.rint(magnitude), 0, 4095).astype(np.uint16)
    return stored


def _noise(
    subject: Subject, view: View, part: int
) -> tuple[float, np.random.Generator]:
    """Return level and source of the noise of one part of one image."""
    scanner = SCANNERS[subject.centre]
    key = [*subject.seed, 2, list(Phase).index(view.phase), view.slice + 1000, part]
    return scanner.noise * scanner.gain, np.random.default_rng(key)


def render_marked(scene: Scene, view: View) -> NDArray[np.uint16]:
    """Render the reader's rectangle; whole slices hold the same pixels there.

    Returns:
        (rows, columns) of `scene.window`.
    """
    top, bottom, left, right = scene.inner
    image = _noise_free(scene, view)[top:bottom, left:right]
    return _noisy(image, *_noise(scene.subject, view, 1))


def render_slice(whole: Scene, marked: Scene, view: View) -> NDArray[np.uint16]:
    """Render a whole slice (ROWS, COLUMNS)."""
    pixels = _noisy(_noise_free(whole, view), *_noise(whole.subject, view, 0))
    top, bottom, left, right = whole.window
    pixels[top:bottom, left:right] = render_marked(marked, view)
    return pixels
