"""The models of the demonstration: found on disk, or trained once within seconds."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from dicom_node.errors import NodeError
from dicom_node.findings import Stage
from training import publish
from training.config import DEMO, DEMO_STAGE_TWO, Recipe
from training.datasets import LabelledCrops, from_phantom
from training.determinism import determinism
from training.phantom import law as laws
from training.phantom.anatomy import Level
from training.publish import Origin
from training.train import Task, Trained, steps, train
from worker import models
from worker.manifest import FORMAT_VERSION, NO_BETTER_THAN_CHANCE, Manifest

NAMES: Final = {Stage.SLN: "demo-resnet18-sln", Stage.NSLN: "demo-resnet18-nsln"}
TRAIN_LAW, HELDOUT_LAW = laws.COHORTS[0], laws.COHORTS[1]


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How much the demonstration trains on; by default seconds of one core."""

    cases: int = 1200
    heldout: int = 400
    seed: int = 1
    level: Level = Level.EASY
    sln: Recipe = DEMO
    nsln: Recipe = DEMO_STAGE_TWO

    @property
    def recipes(self) -> dict[Stage, Recipe]:
        """The recipe of each stage, with the seed of the plan."""
        seed = {"seed": self.seed}
        return {
            Stage.SLN: self.sln.model_copy(update=seed),
            Stage.NSLN: self.nsln.model_copy(update=seed),
        }

    @property
    def trained_on(self) -> str:
        """The development cases in words, for the manifest."""
        return (
            f"synthetic phantoms, level {self.level}, centre 1, "
            f"n = {self.cases}, seed {self.seed}"
        )

    @property
    def dataset(self) -> str:
        """The held-out cases in words."""
        return f"held-out synthetic phantoms, level {self.level}, centre 1"


def ensure_demo_models(
    folder: Path, console: Console, plan: DemoPlan | None = None
) -> dict[Stage, Path]:
    """Train and publish the models of the demonstration, unless they are there.

    Returns:
        The folder of each stage's model.
    """
    plan = plan or DemoPlan()
    found = {stage: _find(folder, stage, plan) for stage in Stage}
    ready = {stage: path for stage, path in found.items() if path is not None}
    if len(ready) == len(Stage):
        console.print(f"The demo models are in {folder}, trained before.")
        return ready
    return _train_and_publish(folder, console, plan)


def _find(folder: Path, stage: Stage, plan: DemoPlan) -> Path | None:
    """Return the newest whole model that this plan would make again."""
    config = plan.recipes[stage].model_dump(mode="json")
    for path in sorted((folder / NAMES[stage]).glob("[!.]*"), reverse=True):
        try:
            manifest = models.verify(path)
        except NodeError:
            continue  # a broken cache is trained again
        same_recipe = manifest.training.config == config
        same_format = manifest.format_version == FORMAT_VERSION
        if same_recipe and same_format and manifest.trained_on == plan.trained_on:
            return path
    return None


def _train_and_publish(
    folder: Path, console: Console, plan: DemoPlan
) -> dict[Stage, Path]:
    console.print(
        f"Training the demo models once, on {plan.trained_on}. Research use only."
    )
    with bars(console) as progress, determinism(plan.sln.threads):
        learn, heldout = _draw(plan, progress)
        first = _train(Task(
            stage=Stage.SLN,
            development=learn.for_stage(Stage.SLN),
            heldout=heldout.for_stage(Stage.SLN),
            dataset=plan.dataset,
        ), plan, progress)  # fmt: skip
        second = _train(Task(
            stage=Stage.NSLN,
            development=learn.for_stage(Stage.NSLN),
            heldout=heldout.for_stage(Stage.NSLN),
            dataset=f"{plan.dataset}, SLN-positive",
            parent=first.network.state_dict(),
        ), plan, progress)  # fmt: skip
    parent = hashlib.sha256(publish.encode(first.network, first.typical)).hexdigest()
    origins = {
        Stage.SLN: Origin(NAMES[Stage.SLN], plan.trained_on),
        Stage.NSLN: Origin(NAMES[Stage.NSLN], plan.trained_on, parent),
    }
    published = {}
    for trained in (first, second):
        path = publish.publish(trained, folder, origins[trained.stage])
        console.print(summary(models.verify(path)))
        published[trained.stage] = path
    return published


def bars(console: Console) -> Progress:
    """Return bars that count and tell the time, for whatever trains."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _draw(plan: DemoPlan, progress: Progress) -> tuple[LabelledCrops, LabelledCrops]:
    """Render development and held-out patients; no patient is in both."""
    bar = progress.add_task("Drawing phantoms", total=plan.cases + plan.heldout)
    parts = [
        from_phantom(
            laws.draw(law, n, plan.seed),
            plan.seed,
            plan.level,
            lambda: progress.advance(bar),
        )
        for law, n in ((TRAIN_LAW, plan.cases), (HELDOUT_LAW, plan.heldout))
    ]
    return parts[0], parts[1]


def _train(task: Task, plan: DemoPlan, progress: Progress) -> Trained:
    recipe = plan.recipes[task.stage]
    bar = progress.add_task(f"Training {task.stage}", total=steps(task, recipe))
    return train(task, recipe, lambda: progress.advance(bar))


def summary(manifest: Manifest) -> str:
    """Say in one line how well a model does on its held-out cases."""
    result = manifest.performance
    warning = "" if result.beats_chance else f". {NO_BETTER_THAN_CHANCE}"
    return (
        f"{manifest.reference}: held-out AUC {result.auc:.3f} "
        f"(95% CI {result.auc_low:.3f}-{result.auc_high:.3f}, n = {result.n}, "
        f"{result.dataset}){warning}"
    )
