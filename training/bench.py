"""The benchmark on the phantom: what each model reaches, and what could be reached.

Every model learns from the same draws of centre 1 and is judged on the same fresh
patients of each law. The best possible AUC, size alone, an untrained trunk and permuted
labels stand beside it, so that a number can be read.
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")
from matplotlib import pyplot as plt

from dicom_node.findings import Stage
from training.baselines import clinical, phantom, radiomics
from training.baselines.features import features
from training.baselines.patch import of_phantom
from training.baselines.phantom import Draw
from training.config import DEFAULT, RANDOM, Recipe
from training.datasets import LabelledCrops, from_phantom, measure
from training.determinism import determinism
from training.heads import average_features, fit_head
from training.learning import pretrained, starting_weights
from training.loop import built
from training.phantom import law as laws
from training.phantom.anatomy import Level
from training.phantom.crops import subjects
from training.phantom.law import CohortLaw, Patients
from training.statistics.auc import auc, compare_means
from worker.manifest import Preprocessing

Scores = NDArray[np.float64]
Tick = Callable[[], None]

COHORTS: Final = ("internal", "ext1", "ext2")
TARGETS: Final = {"internal": 0.83, "ext1": 0.76, "ext2": 0.73}
BEST: Final = "Best possible (latents known)"
SIZE: Final = "Size alone"
LOGISTIC: Final = "logistic regression"
RESNET: Final = "ResNet18"
RADIOMICS: Final = "Radiomics, logistic regression"
CLINICAL: Final = "Clinical model"
UNTRAINED: Final = "ResNet18, untrained trunk"
PERMUTED: Final = "ResNet18, permuted labels"
ORDER: Final = (RESNET, RADIOMICS, CLINICAL)
"""Which model is expected above which."""

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
class Drawn:
    """Patients of one law, with their crops; `name` tells draws apart."""

    name: str
    seed: int
    patients: Patients
    crops: LabelledCrops


Judge = Callable[[Drawn], Scores]
"""Scores of patients, higher for a metastasis; probabilities or not."""

Fit = Callable[[Drawn, int], Judge]
"""Learns from a training draw with a seed."""


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


class FrozenTrunk:
    """A trunk whose features are computed once for every draw, and heads on it.

    The head on served features is the served network: averages, then one product.
    """

    def __init__(self, recipe: Recipe, tick: Tick = lambda: None) -> None:
        self.recipe = recipe
        self.tick = tick
        start = starting_weights(recipe, pretrained(recipe))
        self.network = built(recipe.architecture, start)
        self._known: dict[tuple[str, str, int], Scores] = {}

    def fit(self, learn: Drawn, seed: int) -> Judge:
        """Fit the recipe's head."""
        return self._fit(learn, learn.crops.sln.numpy(), seed)

    def fit_permuted(self, learn: Drawn, seed: int) -> Judge:
        """Fit the recipe's head on labels that belong to other patients."""
        labels = np.random.default_rng(seed).permutation(learn.crops.sln.numpy())
        return self._fit(learn, labels, seed)

    def _fit(self, learn: Drawn, labels: NDArray[np.int64], seed: int) -> Judge:
        spec = measure(learn.crops.for_stage(Stage.SLN))
        head = fit_head(self._features(learn, spec, self.recipe.views), labels, seed)
        weight, bias = head.difference

        def judge(fresh: Drawn) -> Scores:
            return self._features(fresh, spec, 1) @ weight + bias

        return judge

    def _features(self, drawn: Drawn, spec: Preprocessing, views: int) -> Scores:
        key = (drawn.name, spec.sha256, views)
        if key not in self._known:
            recipe = self.recipe.model_copy(update={"views": views})
            with determinism(recipe.threads):
                self._known[key] = average_features(
                    self.network, drawn.crops.crops, spec, recipe, self.tick
                )
        return self._known[key]


class Radiomics:
    """Features of the marked pixels, measured once for every draw, and a regression."""

    def __init__(self, tick: Tick = lambda: None) -> None:
        self.tick = tick
        self._known: dict[str, Scores] = {}

    def fit(self, learn: Drawn, seed: int) -> Judge:
        """Select and fit on the training draw."""
        del seed
        model = radiomics.fitted(
            LOGISTIC, self._features(learn), learn.crops.sln.numpy()
        )
        return lambda fresh: model(self._features(fresh))

    def _features(self, drawn: Drawn) -> Scores:
        if drawn.name not in self._known:
            measured = []
            for subject in subjects(drawn.patients, drawn.seed, Level.BENCH):
                measured.append(list(features(of_phantom(subject)).values()))
                self.tick()
            self._known[drawn.name] = np.array(measured)
        return self._known[drawn.name]


def fit_clinical(learn: Drawn, seed: int) -> Judge:
    """Fit the clinical model on the variables of a training draw."""
    del seed

    def judge(fresh: Drawn) -> Scores:
        laws_of = [
            (one.patients.law, len(one.patients), one.seed) for one in (learn, fresh)
        ]
        drawn = phantom.cases([Draw(*one) for one in laws_of], Level.BENCH)
        (scored,) = clinical.score(drawn, Stage.SLN)
        part = scored.cohort(fresh.patients.law.name)
        if part is None:
            raise ValueError(f"{fresh.name} has no scores")
        return part.probabilities

    return judge


def contenders(recipe: Recipe, tick: Tick) -> dict[str, Fit]:
    """Return the network of a recipe and its controls, by name."""
    trunk = FrozenTrunk(recipe, tick)
    untrained = recipe.model_copy(
        update={"init": RANDOM, "init_sha256": None, "views": 1}
    )
    return {
        RESNET: trunk.fit,
        RADIOMICS: Radiomics(tick).fit,
        CLINICAL: fit_clinical,
        UNTRAINED: FrozenTrunk(untrained, tick).fit,
        PERMUTED: trunk.fit_permuted,
        SIZE: lambda _, __: lambda fresh: np.log(fresh.patients.size),
    }


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
