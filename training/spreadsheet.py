"""Tables as spreadsheets write them: any of three delimiters, a BOM, decimal commas.

What a file cannot be read as is said with its line and column, never with a value:
a cell may hold what names a patient.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.errors import SettingsError

DELIMITERS: Final = ",;\t"
UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
WORKBOOK_MARKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # xlsx and xls
DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+", re.ASCII)
MAX_BYTES: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: its number in the file, and its cells by column."""

    number: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text; `columns` in the order of the file."""

    path: Path
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def read(path: Path, required: Sequence[str]) -> Table:
    """Read a table; blanks around a cell do not count, empty lines neither.

    In a file whose delimiter is no comma, a number may have a decimal comma.

    Raises:
        SettingsError: The file cannot be read, is a workbook, lacks a column, has one
            twice, or has a line of another length.
    """
    text = _text(path)
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = _columns(path, next(reader, []), required)
        lines = [
            _line(path, reader.line_num, columns, cells)
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise SettingsError(
            f"{path}: line {reader.line_num} cannot be read as CSV ({error}): a "
            "quotation mark is open or misplaced; export the table again"
        ) from error
    if not lines:
        raise SettingsError(f"{path} has no rows below its column names")
    if delimiter != ",":
        lines = [_with_points(line) for line in lines]
    return Table(path, columns, tuple(lines))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SettingsError(f"{path} is larger than {MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith(WORKBOOK_MARKS):
        raise SettingsError(f"{path} is a workbook: save it as CSV (UTF-8)")
    try:
        if content.startswith(UTF16_MARKS):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # as Western Europe saves it


def _delimiter(text: str) -> str:
    head = text.partition("\n")[0]
    return max(DELIMITERS, key=head.count)


def _columns(
    path: Path, names: Sequence[str], required: Sequence[str]
) -> tuple[str, ...]:
    columns = tuple(name.strip().casefold() for name in names)
    missing = [name for name in required if name not in columns]
    if missing:
        raise SettingsError(
            f"{path}: line 1 lacks the column(s) {', '.join(missing)}; it has "
            f"{len(columns)}, separated by comma, semicolon or tab"
        )
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise SettingsError(
            f"{path}: line 1 has the column(s) {', '.join(twice)} twice: keep one"
        )
    return columns


def _line(
    path: Path, number: int, columns: Sequence[str], cells: Sequence[str]
) -> Line:
    if len(cells) != len(columns):
        raise SettingsError(
            f"{path}: line {number} has {len(cells)} cells, and line 1 names "
            f"{len(columns)} columns: quote cells that hold the delimiter"
        )
    return Line(
        number, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    )


def _with_points(line: Line) -> Line:
    return Line(
        line.number,
        {
            name: cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell
            for name, cell in line.cells.items()
        },
    )
