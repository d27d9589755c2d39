"""The picture of a choice: marked slices with all rectangles beside the analysed one.

Nothing in it identifies anybody: no name, UID or date, only what was drawn, where, and
what became of it. Colour is never the only sign: each rectangle has its number, a
line of its own (thick for the winner, dashed when ruled out) and a row in the legend.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicom_node.explanation import Explanation, Mark, Side, Stop, Verdict
from dicom_node.findings import Laterality
from dicom_node.images import MrImage
from dicom_node.planes import Box, height
from dicom_node.report.picture import grey_levels

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Pixels: TypeAlias = Callable[[MrImage], NDArray[np.float32] | None]
"""Returns (rows, columns) of an image of the study, or None when unreadable."""

COLOURS: Final[dict[Verdict, Colour]] = {
    Verdict.WON: (255, 176, 0),
    Verdict.MERGED: (0, 200, 140),
    Verdict.OUTDONE: (86, 180, 233),
    Verdict.RULED_OUT: (240, 80, 60),
    Verdict.UNDECIDED: (225, 120, 220),
}
"""Distinct for colour-blind eyes, after Okabe and Ito."""

BACKGROUND: Final = (18, 18, 20)
INK: Final = (235, 235, 235)
FAINT: Final = (150, 150, 155)
SIDES: Final = {Laterality.LEFT: "left breast", Laterality.RIGHT: "right breast"}

CELL: Final = 480
"""Pixels of a slice's longer side in the picture."""

GAP: Final = 16
COLUMNS: Final = 3
MAX_OTHERS: Final = 12
"""Marked slices that are drawn beside those of the winners."""

CLOSE_UP: Final = 2.5
"""A close-up shows this many times the rectangle's longer side."""

AREA: Final = "sq mm"
"""The built-in font has no superscript."""

DASH_PX: Final = 6
TITLE_PX: Final = 19
TEXT_PX: Final = 16
THICK: Final = 4
THIN: Final = 2


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One rectangle in a panel; `tag` is its number, "" for the analysed one."""

    box: Box
    verdict: Verdict
    tag: str


@dataclass(frozen=True, slots=True)
class _Panel:
    image: MrImage
    title: tuple[str, str]
    drawn: tuple[_Drawn, ...]
    close_up: bool = False


def draw(found: Explanation, pixels: Pixels) -> Image.Image:
    """Draw each side's marked slice beside the analysed one, other marks, a legend."""
    blocks = [
        _beside([_cell(panel, pixels(panel.image)) for panel in row])
        for row in _rows(found)
    ]
    width = max([2 * CELL, *(block.width for block in blocks)])
    blocks.append(_text_block(_legend(found), width))
    tall = sum(block.height + GAP for block in blocks) + GAP
    sheet = Image.new("RGB", (width + 2 * GAP, tall), BACKGROUND)
    top = GAP
    for block in blocks:
        sheet.paste(block, (GAP, top))
        top += block.height + GAP
    return sheet


def _rows(found: Explanation) -> list[list[_Panel]]:
    """Return a row for each analysed side, then rows of what else was marked."""
    marked: dict[MrImage, list[_Drawn]] = {}
    for number, mark in enumerate(found.marks, 1):
        if mark.marked is not None:
            drawn = _Drawn(mark.roi.box, mark.verdict, str(number))
            marked.setdefault(mark.marked, []).append(drawn)
    places = _places(found.sides)
    panels = {
        _key(image): _Panel(image, ("MARKED", _name(image, places)), tuple(drawn))
        for image, drawn in marked.items()
    }
    rows = [row for side in found.sides if (row := _analysed(side, panels, places))]
    shown = {_key(row[0].image) for row in rows}
    rest = [panel for key, panel in panels.items() if key not in shown][:MAX_OTHERS]
    return rows + [rest[n : n + COLUMNS] for n in range(0, len(rest), COLUMNS)]


