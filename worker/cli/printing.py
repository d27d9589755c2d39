"""What commands print: tables for people, JSON for scripts."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Console
from rich.table import Table

WIDE: Final = 240

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead."
)


def print_json(value: object) -> None:
    """Print one JSON document; times are RFC 3339 UTC."""
    click.echo(json.dumps(value, indent=2, default=_encode, ensure_ascii=False))


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    return str(value)


def rfc3339(value: datetime) -> str:
    """Write a time as RFC 3339 in UTC, to the millisecond."""
    text = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    err: bool = False,
) -> None:
    """Print a table for people; identifiers are folded, never cut off.

    Into a pipe or a file its lines stay whole. `err` writes to stderr: what is shown
    before a question is no result.
    """
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else _cell(cell) for cell in row))
    is_terminal = (sys.stderr if err else sys.stdout).isatty()
    Console(width=None if is_terminal else WIDE, stderr=err).print(table)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)
