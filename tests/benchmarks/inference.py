"""python -m tests.benchmarks.inference: scoring of many crops, against a bare loop.

The bare loop is what anybody would write on tensors in memory: the served network in
batches of 32, channels last, nothing else. Ours makes the class activation map, the
averages and the score of each crop too. All run on one thread and are measured in
milliseconds of CPU per image, which a busy machine changes least. Read the ratio.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dicom_node.findings import Stage
from tests.benchmarks.measuring import Line, measure, show_lines
from tests.quick_models import write_model
from worker import computation, weights
from worker.cascade import StageModel, StageScore, score
from worker.company import AT_ONCE
from worker.together import Request, Steps, together

CPU = torch.device("cpu")
BARE_BATCH = 32
IMAGES = 64
"""Of each part in a round: two batches of the bare loop, four of ours."""

BARE = f"bare loop, batch {BARE_BATCH}"
SHARED = f"ours, {AT_ONCE} studies together, with map and score"
SINGLE = "ours, a study alone, with map and score"


def per_image(work: Callable[[], object], images: int) -> float:
    """CPU milliseconds of a part for each of its images."""
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1000 / images


def bare(model: StageModel, inputs: torch.Tensor) -> None:
    """Run the network on inputs (n, 3, 64, 64) and keep nothing."""
    with torch.inference_mode():
        for batch in inputs.split(BARE_BATCH):
            model.network(batch.contiguous(memory_format=torch.channels_last))


def _study(model: StageModel, x: torch.Tensor) -> Steps[StageScore]:
    return (yield Request(model, x))


def shared(model: StageModel, inputs: torch.Tensor) -> None:
    """Score inputs as bulk work does, each asked for by a study of its own."""
    for batch in inputs.split(AT_ONCE):
        together(_study(model, x) for x in batch)


def single(model: StageModel, inputs: torch.Tensor) -> None:
    """Score inputs as live studies are."""
    for x in inputs:
        score(model, x)


def parts(images: int = IMAGES) -> dict[str, Callable[[], float]]:
    """Return the bare loop and both ways of ours; each gives CPU ms per image."""
    computation.settle(CPU)
    with tempfile.TemporaryDirectory() as folder:
        model = weights.load_stage(write_model(Path(folder), Stage.SLN, 1), CPU)
    # Three equal channels without a copy of them: so preprocessing hands them on.
    inputs = torch.randn(images, 1, 64, 64).expand(-1, 3, -1, -1)
    ways = {BARE: bare, SHARED: shared, SINGLE: single}
    return {
        name: partial(per_image, partial(way, model, inputs), images)
        for name, way in ways.items()
    }


def lines(rounds: int) -> list[Line]:
    """Measure P5."""
    measured = parts()
    measure(measured, 1, "Warming up")
    found = measure(measured, rounds, "Scoring")
    what = "forward pass of bulk work, with its map, CPU per image"
    return [
        Line("P5", what, "ms", found[SHARED], "bare loop", found[BARE], 1.1),
        Line("", "the same, a study alone", "ms", found[SINGLE]),
    ]


if __name__ == "__main__":
    show_lines(lines(7))
