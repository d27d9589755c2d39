"""`python -m training`: phantoms, training and the demonstration."""

from pathlib import Path
from typing import Final

import click
import torch
from rich.console import Console
from rich.progress import Progress

from dicom_node.errors import NodeError, SettingsError
from dicom_node.findings import Stage
from training import cohort, demo, publish
from training.config import PRESETS
from training.phantom import law as laws
from training.phantom import writer
from training.phantom.anatomy import Level
from training.publish import Origin
from training.registry import DemoPlan, ensure_demo_models, summary
from training.statistics.auc import auc
from training.train import Task, steps, train
from worker import models
from worker.weights import load_stage

ORACLE_CASES: Final = 100_000
MODEL_NAMES: Final = {Stage.SLN: "resnet18-sln", Stage.NSLN: "resnet18-nsln"}
FOLDER = click.Path(path_type=Path)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Turn an error raised on purpose into one sentence and exit code 1."""
        try:
            return super().invoke(ctx)
        except (NodeError, FileExistsError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def main() -> None:
    """Train and try Sentinode models. Research use only."""


@main.command("phantom")
@click.option("--out", type=FOLDER, required=True, help="New or empty folder.")
@click.option("--cases", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--level",
    type=click.Choice(Level, case_sensitive=False),
    default=Level.BENCH,
    show_default=True,
    help="How plainly the latents show; bench is the benchmark.",
)
@click.option(
    "--centre", type=click.IntRange(1, 3), default=None, help="One centre only."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that draw.",
)
def phantom(  # noqa: PLR0913, PLR0917 - one parameter per option of the contract
    out: Path, cases: int, seed: int, level: Level, centre: int | None, workers: int
) -> None:
    """Write a synthetic DCE-MRI cohort as DICOM.

    Example: python -m training phantom --out /tmp/phantom --cases 20 --seed 1
    """
    console = Console(stderr=True)
    order = writer.Order(cases, seed, level, centre)
    with Progress(console=console) as progress:
        bar = progress.add_task("Writing phantoms", total=cases)
        for _ in writer.write(order, out, workers):
            progress.advance(bar)
    for law in laws.COHORTS:
        if centre in {None, law.centre}:
            patients = laws.draw(law, ORACLE_CASES, seed)
            click.echo(
                f"{law.name} (centre {law.centre}): best possible SLN AUC "
                f"{auc(patients.sln, patients.sln_score):.3f}, size alone "
                f"{auc(patients.sln, patients.size):.3f}"
            )


@main.command("train")
@click.option("--cohort", "folder", type=FOLDER, required=True)
@click.option(
    "--stage", type=click.Choice(["sln", "nsln"]), required=True, help="Which network."
)
@click.option(
    "--preset", type=click.Choice(sorted(PRESETS)), default="default", show_default=True
)
@click.option("--out", type=FOLDER, required=True, help="Folder of models.")
@click.option(
    "--parent", type=FOLDER, help="Folder of the SLN model that NSLN starts from."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def train_command(  # noqa: PLR0913, PLR0917 - one parameter per option of the contract
    folder: Path, stage: str, preset: str, out: Path, parent: Path | None, seed: int
) -> None:
    """Train one stage on a cohort and publish it.

    Example: python -m training train --cohort /tmp/phantom --stage sln --out models
    """
    recipe = PRESETS[preset].model_copy(update={"seed": seed})
    target = Stage(stage.upper())
    if target is Stage.NSLN and parent is None:
        parent = _trunk(out)
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        task, origin = _prepare(folder, target, parent, progress)
        bar = progress.add_task(f"Training {task.stage}", total=steps(task, recipe))
        trained = train(task, recipe, lambda: progress.advance(bar))
    path = publish.publish(trained, out, origin)
    click.echo(summary(models.verify(path)))
    click.echo(path)


def _prepare(
    folder: Path, stage: Stage, parent: Path | None, progress: Progress
) -> tuple[Task, Origin]:
    """Read a cohort for one stage; only development and holdout patients are read."""
    rows = cohort.read(folder)
    bar = progress.add_task("Reading slices", total=None)
    parts = [
        cohort.load(
            folder,
            [row for row in rows if row.role == role],
            lambda: progress.advance(bar),
        ).for_stage(stage)
        for role in ("development", "holdout")
    ]
    described = cohort.describe(folder)
    trunk = load_stage(parent, torch.device("cpu")) if parent else None
    task = Task(
        stage=stage,
        development=parts[0],
        heldout=parts[1],
        dataset=f"holdout of {described}",
        parent=trunk.network.state_dict() if trunk else None,
    )
    origin = Origin(
        name=MODEL_NAMES[stage],
        trained_on=f"{described}, n = {len(task.development)}",
        parent_weights_sha256=trunk.manifest.weights_sha256 if trunk else None,
    )
    return task, origin


def _trunk(out: Path) -> Path:
    """Return the newest SLN model in a folder of models.

    Raises:
        SettingsError: There is none.
    """
    found = [
        model for model in models.installed(out) if model.name == MODEL_NAMES[Stage.SLN]
    ]
    if not found:
        raise SettingsError(
            f"stage II starts from stage I: train --stage sln into {out} first, "
            "or name its folder with --parent"
        )
    return models.folder(out, found[-1].name, found[-1].version)


@main.command("demo-models")
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


main.add_command(demo.command)

if __name__ == "__main__":
    main()
