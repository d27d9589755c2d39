"""`make chaos`: the kill matrix, its table, and exit code 1 when anything is wrong."""

import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tests.chaos.matrix import Matrix, Run, jobs
from tests.chaos.points import BY_NAME, POINTS, POSTGRESQL, SQLITE, UP

COLUMNS = ("runs", "fired", "lost", "duplicated", "wrong", "unclean", "errors")


@click.command()
@click.option("--runs", default=50, show_default=True, help="Runs of each point.")
@click.option(
    "--seed", default=1, show_default=True, help="What all else follows from."
)
@click.option("--point", "names", multiple=True, type=click.Choice(list(BY_NAME)))
@click.option("--only", type=int, help="This run of a point alone.")
@click.option("--json", "document", type=click.Path(path_type=Path))
@click.option("--lanes", default=2, show_default=True, help="Per database.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.")
def main(
    runs: int,
    seed: int,
    names: Sequence[str],
    only: int | None,
    document: Path | None,
    lanes: int,
    folder: Path | None,
) -> None:
    """Kill everything everywhere, and look whether anything is lost or twice.

    Example: python -m tests.chaos --point delivery-mid-send --runs 5 --seed 7
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    logging.disable(logging.WARNING)  # what the product says in here is no news
    console = Console(stderr=True)
    todo = jobs(names or list(BY_NAME), runs, seed, only)
    matrix = Matrix(todo, {SQLITE: lanes, POSTGRESQL: lanes, UP: 1}, folder)
    done = []
    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("killing", total=len(todo))
        for run in matrix.results():
            done.append(run)
            if document is not None:
                write(document, done)
            progress.update(bar, advance=1, description=run.job.point)
            if run.failed:
                tell(progress.console, run)
    seconds = time.monotonic() - started
    Console(width=140).print(table(done, f"seed {seed}, {seconds / 60:.0f} min"))
    if any(run.failed for run in done):
        sys.exit(1)
    if folder is None:
        shutil.rmtree(matrix.folder, ignore_errors=True)


def write(document: Path, runs: Sequence[Run]) -> None:
    """Write what has been made so far: a long matrix may be stopped."""
    draft = document.with_name(f"{document.name}.part")
    draft.write_text(json.dumps([each.as_document() for each in runs], indent=1))
    draft.replace(document)


def tell(console: Console, run: Run) -> None:
    """Say what is wrong with a run, where it lies, and how to make it again."""
    console.print(f"[bold]{run.job.point} {run.job.number}[/] ({run.job.database})")
    for sentence in run.sentences():
        console.print(f"  {sentence}", markup=False)
    console.print(f"  killed: {run.killed}\n  kept: {run.folder}", markup=False)
    console.print(f"  again: {run.job.again}", markup=False)


def table(runs: Iterable[Run], title: str) -> Table:
    """Count what went wrong at each point."""
    by_point: dict[str, list[Run]] = {}
    for run in runs:
        by_point.setdefault(run.job.point, []).append(run)
    found = Table(title=f"Kill matrix: {title}")
    for name in ("point", "process", "killed", "on", *COLUMNS, "s/run"):
        found.add_column(name, justify="right" if name in COLUMNS else "left")
    totals = [0] * len(COLUMNS)
    for point in POINTS:
        made = by_point.get(point.name, [])
        if not made:
            continue
        counts = counted(made)
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        databases = ", ".join(sorted({run.job.database for run in made}))
        pace = sum(run.seconds for run in made) / len(made)
        row = (point.name, point.process, point.what, databases)
        found.add_row(*row, *map(str, counts), f"{pace:.1f}")
    found.add_row("all", "", "", "", *map(str, totals), "", style="bold")
    return found


def counted(runs: Sequence[Run]) -> list[int]:
    """Return the numbers of one row."""
    kinds = ("lost", "duplicated", "wrong", "unclean")
    faults = [sum(len(getattr(run, kind)) for run in runs) for kind in kinds]
    errors = sum(run.error is not None for run in runs)
    return [len(runs), sum(run.fired for run in runs), *faults, errors]


if __name__ == "__main__":
    main()
