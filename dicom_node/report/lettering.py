"""Letters on a picture: a font where there is room, drawn pixel by pixel where not.

On a matrix of 64 or 128 columns a scaled font is a blur. Capitals of 3 x 5 pixels stay
legible at any magnification, and leave the slice visible.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK: Final = (235, 235, 235)
DASH: Final = "\u2013"
"""The built-in font has no en dash, so it is drawn."""

SMALL: Final = 192
"""Below this many columns letters are drawn pixel by pixel."""

MIN_FONT: Final = 9
FONT_PER_COLUMN: Final = 1 / 32
GLYPH_HEIGHT: Final = 5
GLYPH_ADVANCE: Final = 4
GLYPHS: Final = {
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647",
    "F": "74644", "G": "34553", "H": "55755", "I": "72227", "J": "11152",
    "K": "55655", "L": "44447", "M": "57755", "N": "65555", "O": "25552",
    "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222",
    "U": "55557", "V": "55552", "W": "55775", "X": "55255", "Y": "55222",
    "Z": "71247", "0": "75557", "1": "26227", "2": "71747", "3": "71317",
    "4": "55711", "5": "74717", "6": "74757", "7": "71122", "8": "75757",
    "9": "75717", "+": "02720", "-": "00700", DASH: "00700", ".": "00002",
    "(": "24442", ")": "21112", ":": "02020", "/": "11244",
}  # fmt: skip
"""Five rows of each letter; the bits of an octal digit are its three pixels."""


@dataclass(frozen=True, slots=True)
class Lettering:
    """One size of letters; `font` is None where they are drawn pixel by pixel."""

    font: Font | None

    @property
    def height(self) -> int:
        """Pixels that a line needs, the gap to the next included."""
        if self.font is None:
            return GLYPH_HEIGHT + 2
        return math.ceil(_extent(self.font)[1]) + 3

    def fit(self, text: str) -> str:
        """Return a text without the dashes that small letters have no room for."""
        return text.replace(f" {DASH} ", " ") if self.font is None else text

    def length(self, text: str) -> float:
        """Return the pixels that a text takes along a row."""
        if self.font is None:
            return GLYPH_ADVANCE * len(text)
        return self.font.getlength(text.replace(DASH, "n"))

    def write(
        self, pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str
    ) -> None:
        """Write a text whose line begins at (x, y), its top left corner."""
        if self.font is None:
            _write_glyphs(pen, at, text)
        else:
            _write_font(pen, at, text, self.font)


def lettering(columns: int) -> Lettering:
    """Return letters that fit an image of so many columns."""
    if columns < SMALL:
        return Lettering(None)
    size = max(MIN_FONT, columns * FONT_PER_COLUMN)
    return Lettering(ImageFont.load_default(size=size))


def wrap(text: str, letters: Lettering, width: float) -> Sequence[str]:
    """Break a text between words where it would leave the width."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and letters.length(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _write_glyphs(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> None:
    left, top = round(at[0]), round(at[1])
    pen.point(
        [
            (left + GLYPH_ADVANCE * n + column, top + row)
            for n, letter in enumerate(text.upper())
            for row, bits in enumerate(GLYPHS.get(letter, ""))
            for column in range(3)
            if int(bits) >> (2 - column) & 1
        ],
        fill=INK,
    )


def _write_font(
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
