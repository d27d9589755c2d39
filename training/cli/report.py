"""`python -m training report`."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node import __version__
from training import scores, snapshot
from training.report import build, render, served

FOLDER = click.Path(path_type=Path)


@click.command("report")
@click.option("--evaluation", type=FOLDER, required=True, help="What evaluate wrote.")
@click.option("--out", type=FOLDER, required=True, help="New or empty folder.")
@click.option("--cohort", type=FOLDER, help="Snapshot: exclusions and pixels.")
@click.option("--models", type=FOLDER, help="Folder of models: cards and maps.")
def report(
    evaluation: Path, out: Path, cohort: Path | None, models: Path | None
) -> None:
    """Write the tables and figures of the paper for an evaluation.

    Example: python -m training report --evaluation evaluation --out report
    """
    render.demand_empty(out)
    found = scores.read(evaluation)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Computing the report", total=None)
        frozen = (
            snapshot.load(cohort, lambda: progress.advance(bar)) if cohort else None
        )
        if frozen is not None:
            build.demand_same(found, frozen)
        networks, warnings = served.find(found, models) if models else ({}, [])
        command = ["python -m training report", f"--evaluation {evaluation.name}"]
        command += [f"--cohort {cohort.name}"] if cohort else []
        command += [f"--models {models.name}"] if models else []
        sources = build.Sources(
            found,
            frozen,
            networks,
            (*command, "--out DIR"),
            __version__,
            tuple(warnings),
        )
        page = render.write(build.build(sources), out)
    click.echo(page)
