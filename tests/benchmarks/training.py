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
from tests.benchmarks.__main__ import measure, show
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


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--cases", default=CASES, show_default=True)
@click.option("--served", is_flag=True, help="The served shape (P10), not the stock.")
@click.option("--whole", is_flag=True, help="The paper recipe with five folds (P11).")
def main(rounds: int, cases: int, *, served: bool, whole: bool) -> None:
    """Measure training against a bare loop, interleaved in one run."""
    update = {"threads": 1, "dilated": served}
    recipe = PRESETS["paper"].model_copy(update=update)
    with determinism(recipe.threads):
        parts = {
            "bare loop": lambda: bare(recipe, cases),
            "ours, with curve and checkpoint": lambda: ours(recipe, cases),
        }
        measure(parts, 1, "Warming up")
        show(f"One epoch, {cases} cases", "CPU s", measure(parts, rounds, "Epochs"))
    if whole:
        seconds = folds(recipe.model_copy(update={"dilated": False}), 2)
        click.echo(f"paper recipe, {CASES} cases, five folds: {seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
