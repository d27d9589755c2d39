"""`python -m training train`."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, TaskID

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training import execution, parts, snapshot
from training.config import PRESETS, Recipe
from training.demo_models import bars, summary
from training.execution import Done
from training.preparation import Prepared, Wish, prepare
from training.row import DEVELOPMENT
from training.team import DEVICES, Team, assemble
from worker import models

FOLDER = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)


@click.command("train")
@click.option("--cohort", type=FOLDER, required=True, help="Cohort or snapshot.")
@click.option(
    "--stage", type=click.Choice(["sln", "nsln"]), required=True, help="Which network."
)
@click.option(
    "--preset", type=click.Choice(sorted(PRESETS)), default="default", show_default=True
)
@click.option("--out", type=FOLDER, required=True, help="Folder of models and runs.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--init",
    help="Weights to start from: procedural, none, or a ResNet18 file.",
)
@click.option("--init-sha256", help="Of that file, which is refused without it.")
@click.option(
    "--parent", type=FOLDER, help="Folder of the SLN model that NSLN starts from."
)
@click.option("--threads", type=POSITIVE, help="Of each process; changes the bits.")
@click.option(
    "--workers", type=POSITIVE, help="Processes; as many as cores allow if not given."
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on where the same command was killed, or start again.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
def train_command(**options: object) -> None:
    """Cross-validate one stage on a cohort, train it on all of it and publish it.

    Example: python -m training train --cohort /tmp/phantom --stage sln --out models

    Several GPUs: torchrun --nproc-per-node 2 -m training train --cohort ...
    """
    _train(_Options(**options))


class _Options:
    """The options of the command, as click names them."""

    cohort: Path
    stage: str
    preset: str
    out: Path
    folds: int
    seed: int
    init: str | None
    init_sha256: str | None
    parent: Path | None
    threads: int | None
    workers: int | None
    device: str
    resume: bool
    dry_run: bool

    def __init__(self, **options: object) -> None:
        self.__dict__ |= options

    @property
    def recipe(self) -> Recipe:
        update = {
            "seed": self.seed,
            "threads": self.threads,
            "init": self.init,
            "init_sha256": self.init_sha256,
        }
        said = {name: value for name, value in update.items() if value is not None}
        try:
            return Recipe.model_validate(PRESETS[self.preset].model_dump() | said)
        except ValidationError as error:
            raise SettingsError(
                f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
            ) from error

    @property
    def wish(self) -> Wish:
        return Wish(
            Stage(self.stage.upper()),
            self.recipe,
            self.out,
            self.folds,
            self.parent,
        )

    def workers_for(self, team: Team) -> int:
        if self.workers is not None:
            return self.workers
        if team.device.type != "cpu":
            return 1
        cores = len(os.sched_getaffinity(0))
        return min(max(cores // self.recipe.threads, 1), self.folds + 1)


def _train(options: _Options) -> None:
    with assemble(options.device) as team:
        console = Console(stderr=True, quiet=not team.leads)
        with bars(console) as progress:
            prepared = _read(options, team, progress)
            if options.dry_run:
                _foresee(prepared, options.workers_for(team), team)
                return
            if not options.resume and team.leads:
                shutil.rmtree(prepared.run, ignore_errors=True)
            team.wait()
            console.print(f"Run {prepared.run}")
            workers = options.workers_for(team)
            done = execution.carry_out(
                prepared, team, workers, _follow(prepared, progress)
            )
        if done is not None:
            _tell(prepared, done)


def _read(options: _Options, team: Team, progress: Progress) -> Prepared:
    bar = progress.add_task("Reading cases", total=snapshot.count(options.cohort))
    cohort = snapshot.load(options.cohort, lambda: progress.advance(bar))
    return prepare(options.wish, cohort, team)


def _follow(prepared: Prepared, progress: Progress) -> Callable[[str, int], None]:
    """Return what moves the bar of each part."""
    total = parts.epochs(prepared.wish.recipe)
    bars: dict[str, TaskID] = {}

    def follow(name: str, done: int) -> None:
        if name not in bars:
            bars[name] = progress.add_task(
                f"{prepared.wish.stage} {name.replace('-', ' ')}", total=total
            )
        progress.update(bars[name], completed=done)

    return follow


def _foresee(prepared: Prepared, workers: int, team: Team) -> None:
    """Say what would be trained, and touch nothing."""
    seconds = execution.estimate(prepared, workers)
    if not team.leads:
        return
    given, labels = prepared.given, prepared.given.cases.data.labels
    click.echo(f"Would train {given.stage} on {prepared.trained_on}")
    for fold in range(1, prepared.wish.folds + 1):
        here = labels[given.folds == fold]
        click.echo(f"  fold {fold}: {len(here)} cases, {int(here.sum())} positive")
    heldout = prepared.heldout.data.labels
    click.echo(f"Held out: {len(heldout)} cases, {int(heldout.sum())} positive")
    unknown = len(prepared.cohort.of_role(DEVELOPMENT)) - len(labels)
    click.echo(f"Not used: {unknown} development cases without a label of this stage")
    click.echo(f"Starts from: {prepared.origins.words}")
    click.echo(f"Run folder: {prepared.run}")
    click.echo(
        f"Device {team.device.type}, {team.world} process(es) per network, "
        f"{workers} network(s) at a time, {prepared.wish.recipe.threads} thread(s) each"
    )
    click.echo(f"Estimated time: {max(seconds / 60, 0.1):.1f} min")


def _tell(prepared: Prepared, done: Done) -> None:
    found = done.validated
    for name, area in (
        (f"out of fold, {prepared.wish.folds} folds", found.training),
        ("resubstitution (optimistic)", found.resubstitution),
    ):
        click.echo(
            f"{name}: AUC {area.value:.3f} (95% CI {area.low:.3f}-{area.high:.3f}, "
            f"n = {len(found.oof.labels)})"
        )
    click.echo(summary(models.verify(done.model)))
    click.echo(f"Run: {prepared.run}")
    click.echo(done.model)