def _analysed(
    side: Side, panels: dict[tuple[str, int], _Panel], places: dict[MrImage, str]
) -> list[_Panel]:
    """Return the marked slice of a side, the analysed one, and the lesion close up."""
    chosen = side.selection
    if chosen is None:
        return []
    marked = panels[(chosen.roi.sop_instance_uid, chosen.roi.frame)]
    analysed = (chosen.sop_instance_uid, chosen.frame)
    image = next(one for one in places if _key(one) == analysed)
    drawn = (_Drawn(chosen.roi.box, Verdict.WON, ""),)
    title = f"ANALYSED, {SIDES[side.laterality]}: {chosen.phase}"
    return [
        marked,
        _Panel(image, (title, _name(image, places)), drawn),
        _Panel(image, ("CLOSE-UP of the analysed slice", ""), drawn, close_up=True),
    ]


def _key(image: MrImage) -> tuple[str, int]:
    return (image.sop_instance_uid, image.frame)


def _places(sides: Iterable[Side]) -> dict[MrImage, str]:
    """Say of each phase at a marked position which one it is."""
    return {
        image: "" if len(side.phases) == 1 else f"phase {n} of {len(side.phases)}"
        for side in sides
        for n, image in enumerate(side.phases, 1)
        if image is not None
    }


def _name(image: MrImage, places: dict[MrImage, str]) -> str:
    number = image.series_number
    parts = [
        "" if number is None else f"series {number}",
        "" if image.frame == 1 else f"frame {image.frame}",
        places.get(image, ""),
        "" if image.position is None else f"slice at {height(image):+.1f} mm",
    ]
    return ", ".join(part for part in parts if part)


def _cell(panel: _Panel, pixels: NDArray[np.float32] | None) -> Image.Image:
    """Draw one slice with its rectangles below its title."""
    field = _field(panel)
    scale = _scale(panel.image, field)
    size = (
        max(1, round((field[2] - field[0]) * scale[0])),
        max(1, round((field[3] - field[1]) * scale[1])),
    )
    if pixels is None:
        view = Image.new("RGB", size, (50, 50, 50))
        _write(ImageDraw.Draw(view), (GAP, GAP), "Its pixels cannot be read.", INK)
    else:
        grey = np.round(grey_levels(pixels) * 255).astype(np.uint8)
        view = Image.fromarray(grey, "L").resize(size, Image.Resampling.BICUBIC, field)
        view = view.convert("RGB")
    for one in panel.drawn:
        x0, y0, x1, y1 = one.box
        left, top = (x0 - field[0]) * scale[0], (y0 - field[1]) * scale[1]
        right, bottom = (x1 - field[0]) * scale[0], (y1 - field[1]) * scale[1]
        _outline(view, (left, top, right, bottom), one)
    title = _title(panel.title, max(view.width, CELL))
    cell = Image.new("RGB", (title.width, title.height + CELL), BACKGROUND)
    cell.paste(title, (0, 0))
    cell.paste(view, (0, title.height))
    return cell


def _field(panel: _Panel) -> Box:
    """Return the part of the image that a panel shows, in its pixels."""
    image = panel.image
    if not panel.close_up:
        return (0.0, 0.0, float(image.columns), float(image.rows))
    x0, y0, x1, y1 = panel.drawn[0].box
    between_rows, between_columns = image.spacing or (1.0, 1.0)
    reach = CLOSE_UP / 2 * max((x1 - x0) * between_columns, (y1 - y0) * between_rows)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return (
        max(0.0, x - reach / between_columns),
        max(0.0, y - reach / between_rows),
        min(float(image.columns), x + reach / between_columns),
        min(float(image.rows), y + reach / between_rows),
    )


def _scale(image: MrImage, field: Box) -> tuple[float, float]:
    """Return picture pixels for a column and a row, true to the millimetres."""
    between_rows, between_columns = image.spacing or (1.0, 1.0)
    wide = (field[2] - field[0]) * between_columns
    tall = (field[3] - field[1]) * between_rows
    scale = CELL / max(wide, tall)
    return scale * between_columns, scale * between_rows


