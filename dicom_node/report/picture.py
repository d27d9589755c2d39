"""The picture of a class activation map: slice, map, rectangle, scale, caption.

Nothing in it identifies a patient. It has the matrix of the slice, so that it keeps
the slice's geometry; on a small matrix the caption wraps instead of shrinking away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicom_node.report.colour import blend, strength

Box: TypeAlias = tuple[float, float, float, float]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

DISPLAY_PERCENTILES: Final = (1.0, 99.5)
MIN_FONT: Final = 9
FONT_PER_COLUMN: Final = 1 / 32
WHITE: Final = (255, 255, 255)
INK: Final = (235, 235, 235)
SHADE: Final = (0, 0, 0, 150)
UNIT: Final = "logit"
DASH: Final = "\u2013"
"""The built-in font has no en dash, so it is drawn."""

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
    ImageDraw.Draw(image).rectangle((x0, y0, x1, y1), outline=WHITE)


def _annotate(image: Image.Image, scene: Scene) -> None:
    """Write caption and scale on a strip at the edge that is farther from the mark."""
    font = ImageFont.load_default(size=max(MIN_FONT, image.width * FONT_PER_COLUMN))
    lines = _wrap(scene.caption, font, image.width - 4)
    line_height = math.ceil(_extent(font)[1]) + 3
    beside = _length(lines[-1], font) + _scale_width(font, scene.bounds) + 16
    rows = len(lines) + (beside > image.width)
    height = rows * line_height + 2
    middle = (scene.box[1] + scene.box[3]) / 2
    top = image.height - height if middle < image.height / 2 else 0
    _shade(image, (0, top, image.width, top + height))
    pen = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        _write(pen, (3, top + 2 + n * line_height), line, font)
    last = top + 1 + (rows - 1) * line_height
    _draw_scale(image, scene.bounds, font, (last, line_height))


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font: Font
) -> None:
    x, y = at[0], at[1] - _extent(font)[0]
    middle = round(y + sum(font.getbbox("x")[1::2]) / 2)
    for n, part in enumerate(text.split(DASH)):
        if n:
            dash = font.getlength("n")
            pen.line((x + 1, middle, x + dash - 1, middle), fill=INK)
            x += dash
        pen.text((x, y), part, font=font, fill=INK)
        x += font.getlength(part)


def _extent(font: Font) -> tuple[float, float]:
    """Return where letters begin below the pen, and how tall a line of them is."""
    _, top, _, bottom = font.getbbox("Hg()")
    return top, bottom - top


def _length(text: str, font: Font) -> float:
    return font.getlength(text.replace(DASH, "n"))


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Break a text between words where it would leave the width."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _labels(bounds: Sequence[float]) -> tuple[str, str]:
    return f"{bounds[0]:+.1f}", f"{bounds[1]:+.1f} {UNIT}"


def _scale_width(font: Font, bounds: tuple[float, float]) -> float:
    return sum(font.getlength(label) for label in _labels(bounds)) + _bar(font) + 8


def _bar(font: Font) -> int:
    return round(5 * font.getlength("0") * 1.6)


def _shade(image: Image.Image, area: tuple[int, int, int, int]) -> None:
    veil = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(veil).rectangle(area, fill=SHADE)
    image.paste(Image.alpha_composite(image.convert("RGBA"), veil).convert("RGB"))


def _draw_scale(
    image: Image.Image,
    bounds: tuple[float, float],
    font: Font,
    line: tuple[int, int],
) -> None:
    """Draw the colours between the bounds, with a tick at zero, right-aligned."""
    top, height = line
    low, high = _labels(bounds)
    pen = ImageDraw.Draw(image)
    x = image.width - 3 - font.getlength(high)
    _write(pen, (x, top + 1), high, font)
    width = _bar(font)
    left = round(x - 4 - width)
    values = np.linspace(*bounds, width, dtype=np.float32)
    under = np.full((1, width, 3), 0.45)  # mid grey: what the colours cover
    row = blend(under, strength(values[None, :], bounds))
    thickness = max(4, height - 6)
    bar = np.repeat(np.round(row * 255).astype(np.uint8), thickness, axis=0)
    image.paste(Image.fromarray(bar, "RGB"), (left, top + (height - thickness) // 2))
    _write(pen, (left - 4 - font.getlength(low), top + 1), low, font)
    if bounds[0] < 0 < bounds[1]:
        zero = left + round(-bounds[0] / (bounds[1] - bounds[0]) * (width - 1))
        pen.line((zero, top, zero, top + height - 1), fill=INK)
