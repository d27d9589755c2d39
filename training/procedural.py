"""Pictures of generic blobs to pre-train on, a whole batch at a time.

A blob has an outline of superposed harmonics and spikes, an edge, a radial profile, a
texture and an outer glow; it lies on a textured ground with strokes. A scanner then
blurs, shades and samples it, with noise, and the picture is windowed and resized as any
crop is. What was drawn is known: the descriptors that a network learns to read.
Nothing here knows of a disease, of a label or of the phantom.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from worker.manifest import Preprocessing

CANVAS: Final = 96  # pixels in which a blob is drawn, finer than most scanners
ANGLES: Final = 256  # of an outline
HARMONICS: Final = 8
SPIKES: Final = 18
STROKES: Final = 4
GROUPS: Final = 4  # of a batch: the pictures of one are sampled on one grid
SMALLEST_GRID, LARGEST_GRID = 12, 96

DESCRIPTORS: Final = (
    "size",
    "stretch",
    "lobulation",
    "spike length",
    "spike number",
    "spike width",
    "edge softness",
    "ring",
    "ring depth",
    "texture",
    "texture slope",
    "glow",
    "glow reach",
    "ground",
    "ground texture",
    "gamma",
    "blur",
    "noise",
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Crops (B, resize, resize) in [0, 1], and descriptors (B, 18) in [-1, 1]."""

    crops: torch.Tensor
    descriptors: torch.Tensor