def _outline(view: Image.Image, at: Box, one: _Drawn) -> None:
    """Draw a rectangle around its pixels, with its number beside it."""
    pen = ImageDraw.Draw(view)
    colour = COLOURS[one.verdict]
    width = THICK if one.verdict is Verdict.WON else THIN
    x0, y0, x1, y1 = at[0] - width, at[1] - width, at[2] + width, at[3] + width
    if one.verdict is Verdict.RULED_OUT:
        _dashed(pen, (x0, y0, x1, y1), colour)
    else:
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=width)
    if not one.tag:
        return
    font = _font(TEXT_PX)
    _, _, right, bottom = pen.textbbox((0, 0), one.tag, font=font)
    wide, tall = right + 8, bottom + 6
    left = min(max(0.0, x0), view.width - wide)
    top = y0 - tall if y0 >= tall else min(y1, view.height - tall)
    pen.rectangle((left, top, left + wide, top + tall), fill=colour)
    pen.text((left + 4, top + 2), one.tag, font=font, fill=(0, 0, 0))


def _dashed(pen: ImageDraw.ImageDraw, at: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = at
    for start in np.arange(x0, x1, 2 * DASH_PX):
        for y in (y0, y1):
            pen.line((start, y, min(start + DASH_PX, x1), y), fill=colour, width=THIN)
    for start in np.arange(y0, y1, 2 * DASH_PX):
        for x in (x0, x1):
            pen.line((x, start, x, min(start + DASH_PX, y1)), fill=colour, width=THIN)


def _legend(found: Explanation) -> list[tuple[str, Colour]]:
    """Return a line for each mark, and what became of each side."""
    lines = [
        (f"{number}: {_describe(mark)}", COLOURS[mark.verdict])
        for number, mark in enumerate(found.marks, 1)
    ]
    lines += [(_fate(side, found.stop), INK) for side in found.sides]
    if found.stop is not None:
        state = "ignored" if found.stop.ignored else "held"
        lines.append((f"The study is {state}: {found.stop.reason}", INK))
    return [*lines, ("RESEARCH USE ONLY - not a diagnosis", FAINT)]


def _fate(side: Side, stop: Stop | None) -> str:
    """Say what became of a side; the sentence behind a reason may name readers."""
    name = SIDES[side.laterality].capitalize()
    if side.selection is None:
        return f"{name}: not analysed, {side.stop.reason if side.stop else ''}"
    if stop is not None:
        return f"{name}: waits for the rest of the study"
    chosen = side.selection
    return f"{name}: analysed on {chosen.phase}, {chosen.area_mm2:.0f} {AREA}"


def _describe(mark: Mark) -> str:
    known = [
        str(mark.verdict).upper() + (f" ({mark.reason})" if mark.reason else ""),
        str(mark.roi.carrier),
        "" if mark.laterality is None else SIDES[mark.laterality],
        "" if mark.area_mm2 is None else f"{mark.area_mm2:.0f} {AREA}",
        "its image is not here" if mark.marked is None else _name(mark.marked, {}),
    ]
    return ", ".join(part for part in known if part)


def _title(lines: Sequence[str], width: int) -> Image.Image:
    title = Image.new("RGB", (width, 2 * TITLE_PX + 14), BACKGROUND)
    pen = ImageDraw.Draw(title)
    pen.text((0, 0), lines[0], font=_font(TITLE_PX), fill=INK)
    pen.text((0, TITLE_PX + 5), lines[1], font=_font(TEXT_PX), fill=FAINT)
    return title


def _beside(cells: Sequence[Image.Image]) -> Image.Image:
    wide = sum(cell.width for cell in cells) + GAP * (len(cells) - 1)
    row = Image.new("RGB", (wide, max(cell.height for cell in cells)), BACKGROUND)
    left = 0
    for cell in cells:
        row.paste(cell, (left, 0))
        left += cell.width + GAP
    return row


def _text_block(lines: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    font = _font(TEXT_PX)
    wrapped = [(part, colour) for line, colour in lines for part in _wrap(line, width)]
    step = TEXT_PX + 8
    block = Image.new("RGB", (width, step * len(wrapped)), BACKGROUND)
    pen = ImageDraw.Draw(block)
    for n, (line, colour) in enumerate(wrapped):
        pen.text((0, n * step), line, font=font, fill=colour)
    return block


def _wrap(text: str, width: int) -> list[str]:
    font, lines = _font(TEXT_PX), [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: Colour
) -> None:
    pen.text(at, text, font=_font(TEXT_PX), fill=colour)


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)
