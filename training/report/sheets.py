"""Tables as pictures, for slides and manuscripts."""

import io
import textwrap
from collections.abc import Sequence
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont

from training.report.document import Panel, Row, Table
from training.report.style import INK, QUIET, styled

LETTER: Final = 0.078
"""Width of a letter at 8 points, in inches: DejaVu Sans is rarely wider."""

LINE: Final = 0.155
PAD: Final = 0.09
MARGIN: Final = 0.15
WIDEST: Final = 44
"""Letters in a column before it wraps."""

DPI: Final = 150
CAPTION: Final = 18
SHEET: Final = 1450
"""Pixels across a figure of several panels: as wide as a page at 200 DPI."""


def picture(table: Table) -> bytes:
    """Draw a table as PNG, with its title above and its definitions below."""
    letters = [_letters(table, column) for column in range(len(table.header))]
    lefts = [
        MARGIN + sum(LETTER * n + 2 * PAD for n in letters[:i])
        for i in range(len(letters))
    ]
    width = max(lefts[-1] + LETTER * letters[-1] + 2 * PAD + MARGIN, 5.0)
    across = int((width - 2 * MARGIN) / LETTER)
    title = textwrap.wrap(f"{table.label}. {table.title}", int(across * 0.9))
    notes = [line for note in table.notes for line in textwrap.wrap(note, across)]
    rows = [_wrapped(row, letters) for row in (Row(table.header), *table.rows)]
    lines = [max(map(len, row)) for row in rows]
    height = LINE * (len(title) + sum(lines) + len(notes)) + PAD * (len(rows) + 4)
    with styled():
        figure = Figure(figsize=(width, height + 2 * MARGIN))
        FigureCanvasAgg(figure)
        pen = _Pen(figure, height + MARGIN)
        pen.write(MARGIN, title, size=9.5, weight="bold")
        pen.skip(len(title) * LINE + PAD)
        pen.rule(MARGIN, width - MARGIN)
        for number, (row, count) in enumerate(zip(rows, lines, strict=True)):
            strong = number == 0 or table.rows[number - 1].heading
            pen.skip(PAD / 2)
            for left, cell in zip(lefts, row, strict=False):
                pen.write(left, cell, weight="bold" if strong else "normal")
            pen.skip(count * LINE + PAD / 2)
            if number == 0:
                pen.rule(MARGIN, width - MARGIN)
        pen.rule(MARGIN, width - MARGIN)
        pen.skip(PAD)
        pen.write(MARGIN, notes, size=7.5, color=QUIET)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()


def together(panels: Sequence[Panel]) -> bytes:
    """Put the panels of a figure on one picture, as many in a row as fit."""
    pictures = [_captioned(panel) for panel in panels]
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    across = min(max(SHEET // width, 1), len(pictures))
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * width, down * height), "white")
    for n, one in enumerate(pictures):
        sheet.paste(one, (n % across * width, n // across * height))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _captioned(panel: Panel) -> Image.Image:
    """Return the picture of a panel with its caption below, where it has one."""
    picture = Image.open(io.BytesIO(panel.png)).convert("RGB")
    if not panel.caption:
        return picture
    font = ImageFont.load_default(size=CAPTION)
    text = textwrap.fill(panel.caption, 2 * picture.width // CAPTION)
    deep = CAPTION * 4 * (text.count("\n") + 1) // 3
    sheet = Image.new("RGB", (picture.width, picture.height + deep + CAPTION), "white")
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((4, picture.height + 4), text, fill=INK, font=font)
    return sheet


class _Pen:
    """Writes lines into a figure from the top down, in inches."""

    def __init__(self, figure: Figure, top: float) -> None:
        self.figure, self.y = figure, top

    def skip(self, height: float) -> None:
        self.y -= height

    def write(
        self,
        x: float,
        lines: list[str],
        size: float = 8,
        weight: str = "normal",
        color: str = INK,
    ) -> None:
        width, height = self.figure.get_size_inches()
        for n, line in enumerate(lines):
            self.figure.text(
                x / width,
                (self.y - n * LINE) / height,
                line,
                fontsize=size,
                fontweight=weight,
                color=color,
                va="top",
                parse_math=False,
            )

    def rule(self, left: float, right: float) -> None:
        width, height = self.figure.get_size_inches()
        at = [self.y / height] * 2
        line = Line2D([left / width, right / width], at, color=INK, linewidth=0.8)
        self.figure.add_artist(line)


def _letters(table: Table, column: int) -> int:
    """Return the width of a column; a band spans the table and does not count."""
    cells = [table.header[column]]
    cells += [row.cells[column] for row in table.rows if not row.heading]
    return min(max(len(cell) for cell in cells), WIDEST)


def _wrapped(row: Row, letters: list[int]) -> list[list[str]]:
    if row.heading:
        return [[row.cells[0]]]
    return [
        textwrap.wrap(cell, max(width, 1)) or [""]
        for cell, width in zip(row.cells, letters, strict=True)
    ]
