"""`sentinode results export`: results as CSV or Parquet."""

import csv
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, TextIO

import click

from dicom_node.errors import SettingsError
from worker import export
from worker.cli import signed
from worker.cli.context import DAY, Site, site_options
from worker.cli.printing import json_option, print_json, rfc3339
from worker.export import COLUMNS, Cell, Extract

PARQUET_TYPES: Final = {
    str: "string",
    float: "float64",
    int: "int64",
    bool: "bool",
}


@click.command("export")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File, .csv or .parquet; without it CSV goes to stdout.",
)
@click.option("--since", type=DAY, help="Results of that day or later, UTC.")
@click.option("--until", type=DAY, help="Results before that day, UTC.")
@click.option("--all-versions", is_flag=True, help="Superseded results too.")
@json_option
@site_options
def command(  # noqa: PLR0913 - one argument for each option
    site: Site,
    out: Path | None,
    since: datetime | None,
    until: datetime | None,
    *,
    all_versions: bool,
    as_json: bool,
) -> None:
    """Write results as a table, one row each. RESEARCH USE ONLY, not a diagnosis.

    No column names a patient. Parquet needs the extra `sentinode[parquet]`.

    Example: sentinode results export --since 2026-01-01 --out results.parquet
    """
    if as_json and out is None:
        raise click.UsageError("--json says what was written: it goes with --out")
    extract = Extract(since, until, all_versions)
    with site.reading() as session:
        found = export.rows(session, extract)
        if out is None:
            count = _write_csv(found, sys.stdout)
        else:
            count = _write_file(found, out)
    with site.writing.begin() as session:
        signed.exported(session, site, "results export", f"{count} results")
    if as_json:
        print_json({"file": out, "results": count})
    elif out is not None:
        click.echo(f"{count} results in {out}")


def _write_file(found: Iterator[dict[str, Cell]], out: Path) -> int:
    """Write a file whole or not at all."""
    draft = out.with_name(f".{out.name}.part")
    try:
        if out.suffix == ".parquet":
            count = _write_parquet(found, draft)
        elif out.suffix == ".csv":
            with draft.open("w", newline="", encoding="utf-8") as stream:
                count = _write_csv(found, stream)
        else:
            raise click.UsageError(f"{out} ends neither in .csv nor in .parquet")
        draft.replace(out)
    except OSError as error:
        raise SettingsError(
            f"{out} cannot be written: {error.strerror}; name another file"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return count


def _write_csv(found: Iterable[dict[str, Cell]], stream: TextIO) -> int:
    table = csv.DictWriter(stream, list(COLUMNS))
    table.writeheader()
    count = 0
    for row in found:
        times = {k: rfc3339(v) for k, v in row.items() if isinstance(v, datetime)}
        table.writerow(row | times)
        count += 1
    return count


def _write_parquet(found: Iterator[dict[str, Cell]], path: Path) -> int:
    try:
        import pyarrow as pa  # noqa: PLC0415 - heavy, and only for this format
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SettingsError(
            "Parquet needs pyarrow: install sentinode[parquet], or write a .csv"
        ) from error
    schema = pa.schema(
        [
            (
                name,
                pa.timestamp("ms", tz="UTC")
                if kind is datetime
                else getattr(pa, PARQUET_TYPES[kind].replace("bool", "bool_"))(),
            )
            for name, kind in COLUMNS.items()
        ]
    )
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while part := list(islice(found, export.BATCH)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            count += len(part)
    return count
