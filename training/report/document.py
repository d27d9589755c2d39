"""What a report is made of, before anyone decides how it looks.

Every number reaches the page as the text of a cell or a note, and the same text goes
into the CSV of that table: there is one rounding, here and in `training.report.words`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; `heading` makes it a band over the rows that follow.

    `major` bands stand above others.
    """

    cells: tuple[str, ...]
    heading: bool = False
    major: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `key` names its files and its anchor, `notes` define its numbers."""

    key: str
    label: str
    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a figure, as SVG where it is drawn and PNG always.

    `alt` says in words what it shows, `caption` stands below it. `width` is its
    natural width in CSS pixels.
    """

    name: str
    alt: str
    png: bytes
    svg: bytes | None
    width: int
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one or more panels, with the numbers that it draws."""

    key: str
    label: str
    title: str
    panels: tuple[Panel, ...]
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a reporting guideline and where the report answers it.

    `status` is answered, partly, authors or not applicable; `where` are keys of
    tables, figures and sections.
    """

    number: str
    part: str
    asks: str
    status: str
    where: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Checklist:
    """A reporting guideline; the wording of its items is abridged."""

    key: str
    title: str
    source: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Prose:
    """Paragraphs, or a list of definitions: pairs of a term and what it means."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()


Block: TypeAlias = Table | Figure | Checklist | Prose


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter of the report."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report; `warnings` stand on its first page."""

    title: str
    subtitle: str
    synthetic: bool
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: str

    def blocks(self) -> Iterator[Block]:
        """Yield every block, in order."""
        for section in self.sections:
            yield from section.blocks

    def names(self) -> dict[str, str]:
        """Return what to call each anchor of the document."""
        called = {section.key: section.title for section in self.sections}
        for block in self.blocks():
            label = block.label if isinstance(block, Table | Figure) else block.title
            called[block.key] = label
        return called