class _Dice:
    """Random numbers for a batch; names what is drawn by its range."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n = n
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        drawn = torch.rand(self.n, *shape, generator=self.generator)
        return drawn * (high - low) + low

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.n, *shape, generator=self.generator)


@dataclass(frozen=True, slots=True)
class _Blob:
    """What is drawn: one number per picture, (B,); lengths in half canvases.

    `unit` holds the same in [-1, 1], in the order of `DESCRIPTORS`.
    """

    unit: torch.Tensor

    def between(self, name: str, low: float, high: float) -> torch.Tensor:
        """Return a descriptor on its scale, as (B, 1, 1)."""
        u = self.unit[:, DESCRIPTORS.index(name)][:, None, None]
        return (u + 1) / 2 * (high - low) + low

    def on_log_scale(self, name: str, low: float, high: float) -> torch.Tensor:
        return self.between(name, math.log(low), math.log(high)).exp()


def draw(n: int, spec: Preprocessing, generator: torch.Generator) -> Pictures:
    """Draw `n` pictures as they would come from the served crop.

    Args:
        n: A multiple of 4.
        spec: Window and size of the crops.
        generator: Decides everything.
    """
    dice = _Dice(n, generator)
    blob = _Blob(dice.uniform(-1, 1, len(DESCRIPTORS)))
    plain = _scene(blob, dice)
    seen = _shade(plain, blob, dice)
    crops = _sample(seen, blob, spec, dice)
    return Pictures(crops, blob.unit)


def _scene(blob: _Blob, dice: _Dice) -> torch.Tensor:
    """Return what is there before any scanner, (B, CANVAS, CANVAS)."""
    radius, angle = _polar(blob, dice)
    edge = _outline(blob, dice, angle)
    outside = radius - edge  # signed distance, roughly
    softness = blob.on_log_scale("edge softness", 0.008, 0.15)
    inside = torch.sigmoid(-outside / softness)
    depth = (radius / edge).clamp(0, 1)
    ring = blob.between("ring", -0.5, 0.9)
    profile = 1 + ring * (depth ** blob.between("ring depth", 1, 5) - 0.6)
    texture = _texture(blob.between("texture slope", 0.5, 3.5), dice)
    body = profile * (1 + blob.between("texture", 0, 0.6) * texture)
    reach = blob.on_log_scale("glow reach", 0.06, 0.5)
    glow = blob.between("glow", 0, 0.6) * torch.exp(-outside.clamp(min=0) / reach)
    level = blob.between("ground", 0.05, 0.5)
    rough = _texture(dice.uniform(1, 3.5, 1, 1), dice)
    ground = level * (1 + blob.between("ground texture", 0, 0.6) * rough)
    ground = ground + _strokes(dice)
    around = torch.maximum(ground, ground + glow * (1 - level))
    return (inside * body + (1 - inside) * around).clamp(min=0)


def _polar(blob: _Blob, dice: _Dice) -> tuple[torch.Tensor, torch.Tensor]:
    """Return radius and angle of every pixel around the turned, stretched centre."""
    axis = (torch.arange(CANVAS) + 0.5) / CANVAS * 2 - 1
    x = axis[None, None, :] - dice.uniform(-0.12, 0.12, 1, 1)
    y = axis[None, :, None] - dice.uniform(-0.12, 0.12, 1, 1)
    turn = dice.uniform(0, 2 * math.pi, 1, 1)
    across = x * turn.cos() + y * turn.sin()
    along = y * turn.cos() - x * turn.sin()
    stretch = blob.between("stretch", 0, 0.3).exp()
    across, along = across * stretch, along / stretch
    return torch.hypot(across, along), torch.atan2(along, across)


def _outline(blob: _Blob, dice: _Dice, angle: torch.Tensor) -> torch.Tensor:
    """Return the radius of the outline at each angle."""
    theta = torch.arange(ANGLES) / ANGLES * 2 * math.pi
    k = torch.arange(2, 2 + HARMONICS)
    waves = dice.normal(HARMONICS, 1) / k[:, None] ** 0.75
    phase = dice.uniform(0, 2 * math.pi, HARMONICS, 1)
    lobes = (waves * torch.cos(k[:, None] * theta + phase)).sum(1)  # (B, ANGLES)
    lobes = lobes * blob.between("lobulation", 0, 0.22)[:, 0]
    at = dice.uniform(0, 2 * math.pi, SPIKES, 1)
    apart = (theta - at + math.pi) % (2 * math.pi) - math.pi
    width = blob.on_log_scale("spike width", 0.04, 0.25)
    spikes = (1 - apart.abs() / (width * dice.uniform(0.6, 1.4, SPIKES, 1))).clamp(
        min=0
    )
    number = blob.between("spike number", 2, SPIKES)
    there = torch.arange(SPIKES)[None, :, None] < number
    length = blob.between("spike length", 0, 0.9) * dice.uniform(0.3, 1, SPIKES, 1)
    spiked = (spikes * length * there).amax(1)
    size = blob.on_log_scale("size", 0.25, 0.75)[:, 0]
    outline = size * (1 + lobes).clamp(min=0.3) * (1 + spiked)
    cell = angle / (2 * math.pi) * ANGLES % ANGLES
    low = cell.floor().long() % ANGLES
    part = cell - cell.floor()
    flat = (len(outline), -1)
    here = outline.gather(1, low.reshape(flat)).reshape(angle.shape)
    there_too = outline.gather(1, ((low + 1) % ANGLES).reshape(flat))
    return torch.lerp(here, there_too.reshape(angle.shape), part)


def _frequencies(size: int) -> torch.Tensor:
    """Return |f| in cycles per canvas of a real transform, (size, size // 2 + 1)."""
    rows = torch.fft.fftfreq(size) * size
    columns = torch.fft.rfftfreq(size) * size
    return torch.hypot(rows[:, None], columns[None, :])


def _texture(slope: torch.Tensor, dice: _Dice) -> torch.Tensor:
    """Return noise whose power falls as f^-slope, of mean 0 and SD 1."""
    f = _frequencies(CANVAS).clamp(min=1.5)
    white = torch.fft.rfft2(dice.normal(CANVAS, CANVAS))
    noise = torch.fft.irfft2(white * f ** (-slope / 2), s=(CANVAS, CANVAS))
    noise = noise - noise.mean((1, 2), keepdim=True)
    return noise / noise.std((1, 2), keepdim=True)


def _strokes(dice: _Dice) -> torch.Tensor:
    """Return bright bent lines, none to `STROKES`."""
    axis = (torch.arange(CANVAS) + 0.5) / CANVAS * 2 - 1
    total = torch.zeros(dice.n, CANVAS, CANVAS)
    for _ in range(STROKES):
        turn = dice.uniform(0, 2 * math.pi, 1, 1)
        across = axis[None, None, :] * turn.cos() + axis[None, :, None] * turn.sin()
        along = axis[None, :, None] * turn.cos() - axis[None, None, :] * turn.sin()
        away = (
            across
            - dice.uniform(-1, 1, 1, 1)
            - dice.uniform(-0.5, 0.5, 1, 1) * along**2
        )
        bright = dice.uniform(-0.4, 0.6, 1, 1).clamp(min=0)
        width = dice.uniform(0.015, 0.06, 1, 1)
        total += bright * torch.exp(-0.5 * (away / width) ** 2)
    return total


def _shade(picture: torch.Tensor, blob: _Blob, dice: _Dice) -> torch.Tensor:
    """Apply an uneven sensitivity and a tone curve."""
    axis = (torch.arange(CANVAS) + 0.5) / CANVAS * 2 - 1
    x, y = axis[None, None, :], axis[None, :, None]
    a, b, c = dice.uniform(-0.3, 0.3, 3, 1, 1).unbind(1)
    field = torch.exp(a * x + b * y + c * x * y)
    top = picture.amax((1, 2), keepdim=True)
    shaded: torch.Tensor = (picture * field / top) ** blob.on_log_scale(
        "gamma", 0.65, 1.5
    )
    return shaded


def _sample(
    picture: torch.Tensor, blob: _Blob, spec: Preprocessing, dice: _Dice
) -> torch.Tensor:
    """Blur, sample, add noise, window and resize, as a scanner and the worker do."""
    sizes = _grid_sizes(dice.generator)
    noise = blob.on_log_scale("noise", 0.008, 0.12)
    blur = blob.on_log_scale("blur", 0.25, 1.3)  # SD in pixels of the scanner
    parts = []
    for part, grain, soft, size in zip(
        picture.chunk(GROUPS),
        noise.chunk(GROUPS),
        blur.chunk(GROUPS),
        sizes,
        strict=True,
    ):
        blurred = _blur(part, soft / size)
        sampled = _resize(blurred, size)
        real, imaginary = torch.randn(2, *sampled.shape, generator=dice.generator)
        measured = torch.hypot(sampled + grain * real, grain * imaginary)
        parts.append(_resize(_window(measured, spec), spec.resize).clamp(0, 1))
    return torch.cat(parts)


def _grid_sizes(generator: torch.Generator) -> list[int]:
    """Draw how many pixels a scanner spends on the crop, small ones as often."""
    u = torch.rand(GROUPS, generator=generator)
    span = math.log(LARGEST_GRID / SMALLEST_GRID)
    return [round(SMALLEST_GRID * math.exp(float(one) * span)) for one in u]


def _blur(picture: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Blur by a Gaussian of an SD in canvases, (B, 1, 1)."""
    passed = torch.exp(-2 * (math.pi * sd * _frequencies(CANVAS)) ** 2)
    return torch.fft.irfft2(torch.fft.rfft2(picture) * passed, s=(CANVAS, CANVAS))


def _window(picture: torch.Tensor, spec: Preprocessing) -> torch.Tensor:
    ranks = torch.tensor(spec.window_percentiles) / 100
    low, high = torch.quantile(picture.flatten(1), ranks, dim=1)[:, :, None, None]
    windowed: torch.Tensor = (picture - low) / (high - low).clamp(min=1e-6)
    return windowed.clamp(0, 1)


def _resize(picture: torch.Tensor, size: int) -> torch.Tensor:
    resized = functional.interpolate(
        picture[:, None],
        size=(size, size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return resized[:, 0]
