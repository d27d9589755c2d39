"""`python -m training publish`."""

from pathlib import Path
from typing import Any

import click

from training import registry
from training.cli.site import (
    decision,
    json_option,
    print_json,
    read_settings,
    read_snapshot,
)
from training.settings import TrainingSettings
from training.site import opened
from training.snapshot import Snapshot

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("publish")
@click.argument("source", metavar="RUN|MODEL", type=FOLDER)
@click.option("--models", type=click.Path(path_type=Path), help="Folder of models.")
@click.option("--snapshot", "cohort", type=FOLDER, help="What it learned from.")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Installation.")
@click.option("--database-url", help="SQLAlchemy URL; default: SQLite in the folder.")
@json_option
def publish(  # noqa: PLR0913 - one parameter per option
    source: Path,
    models: Path | None,
    cohort: Path | None,
    data_dir: str | None,
    database_url: str | None,
    *,
    as_json: bool,
) -> None:
    """Install a model, or every model of a run, and register it as a candidate.

    Weights are checked and loaded first; the model appears whole or not at all. With
    its snapshot it can be compared: without, nobody knows which patients it saw.
    Without an installation (--data-dir) it is only installed into --models.

    Example: python -m training publish out --snapshot cohort --data-dir DIR
    """
    data = read_snapshot(cohort) if cohort else None
    found = registry.found_in(source)
    settings = _site_settings(data_dir, database_url, models)
    if settings is None:
        if models is None:
            raise click.UsageError("give --data-dir, or --models, or both")
        rows = [_installed(path, models, data) for path in found]
    else:
        rows = [_registered(path, settings, data) for path in found]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['model']}: {row['status']}, snapshot {row['snapshot_id']}")


def _site_settings(
    data_dir: str | None, database_url: str | None, models: Path | None
) -> TrainingSettings | None:
    """Return the settings of the installation, None where none is named."""
    flags = {
        "data_dir": data_dir,
        "database_url": database_url,
        "models_dir": models,
    }
    if data_dir is None and models is not None:
        try:
            return read_settings(**flags)
        except click.UsageError:
            return None
    return read_settings(**flags)


def _installed(path: Path, models: Path, data: Snapshot | None) -> dict[str, Any]:
    manifest = registry.install(path, models, data)
    return {
        "model": manifest.reference,
        "stage": manifest.stage,
        "weights_sha256": manifest.weights_sha256,
        "status": "installed, not registered",
        "snapshot_id": data.id if data else None,
    }


def _registered(
    path: Path, settings: TrainingSettings, data: Snapshot | None
) -> dict[str, Any]:
    with opened(settings) as site:
        version = registry.publish(path, site, data, decision())
    return {
        "model": version.reference,
        "stage": version.stage,
        "weights_sha256": version.weights_sha256,
        "status": version.status,
        "snapshot_id": version.snapshot_id,
    }
