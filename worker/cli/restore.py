"""`sentinode restore`: put a backup back into an empty folder."""

from pathlib import Path

import click

from worker import backup
from worker.cli.backup import report
from worker.cli.context import place_options, read_settings
from worker.cli.printing import json_option


@click.command("restore")
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--check", is_flag=True, help="Only compare every file with its digest.")
@json_option
@place_options
def command(
    folder: Path,
    *,
    check: bool,
    as_json: bool,
    **where: str | None,
) -> None:
    """Put the backup in FOLDER into an empty data folder, and an empty database.

    Every file is compared with its digest first; nothing is written unless all agree.
    """
    if check:
        report(backup.verify(folder), f"{folder} is whole", as_json=as_json)
        return
    settings = read_settings(**where)
    made = backup.restore(settings, folder)
    report(made, f"restored to {settings.data_dir}", as_json=as_json)
