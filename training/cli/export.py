"""`python -m training export`."""

from pathlib import Path

import click

from training import export as exports
from training import site_key, snapshot
from training.cli.cohort import EXISTING, FOLDER, bar, of_database


@click.command("export")
@click.option("--cohort", "folder", type=EXISTING, help="A snapshot or cohort folder.")
@click.option("--data-dir", type=FOLDER, help="An installation [SENTINODE_DATA_DIR].")
@click.option("--database-url", help="Its database, if not in the data folder.")
@click.option("--out", type=FOLDER, required=True, help="New folder to write.")
@click.option(
    "--site-key", "key", type=FOLDER, help="Key file [default: site.key beside --out]."
)
def export(
    folder: Path | None,
    data_dir: Path | None,
    database_url: str | None,
    out: Path,
    key: Path | None,
) -> None:
    """Export a cohort without what identifies a patient, so that sites can pool data.

    Marked slices, rectangles and a table; see export.json for what was removed. The
    key stays at the site: with it the same patients get the same pseudonyms again.

    Example: python -m training export --cohort s1 --out pooled
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: an export is never written over")
    secret = site_key.read_or_create(key or out.with_name("site.key"))
    if folder is not None:
        with bar("Reading slices", snapshot.count(folder)) as tick:
            found = snapshot.load(folder, tick)
    else:
        found = of_database(data_dir, database_url)
    with bar("Writing cases", len(found)) as tick:
        manifest = exports.export(found, secret, out, tick)
    left = manifest["excluded_from_export"] or "none"
    click.echo(f"{out}: {manifest['cases']} cases; kept back: {left}")
    for what, n in manifest["to_check"].items():
        click.echo(f"to check by eye: {what} ({n} cases)")
