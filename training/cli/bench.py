"""`python -m training bench`."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training import bench
from training.bench import COHORTS, Row, Size

FOLDER = click.Path(file_okay=False, path_type=Path)
POSITIVE = click.IntRange(min=1)


@click.command("bench")
@click.option("--draws", type=POSITIVE, default=3, show_default=True)
@click.option("--cases", type=click.IntRange(min=50), default=519, show_default=True)
@click.option("--fresh", type=click.IntRange(min=50), default=1500, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--threads", type=POSITIVE, default=1, show_default=True)
@click.option("--out", type=FOLDER, help="Folder for bench.csv, .json and .png.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench_command(  # noqa: PLR0913, PLR0917 - one parameter per option of the contract
    draws: int,
    cases: int,
    fresh: int,
    seed: int,
    threads: int,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure the default recipe and its controls on the phantom, level bench.

    Each row is the mean over training draws, on fresh patients of each centre's law.

    Example: python -m training bench --draws 3 --out bench
    """
    size = Size(draws, cases, fresh, seed)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Drawing phantoms", total=size.total)
        drawn = bench.draw(size, lambda: progress.advance(bar))
        bar = progress.add_task("Features, in batches", total=None)
        models = bench.contenders(
            bench.default_recipe(threads), lambda: progress.advance(bar)
        )
        rows = list(bench.compare(*drawn, models, seed))
    if out is not None:
        bench.write(rows, size, out)
    if as_json:
        click.echo(bench.as_json(rows, size), nl=False)
    else:
        Console(width=120).print(_table(rows, size))


def _table(rows: list[Row], size: Size) -> Table:
    table = Table(
        title=f"SLN AUC, n = {size.cases}, mean and SD of {size.draws} draws, "
        f"{size.fresh} fresh cases (part of the best possible); P: DeLong against the "
        "network, the largest of the draws"
    )
    table.add_column("Model")
    for cohort in COHORTS:
        table.add_column(f"{cohort} (target {bench.TARGETS[cohort]:.2f})")
    for model in dict.fromkeys(row.model for row in rows):
        here = {row.cohort: row for row in rows if row.model == model}
        table.add_row(model, *(_cell(here[cohort]) for cohort in COHORTS))
    return table


def _cell(row: Row) -> str:
    spread = f" ± {row.sd:.3f}" if row.draws > 1 else ""
    said = f"{row.mean:.3f}{spread} ({row.share:.0%})"
    return f"{said}, P <= {max(row.p):.1g}" if row.p else said
