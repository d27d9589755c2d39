"""A document becomes one HTML that needs nothing else, and files beside it."""

import base64
import csv
import io
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dicom_node.errors import SettingsError
from training.durable import whole_folder
from training.report.document import (
    Block,
    Checklist,
    Document,
    Figure,
    Panel,
    Prose,
    Table,
)
from training.report.sheets import picture, together
from training.report.words import NOT_COMPUTABLE

HTML_NAME: Final = "report.html"
STATUSES: Final = {
    "answered": "answered",
    "partly": "partly",
    "authors": "authors to fill in",
    "not applicable": "not applicable",
}
TEMPLATES: Final = {
    Table: "table.html.j2",
    Figure: "figure.html.j2",
    Checklist: "checklist.html.j2",
    Prose: "prose.html.j2",
}
INTERVAL: Final = re.compile(r"(\(\S?\d[^()]{2,22}\)|\d+/\d+)")
SHORT: Final = 15
"""Letters of a cell that is never broken."""

DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def html(document: Document) -> str:
    """Return the page; the same document gives the same text."""
    environment = Environment(
        loader=PackageLoader("training.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    names = document.names()
    environment.globals.update(uri=_uri, kind=_kind, status=STATUSES, names=names)
    environment.filters.update(whole=_whole, spans=_spans)
    blocks = {
        block.key: Markup(  # noqa: S704 - rendered by our own escaping templates
            environment.get_template(TEMPLATES[type(block)]).render(block=block)
        )
        for block in document.blocks()
    }
    style = files("training.report").joinpath("templates/style.css").read_text("utf-8")
    page = environment.get_template("report.html.j2")
    return page.render(document=document, blocks=blocks, style=Markup(style))  # noqa: S704 - our own file


def _uri(panel: Panel) -> str:
    kind, content = "svg+xml", panel.svg
    if content is None:
        kind, content = "png", panel.png
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _spans(cells: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return each cell with the columns it takes: a reason takes the empty ones too."""
    spans: list[tuple[str, int]] = []
    for cell in cells:
        if spans and not cell and spans[-1][0].startswith(NOT_COMPUTABLE):
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((cell, 1))
    return spans


def _whole(cell: str) -> Markup:
    """Keep an interval, and a number with what follows it, on one line."""
    if len(cell) <= SHORT:
        return Markup('<span class="nb">{}</span>').format(cell)
    parts = INTERVAL.split(cell)
    kept = Markup('<span class="nb">{}</span>')
    return Markup().join(
        kept.format(part) if n % 2 else part for n, part in enumerate(parts)
    )


def _kind(cell: str) -> Markup:
    if cell.startswith(NOT_COMPUTABLE):
        return Markup(' class="none"')
    return Markup(' class="hash"') if DIGEST.search(cell) else Markup()


def demand_empty(out: Path) -> None:
    """Let a missing or empty folder pass.

    Raises:
        SettingsError: There is something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not empty; name a new folder for the report")


def write(document: Document, out: Path) -> Path:
    """Write a report into a new or empty folder, whole or not at all.

    Returns:
        The path of the page.

    Raises:
        SettingsError: The folder holds something already, or cannot be written.
    """
    demand_empty(out)
    content = html(document)
    try:
        with whole_folder(out) as draft:
            (draft / HTML_NAME).write_text(content, encoding="utf-8")
            for block in document.blocks():
                _write_block(draft, block)
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror}") from error
    return out / HTML_NAME


def _write_block(folder: Path, block: Block) -> None:
    if isinstance(block, Table):
        rows = [row.cells if not row.heading else row.cells[:1] for row in block.rows]
        _write_csv(folder / f"{block.key}.csv", block.header, rows)
        (folder / f"{block.key}.png").write_bytes(picture(block))
    elif isinstance(block, Figure):
        if block.panels:
            (folder / f"{block.key}.png").write_bytes(together(block.panels))
        if block.rows:
            _write_csv(folder / f"{block.key}.csv", block.header, block.rows)
    elif isinstance(block, Checklist):
        items = [
            (i.number, i.part, i.asks, i.status, " ".join(i.where), i.note)
            for i in block.items
        ]
        header = ("item", "part", "asks for", "status", "where", "note")
        _write_csv(folder / f"{block.key}.csv", header, items)


def _write_csv(
    path: Path, header: tuple[str, ...], rows: Sequence[Sequence[str]]
) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(header)
    table.writerows([(*row, *[""] * (len(header) - len(row))) for row in rows])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
