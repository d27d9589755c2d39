"""`sentinode backup`: copy a running installation, and check the copy."""

from pathlib import Path

import click

from dicom_node.db import now
from worker import backup
from worker.backup import Backup
from worker.cli import signed
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json

folder_type = click.Path(file_okay=False, path_type=Path)


@click.command("backup")
@click.option(
    "--out", required=True, type=folder_type, help="A new folder for the backup."
)
@json_option
@site_options
def command(site: Site, out: Path, *, as_json: bool) -> None:
    """Copy database, spool, models and patient key while everything runs.

    The copy holds patients' images and the key of the patient hashes: keep it as
    closely as the data folder. The secrets that it names and does not hold are kept
    elsewhere by the site.
    """
    made = backup.make(site.settings, out, now())
    with site.writing.begin() as session:
        signed.exported(session, site, "backup", f"{len(made.files)} files")
    report(made, f"copied to {out}", as_json=as_json)


def report(made: Backup, what: str, *, as_json: bool) -> None:
    """Say what a backup holds, and what must be kept beside it."""
    if as_json:
        print_json(
            {
                "created_at": made.created_at,
                "revision": made.revision,
                "database": made.database,
                "files": len(made.files),
                "bytes": made.bytes,
                "secrets": list(made.secrets),
            }
        )
        return
    click.echo(
        f"{what}: {len(made.files)} files, {made.bytes} bytes, schema {made.revision}"
    )
    if made.secrets:
        click.echo(f"not in it, keep them yourself: {', '.join(made.secrets)}")
