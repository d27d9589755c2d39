"""`python -m training demo-models`."""

from pathlib import Path

import click
from rich.console import Console

from training.demo_models import DemoPlan, ensure_demo_models

FOLDER = click.Path(path_type=Path)


@click.command("demo-models")
@click.option("--out", type=FOLDER, required=True, help="Folder of models.")
@click.option("--cases", type=click.IntRange(min=100), default=1200, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def demo_models(out: Path, cases: int, seed: int) -> None:
    """Train both stages on phantoms in memory, unless they are there.

    Example: python -m training demo-models --out models
    """
    plan = DemoPlan(cases=cases, seed=seed)
    for path in ensure_demo_models(out, Console(stderr=True), plan).values():
        click.echo(path)
