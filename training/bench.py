"""The benchmark on the phantom: what each model reaches, and what could be reached.

Every model learns from the same draws of centre 1 and is judged on the same fresh
patients of each law. The best possible AUC, size alone, an untrained trunk and permuted
labels stand beside it, so that a number can be read.
"""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from training.config import DEFAULT, Recipe
from training.contenders import (
    CLINICAL,
    RADIOMICS,
    RAW,
    RESNET,
    UNFILTERED,
    Drawn,
    Fit,
    Scores,
    Tick,
)
from training.datasets import from_phantom
from training.phantom import law as laws
from training.phantom.anatomy import Level
from training.phantom.law import CohortLaw
from training.statistics.auc import auc, compare_means

COHORTS: Final = ("internal", "ext1", "ext2")
TARGETS: Final = {"internal": 0.83, "ext1": 0.76, "ext2": 0.73}
BEST: Final = "Best possible (latents known)"
ORDER: Final = (RESNET, RADIOMICS, CLINICAL)
"""Which model is expected above which."""

PINS: Final = {
    (UNFILTERED, "internal"): 0.78,
    (RAW, "internal"): 0.76,
    (RAW, "ext1"): 0.60,
    (RAW, "ext2"): 0.60,
}
"""What simple models may reach at most: above it the phantom has become easier."""

TEST_SEED: Final = 900_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much is drawn: training draws of `cases`, and `fresh` cases of each law."""

    draws: int = 3
    cases: int = 519
    fresh: int = 1500
    seed: int = 1

    @property
    def total(self) -> int:
        """Patients that are rendered."""
        return self.draws * self.cases + len(COHORTS) * self.fresh


@dataclass(frozen=True, slots=True)
class Row:
    """AUC of one model on one law: mean and SD over training draws.

    `share` is the mean as a part of the best possible AUC.
    """

    model: str
    cohort: str
    mean: float
    sd: float
    draws: int
    share: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean AUC of `better` less that of `worse` on the same cases, by DeLong's test.

    `low` and `high` are its 95% interval, `p` is two-sided; `p_of_draws` are the P
    values of each training draw alone.
    """

    better: str
    worse: str
    cohort: str
    value: float
    low: float
    high: float
    p: float
    p_of_draws: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A row for each model and law, and the differences in the expected order."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    @property
    def too_easy(self) -> tuple[Row, ...]:
        """Rows of simple models above their pin, as rounded in the table."""
        return tuple(
            row
            for row in self.rows
            if round(row.mean, 2) > PINS.get((row.model, row.cohort), 1.0)
        )


def draw(size: Size, tick: Tick) -> tuple[list[Drawn], list[Drawn]]:
    """Return the training draws and the fresh patients of each law."""
    by_name = {law.name: law for law in laws.COHORTS}
    learn = [
        _drawn(f"training {number + 1}", by_name["train"], size.cases,
               size.seed * 1000 + number, tick)
        for number in range(size.draws)
    ]  # fmt: skip
    fresh = [
        _drawn(name, by_name[name], size.fresh, TEST_SEED + size.seed, tick)
        for name in COHORTS
    ]
    return learn, fresh


def _drawn(name: str, law: CohortLaw, n: int, seed: int, tick: Tick) -> Drawn:
    patients = laws.draw(law, n, seed)
    return Drawn(name, seed, patients, from_phantom(patients, seed, Level.BENCH, tick))


def measure_all(
    learn: Iterable[Drawn], fresh: Iterable[Drawn], models: Mapping[str, Fit], seed: int
) -> Measured:
    """Fit each model on each draw and judge it on each law; best possible AUC first."""
    laws_of = {one.name: one for one in fresh}
    best = {name: _auc(one, one.patients.sln_score) for name, one in laws_of.items()}
    fitted = {
        name: [fit(one, seed + number) for number, one in enumerate(learn)]
        for name, fit in models.items()
    }
    scores = {
        (model, name): [judge(one) for judge in judges]
        for model, judges in fitted.items()
        for name, one in laws_of.items()
    }
    rows = [Row(BEST, name, area, 0.0, 1, 1.0) for name, area in best.items()]
    for (model, name), found in scores.items():
        areas = [_auc(laws_of[name], each) for each in found]
        mean = float(np.mean(areas))
        rows.append(Row(model, name, mean, _sd(areas), len(areas), mean / best[name]))
    return Measured(tuple(rows), tuple(_differences(laws_of, scores)))


def _differences(
    laws_of: Mapping[str, Drawn], scores: Mapping[tuple[str, str], list[Scores]]
) -> Iterator[Difference]:
    for better, worse in itertools.pairwise(ORDER):
        for name, one in laws_of.items():
            if not {(better, name), (worse, name)} <= set(scores):
                continue
            pairs = list(zip(scores[better, name], scores[worse, name], strict=True))
            labels = one.patients.sln.astype(np.int64)
            value, low, high, _, p = compare_means(labels, pairs)
            alone = tuple(compare_means(labels, [pair]).p for pair in pairs)
            yield Difference(better, worse, name, value, low, high, p, alone)


def _auc(drawn: Drawn, scores: Scores) -> float:
    return auc(drawn.patients.sln.astype(np.int64), scores)


def _sd(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def write(measured: Measured, size: Size, folder: Path) -> None:
    """Write bench.csv, bench.json and bench.png into a folder."""
    rows = measured.rows
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(asdict(rows[0])))
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    (folder / "bench.json").write_text(as_json(measured, size), encoding="utf-8")
    plot(rows, folder / "bench.png")


def as_json(measured: Measured, size: Size) -> str:
    """Return rows, differences, targets and what was drawn as JSON."""
    said = {"drawn": asdict(size), "targets": TARGETS, **asdict(measured)}
    return json.dumps(said, indent=2) + "\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the AUC of each model on each law, with SD, and the targets."""
    models = list(dict.fromkeys(row.model for row in rows))
    figure, axes = plt.subplots(1, len(COHORTS), figsize=(11, 3.2), sharey=True)
    for axis, cohort in zip(axes, COHORTS, strict=True):
        here = {row.model: row for row in rows if row.cohort == cohort}
        means = [here[model].mean for model in models]
        spread = [here[model].sd for model in models]
        axis.errorbar(means, range(len(models)), xerr=spread, fmt="o", color="#1f4e79")
        axis.axvline(0.5, color="#999999", linewidth=0.8)
        axis.axvline(TARGETS[cohort], color="#b03a2e", linestyle="--", linewidth=0.8)
        axis.set_title(f"{cohort} (target {TARGETS[cohort]:.2f})", fontsize=10)
        axis.set_xlim(0.4, 1)
        axis.set_xlabel("SLN AUC")
    axes[0].set_yticks(range(len(models)), models)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def default_recipe(threads: int) -> Recipe:
    """Return the recipe that the benchmark measures: the default, half precision."""
    return DEFAULT.model_copy(update={"threads": threads, "autocast": True})
