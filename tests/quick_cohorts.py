"""Cohorts in memory whose label anybody can see, and a run on one as a process.

python -m tests.quick_cohorts OUT [SECONDS]: train the tiny run below; each epoch lasts
SECONDS longer, so that a test can kill it in the middle.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from dicom_node.findings import Stage
from training import execution, parts
from training.cohort import CohortRow
from training.config import Recipe
from training.datasets import LabelledCrops, StageSet
from training.preparation import Wish, prepare
from training.snapshot import Snapshot
from training.team import assemble

TINY = Recipe(
    preset="tiny",
    init="none",
    dilated=False,  # stock strides: a third of the time
    epochs=2,
    rate=0.02,
    threads=1,
    batch=8,
)
ROLES = ("development", "holdout", "external")


def easy_set(n, seed):
    """Crops whose label anybody can see: bright in the middle, or not."""
    generator = torch.Generator().manual_seed(seed)
    crops = torch.rand(n, 70, 70, generator=generator) * 0.5
    labels = torch.arange(n) % 2
    crops[labels == 1, 20:50, 20:50] += 0.5
    sides = 12.0 + torch.arange(n, dtype=torch.float64)[:, None] * torch.tensor(
        [1, 0.5]
    )
    return StageSet(crops, labels, sides)


def cohort(development=30, holdout=20, external=6, seed=1):
    """A snapshot in memory; half is SLN-positive, half of these NSLN-positive."""
    counts = dict(zip(ROLES, (development, holdout, external), strict=True))
    roles = [role for role, count in counts.items() for _ in range(count)]
    data = easy_set(len(roles), seed)
    rows = [row(number, role) for number, role in enumerate(roles)]
    return Snapshot(
        id=f"{seed:064x}",
        rows=tuple(rows),
        crops=LabelledCrops(
            data.crops,
            data.labels,
            torch.tensor([one.nsln for one in rows]),
            data.sides,
        ),
        description="synthetic phantoms of squares",
        exclusions=(),
        folder=Path(),
        synthetic=True,
    )


def row(number, role="development", **changes):
    """One row; every odd one is SLN-positive, every fourth NSLN-positive."""
    sln = number % 2
    return CohortRow(
        case_id=f"case-{number:03}",
        patient_key=f"patient-{number}",
        centre="2" if role == "external" else "1",
        role=role,
        sln=sln,
        nsln=(number // 2) % 2 if sln else -1,
        size_cm=1.0 + (number % 3),
        image=Path(f"{number}.dcm"),
        frame=1,
        x0=0,
        y0=0,
        x1=70,
        y1=70,
        pixel_sha256=f"{number:064x}",
    ).model_copy(update=changes)


def changed(snapshot, number, **changes):
    """The same snapshot with one row changed."""
    rows = list(snapshot.rows)
    rows[number] = rows[number].model_copy(update=changes)
    return replace(snapshot, rows=tuple(rows))


def run(out, wish=None, workers=1, device="cpu", follow=lambda _name, _done: None):
    """Prepare and carry out a tiny run; with torchrun, as one of several."""
    wish = wish or Wish(Stage.SLN, TINY, Path(out), folds=2)
    with assemble(device) as team:
        prepared = prepare(wish, cohort(), team)
        return prepared, execution.carry_out(prepared, team, workers, follow)


def main():
    out, pause = Path(sys.argv[1]), float(sys.argv[2]) if sys.argv[2:] else 0.0

    def follow(name, done):
        sys.stdout.write(f"{name} {done}\n")
        sys.stdout.flush()
        time.sleep(pause)

    prepared, done = run(out, follow=follow)
    if done is not None:
        weights = done.model / "model.safetensors"
        assert weights.exists()
        assert parts.weights_of(prepared.run, "all") is not None
        sys.stdout.write(f"published {done.model}\n")


if __name__ == "__main__":
    main()
