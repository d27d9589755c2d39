"""What the commands on an installation share: settings, JSON, who decides."""

import getpass
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node.db import now
from dicom_node.errors import SettingsError
from dicom_node.settings import load
from training import snapshot
from training.settings import TrainingSettings
from training.site import opened
from training.snapshot import Snapshot
from worker.registry import Decision
from worker.tables import ActivationKind

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead."
)


def read_settings(**flags: object) -> TrainingSettings:
    """Read the settings; a fault in them is wrong usage (exit code 2)."""
    try:
        return load(TrainingSettings, **flags)
    except SettingsError as error:
        hint = "Set each variable, or give its option, --data-dir for one."
        raise click.UsageError(f"{error}\n{hint}") from error


def site_options(function: F) -> F:
    """Add what names an installation; the command gets a Site as `site`."""

    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False),
        help="Folder of the installation [SENTINODE_DATA_DIR].",
    )
    @click.option(
        "--database-url", help="SQLAlchemy URL; default: SQLite in the data folder."
    )
    @click.option(
        "--models",
        "models_dir",
        type=click.Path(file_okay=False),
        help="Folder of the installed models; default: models in the data folder.",
    )
    @wraps(function)
    def wrapped(
        *args: object,
        data_dir: str | None,
        database_url: str | None,
        models_dir: str | None,
        **kwargs: object,
    ) -> object:
        settings = read_settings(
            data_dir=data_dir, database_url=database_url, models_dir=models_dir
        )
        with opened(settings) as site:
            return function(*args, site=site, **kwargs)

    return wrapped  # type: ignore[return-value]  # click reads the wrapped signature


def decision(
    reason: str | None = None, kind: ActivationKind = ActivationKind.ACTIVATED
) -> Decision:
    """Return that the person at the keyboard decides now."""
    return Decision(getpass.getuser(), now(), reason, kind)


def read_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot or a cohort folder, with a progress bar."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Reading cases", total=snapshot.count(folder))
        return snapshot.load(folder, lambda: progress.advance(bar))


def print_json(value: object) -> None:
    """Print one JSON document; times are RFC 3339 UTC."""
    click.echo(json.dumps(value, indent=2, default=_encode, ensure_ascii=False))


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        text = value.astimezone(UTC).isoformat(timespec="milliseconds")
        return text.replace("+00:00", "Z")
    return str(value)
