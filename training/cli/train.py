"""`python -m training train`."""

from pathlib import Path
from typing import Final

import click
import torch
from rich.console import Console
from rich.progress import Progress

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training import cohort, publish
from training.config import PRESETS
from training.demo_models import summary
from training.publish import Origin
from training.train import Task, steps, train
from worker import models
from worker.weights import load_stage

FOLDER = click.Path(path_type=Path)
MODEL_NAMES: Final = {Stage.SLN: "resnet18-sln", Stage.NSLN: "resnet18-nsln"}


@click.command("train")
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
