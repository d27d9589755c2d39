"""The picture of a class activation map: slice, map, rectangle, scale, caption.

Nothing in it identifies a patient. It has the matrix of the slice, so that it keeps
the slice's geometry; caption and scale lie on a dark strip at the edge that is farther
from the mark, and wrap where a line is too narrow for them.
"""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.report.colour import blend, strength
from dicom_node.report.lettering import INK, Lettering, lettering, wrap

Box: TypeAlias = tuple[float, float, float, float]

DISPLAY_PERCENTILES: Final = (1.0, 99.5)
WHITE: Final = (255, 255, 255)
SHADE: Final = (0, 0, 0, 170)
OUTLINE_PER_SIDE: Final = 1 / 512
BAR_LETTERS: Final = 8
"""Length of the colour bar, in letters."""

MIN_BAR: Final = 16
GAP: Final = 2
AGAINST: Final = "against"
FOR: Final = "for metastasis"

FIELD_DIMMED: Final = 0.8
"""Brightness of the slice below the map: on white, a colour would fade."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    `pixels` and `heat` are (rows, columns); `heat` is NaN outside the field that the
    network saw; `bounds` are the ends of the scale, in the same unit.
    """

    pixels: NDArray[np.float32]
    heat: NDArray[np.float32]
    bounds: tuple[float, float]
    box: Box
    caption: str


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene as (rows, columns, 3) RGB."""
    grey = grey_levels(scene.pixels)
    base = np.repeat(grey[..., None], 3, axis=-1)  # (rows, columns, 3)
    seen = np.isfinite(scene.heat)
    map_values = strength(scene.heat[seen], scene.bounds)
    base[seen] = blend(base[seen] * FIELD_DIMMED, map_values)
    image = Image.fromarray(np.round(base * 255).astype(np.uint8), "RGB")
    _outline(image, scene.box)
    _annotate(image, scene)
    return np.asarray(image)


def grey_levels(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Window a slice to [0, 1] between its percentiles 1 and 99.5."""
    low, high = np.percentile(pixels, DISPLAY_PERCENTILES)
    span = float(high - low) or 1.0
    return np.asarray(np.clip((pixels - low) / span, 0.0, 1.0), dtype=np.float64)


def _outline(image: Image.Image, box: Box) -> None:
    """Draw the rectangle just outside its pixels, so that it hides none of them."""
    x0, y0 = math.floor(box[0]) - 1, math.floor(box[1]) - 1
    x1, y1 = math.ceil(box[2]), math.ceil(box[3])
    pen = ImageDraw.Draw(image)
    for n in range(max(1, round(min(image.size) * OUTLINE_PER_SIDE))):
        pen.rectangle((x0 - n, y0 - n, x1 + n, y1 + n), outline=WHITE)


def _annotate(image: Image.Image, scene: Scene) -> None:
    """Write caption and scale on a strip at the edge that is farther from the mark."""
    letters = lettering(image.width)
    lines = wrap(letters.fit(scene.caption), letters, image.width - 2 * GAP)
    scale = _scale_lines(letters, scene.bounds, image.width)
    beside = letters.length(lines[-1]) + _length(letters, scale[0]) + 6 * GAP
    shared = len(scale) == 1 and beside <= image.width
    count = len(lines) + len(scale) - shared
    height = count * letters.height + GAP
    middle = (scene.box[1] + scene.box[3]) / 2
    top = image.height - height if middle < image.height / 2 else 0
    _shade(image, (0, top, image.width, top + height))
    pen = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        letters.write(pen, (GAP, top + GAP + n * letters.height), line)
    first = top + GAP + (count - len(scale)) * letters.height
    for n, part in enumerate(scale):
        _draw_scale(image, scene.bounds, part, (letters, first + n * letters.height))


@dataclass(frozen=True, slots=True)
class _ScaleLine:
    """A line of the scale: what stands at its left and right, and between them."""

    left: str
    right: str
    bar: bool = True


def _scale_lines(
    letters: Lettering, bounds: tuple[float, float], width: int
) -> tuple[_ScaleLine, ...]:
    """Say what the ends of the colours mean, in one line if it is wide enough."""
    low, high = (f"{bound:+.1f}" for bound in bounds)
    whole = _ScaleLine(f"{AGAINST}  {low}", f"{high}  {FOR}")
    if _length(letters, whole) <= width:
        return (whole,)
    meaning = _ScaleLine(AGAINST, FOR, bar=False)
    if _length(letters, meaning) > width:
        meaning = _ScaleLine(AGAINST, FOR.split()[0], bar=False)
    return (_ScaleLine(low, high), meaning)


def _length(letters: Lettering, line: _ScaleLine) -> float:
    between = _bar(letters) if line.bar else 0
    words = letters.length(line.left) + letters.length(line.right)
    return words + between + 4 * GAP


def _bar(letters: Lettering) -> int:
    return max(MIN_BAR, round(BAR_LETTERS * letters.length("0")))


def _shade(image: Image.Image, area: tuple[int, int, int, int]) -> None:
    veil = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(veil).rectangle(area, fill=SHADE)
    image.paste(Image.alpha_composite(image.convert("RGBA"), veil).convert("RGB"))


def _draw_scale(
    image: Image.Image,
    bounds: tuple[float, float],
    line: _ScaleLine,
    place: tuple[Lettering, int],
) -> None:
    """Draw the colours between the bounds, with a tick at zero, right-aligned."""
    letters, top = place
    pen = ImageDraw.Draw(image)
    right = image.width - GAP - letters.length(line.right)
    letters.write(pen, (right, top), line.right)
    if not line.bar:
        letters.write(pen, (GAP, top), line.left)
        return
    whole = len(line.left) + len(line.right) > 2 * len(f"{bounds[0]:+.1f}")
    width = (
        _bar(letters) if whole else round(right - 3 * GAP - letters.length(line.left))
    )
    left = round(right - GAP - width)
    letters.write(pen, (left - GAP - letters.length(line.left), top), line.left)
    values = np.linspace(*bounds, width, dtype=np.float32)
    under = np.full((1, width, 3), 0.45)  # mid grey: what the colours cover
    row = blend(under, strength(values[None, :], bounds))
    thickness = letters.height - 2
    bar = np.repeat(np.round(row * 255).astype(np.uint8), thickness, axis=0)
    image.paste(Image.fromarray(bar, "RGB"), (left, top))
    if bounds[0] < 0 < bounds[1]:
        zero = left + round(-bounds[0] / (bounds[1] - bounds[0]) * (width - 1))
        pen.line((zero, top, zero, top + thickness - 1), fill=INK)
