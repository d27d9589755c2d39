"""`python -m training phantom`."""

from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from training.phantom import law as laws
from training.phantom import writer
from training.phantom.anatomy import Level
from training.statistics.auc import auc

FOLDER = click.Path(path_type=Path)
ORACLE_CASES: Final = 100_000


@click.command("phantom")
@click.option("--out", type=FOLDER, required=True, help="New or empty folder.")
@click.option("--cases", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--level",
    type=click.Choice(Level, case_sensitive=False),
    default=Level.BENCH.value,
    show_default=True,
    help="How plainly the latents show; bench is the benchmark.",
)
@click.option(
    "--centre", type=click.IntRange(1, 3), default=None, help="One centre only."
)
@click.option(
    "--slices",
    type=click.Choice([1, 3]),
    default=3,
    show_default=True,
    help="Slices of each phase; 1 writes the marked position alone, for large cohorts.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that draw.",
)
def phantom(  # noqa: PLR0913, PLR0917 - one parameter per option of the contract
    out: Path,
    cases: int,
    seed: int,
    level: Level,
    centre: int | None,
    slices: int,
    workers: int,
) -> None:
    """Write a synthetic DCE-MRI cohort as DICOM.

    988 cases, or a multiple, are the paper's cohorts: 519, 129, 296 and 44.

    Example: python -m training phantom --out /tmp/phantom --cases 20 --seed 1
    """
    console = Console(stderr=True)
    order = writer.Order(cases, seed, level, centre, slices)
    with Progress(console=console) as progress:
        bar = progress.add_task("Writing phantoms", total=cases)
        for _ in writer.write(order, out, workers):
            progress.advance(bar)
    for law in laws.COHORTS:
        if centre in {None, law.centre}:
            patients = laws.draw(law, ORACLE_CASES, seed)
            known = patients.nsln >= 0
            click.echo(
                f"{law.name} (centre {law.centre}): best possible SLN AUC "
                f"{auc(patients.sln, patients.sln_score):.3f}, size alone "
                f"{auc(patients.sln, patients.size):.3f}; best possible NSLN AUC "
                f"{auc(patients.nsln[known], patients.nsln_score[known]):.3f}"
            )
