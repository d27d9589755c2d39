"""`python -m training bench`."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training import bench
from training.bench import COHORTS, PINS, Difference, Row, Size
from training.contenders import contenders

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
    Exit code 1 when a simple model reaches more than the phantom is pinned to.

    Example: python -m training bench --draws 3 --out bench
    """
    size = Size(draws, cases, fresh, seed)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Drawing phantoms", total=size.total)
        drawn = bench.draw(size, lambda: progress.advance(bar))
        bar = progress.add_task("Features, in batches", total=None)
        models = contenders(
            bench.default_recipe(threads), lambda: progress.advance(bar)
        )
        measured = bench.measure_all(*drawn, models, seed)
    if out is not None:
        bench.write(measured, size, out)
    if as_json:
        click.echo(bench.as_json(measured, size), nl=False)
    else:
        console = Console(width=120)
        console.print(_table(measured.rows, size))
        console.print(_differences(measured.differences))
    for row in measured.too_easy:
        bound = PINS[row.model, row.cohort]
        click.echo(
            f"{row.model} reaches {row.mean:.3f} on {row.cohort}, above {bound:.2f}: "
            "the phantom is easier than it is pinned to be",
            err=True,
        )
    if measured.too_easy:
        raise SystemExit(1)


def _table(rows: Sequence[Row], size: Size) -> Table:
    table = Table(
        title=f"SLN AUC, n = {size.cases}, mean and SD of {size.draws} draws, "
        f"{size.fresh} fresh cases (part of the best possible)"
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
    pin = PINS.get((row.model, row.cohort))
    bound = f", at most {pin:.2f}" if pin is not None else ""
    return f"{row.mean:.3f}{spread} ({row.share:.0%}{bound})"


def _differences(differences: Sequence[Difference]) -> Table:
    table = Table(
        title="Mean AUC of one model less another's on the same cases (95% interval), "
        "DeLong's P of the mean, and of each draw alone"
    )
    for column in ("Above", "Below", "Law", "Difference", "P", "P of each draw"):
        table.add_column(column)
    for one in differences:
        table.add_row(
            one.better,
            one.worse,
            one.cohort,
            f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})",
            f"{one.p:.1g}",
            ", ".join(f"{p:.1g}" for p in one.p_of_draws),
        )
    return table
