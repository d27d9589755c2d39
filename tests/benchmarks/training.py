"""python -m tests.benchmarks.training: our epochs against a bare loop; five folds.

The bare loop is what anybody would write on tensors in memory: the same network,
batches and crops, no curve, no checkpoint, nothing else. Both run on one thread and are
measured in seconds of CPU, which a busy machine changes least. Read the ratio.
"""

import tempfile
import time
from pathlib import Path

import click
import torch
from torch.nn import functional

from dicom_node.findings import Stage
from tests.benchmarks.measuring import Line, measure, show
from tests.quick_cohorts import cohort, easy_set
from training import execution
from training.augment import augment
from training.checkpoint import OnDisk
from training.config import PRESETS, Recipe
from training.datasets import measure as constants
from training.determinism import determinism
from training.learning import starting_weights
from training.loop import Around, built, fit
from training.preparation import Wish, prepare
from training.team import Team
from worker.preprocess import standardise

CASES, HELDOUT = 519, 129
FEW = 160
BARE, OURS = "bare loop", "ours, with curve and checkpoint"


def bare(recipe: Recipe, cases: int) -> float:
    """CPU seconds of one epoch of a loop that does nothing else."""
    data = easy_set(cases, 1)
    spec = constants(data)
    network = built(recipe.architecture, starting_weights(recipe, None)).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    started = time.process_time()
    order = torch.randperm(cases, generator=generator)
    for step in range(cases // recipe.batch):
        rows = order[step * recipe.batch : (step + 1) * recipe.batch]
        varied = augment(data.crops[rows], recipe.augmentation, spec, generator)
        x = standardise(varied, spec).contiguous(memory_format=torch.channels_last)
        loss = functional.cross_entropy(network(x), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - started


def ours(recipe: Recipe, cases: int) -> float:
    """CPU seconds of one epoch of ours, with its curve and its checkpoint on disk."""
    data = easy_set(cases, 1)
    spec = constants(data)
    start = starting_weights(recipe, None)
    once = recipe.model_copy(update={"epochs": 1})
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        fit(start, data, spec, once, Around(journal=OnDisk(Path(folder))))
        return time.process_time() - started


def folds(recipe: Recipe, workers: int) -> float:
    """Seconds of the whole run: five folds and the served network, to publishing."""
    team = Team(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        wish = Wish(Stage.SLN, recipe, Path(folder))
        prepared = prepare(wish, cohort(CASES, HELDOUT, 0), team)
        started = time.perf_counter()
        execution.carry_out(prepared, team, workers)
        return time.perf_counter() - started


def epochs(rounds: int, cases: int, *, served: bool) -> dict[str, list[float]]:
    """CPU seconds of an epoch of the bare loop and of ours, in turn."""
    update = {"threads": 1, "dilated": served}
    recipe = PRESETS["paper"].model_copy(update=update)
    parts = {
        BARE: lambda: bare(recipe, cases),
        OURS: lambda: ours(recipe, cases),
    }
    with determinism(recipe.threads):
        measure(parts, 1, "Warming up")
        return measure(parts, rounds, "Epochs")


def lines(rounds: int) -> list[Line]:
    """Measure P10, and P11 once."""
    found = epochs(rounds, FEW, served=True)
    minutes = whole() / 60
    return [
        Line(
            "P10",
            f"training epoch of the served network, {FEW} cases, CPU",
            "s",
            found[OURS],
            "bare loop",
            found[BARE],
            1.1,
        ),
        Line(
            "P11",
            f"paper recipe, {CASES} cases, 20 epochs, five folds",
            "min",
            [minutes],
            wanted=6,
        ),
    ]


def whole() -> float:
    """Seconds of the paper recipe with five folds, on two cores."""
    recipe = PRESETS["paper"].model_copy(update={"threads": 1, "dilated": False})
    return folds(recipe, 2)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--cases", default=CASES, show_default=True)
@click.option("--served", is_flag=True, help="The served shape (P10), not the stock.")
@click.option("--folds", "five", is_flag=True, help="The whole paper recipe (P11).")
def main(rounds: int, cases: int, *, served: bool, five: bool) -> None:
    """Measure training against a bare loop, interleaved in one run."""
    show(f"One epoch, {cases} cases", "CPU s", epochs(rounds, cases, served=served))
    if five:
        seconds = whole()
        click.echo(f"paper recipe, {CASES} cases, five folds: {seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
