"""Who competes in the benchmark on the phantom: how each learns and judges.

The network and what it must beat stand beside two controls that pin how hard the
phantom is: an untrained trunk that sees raw pixels, and radiomics without filters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dicom_node.findings import Stage
from training.baselines import clinical, phantom, radiomics
from training.baselines.features import features
from training.baselines.patch import of_phantom
from training.baselines.phantom import Draw
from training.config import RANDOM, Recipe
from training.datasets import LabelledCrops, measure
from training.determinism import determinism
from training.heads import average_features, fit_head
from training.learning import pretrained, starting_weights
from training.loop import built
from training.phantom.anatomy import Level
from training.phantom.crops import subjects
from training.phantom.law import Patients
from worker.manifest import Preprocessing

Scores = NDArray[np.float64]
Tick = Callable[[], None]

LOGISTIC: Final = "logistic regression"
FILTERED: Final = "log"
"""How names of features of filtered images begin: Laplacian of Gaussian."""

RESNET: Final = "ResNet18"
RADIOMICS: Final = "Radiomics, logistic regression"
CLINICAL: Final = "Clinical model"
UNTRAINED: Final = "ResNet18, untrained trunk"
PERMUTED: Final = "ResNet18, permuted labels"
SIZE: Final = "Size alone"
RAW: Final = "Untrained trunk, raw pixels"
UNFILTERED: Final = "Radiomics without filters"


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


class RawTrunk:
    """An untrained trunk of stock strides that sees raw pixels, and a head on it.

    Nothing but one mean and SD of the training draw stands between scanner and
    network, as in the paper. The served window of each crop takes gain and offset of a
    scanner away, which lifts even an untrained trunk at other centres.
    """

    def __init__(self, recipe: Recipe, tick: Tick = lambda: None) -> None:
        stock = {"init": RANDOM, "init_sha256": None, "dilated": False, "head_from": 4}
        self.recipe = recipe.model_copy(update={**stock, "views": 1})
        self.tick = tick
        self.network = built(
            self.recipe.architecture,
            starting_weights(self.recipe, pretrained(self.recipe)),
        )
        self._known: dict[str, torch.Tensor] = {}

    def fit(self, learn: Drawn, seed: int) -> Judge:
        """Fit a head on the features of a training draw."""
        pixels = self._pixels(learn)
        spec = Preprocessing(mean=float(pixels.mean()), sd=float(pixels.std()))
        head = fit_head(self._features(learn, spec), learn.crops.sln.numpy(), seed)
        weight, bias = head.difference
        return lambda fresh: self._features(fresh, spec) @ weight + bias

    def _features(self, drawn: Drawn, spec: Preprocessing) -> Scores:
        with determinism(self.recipe.threads):
            return average_features(
                self.network, self._pixels(drawn), spec, self.recipe, self.tick
            )

    def _pixels(self, drawn: Drawn) -> torch.Tensor:
        """Return the marked pixels (n, 70, 70) as the scanner stored them."""
        if drawn.name not in self._known:
            size = drawn.crops.crops.shape[-2:]
            self._known[drawn.name] = torch.cat(
                [
                    functional.interpolate(
                        torch.from_numpy(of_phantom(one).pixels.astype(np.float32))[
                            None, None
                        ],
                        size,
                        mode="bilinear",
                        antialias=True,
                    )[0]
                    for one in subjects(drawn.patients, drawn.seed, Level.BENCH)
                ]
            )
        return self._known[drawn.name]


class Radiomics:
    """Features of the marked pixels, measured once for every draw, and a regression."""

    def __init__(self, tick: Tick = lambda: None) -> None:
        self.tick = tick
        self._known: dict[str, Scores] = {}
        self._names: tuple[str, ...] = ()

    def fit(self, learn: Drawn, seed: int) -> Judge:
        """Select and fit on the training draw."""
        del seed
        return self._fit(learn, lambda _: True)

    def fit_unfiltered(self, learn: Drawn, seed: int) -> Judge:
        """Do the same without the features of filtered images."""
        del seed
        return self._fit(learn, lambda name: not name.startswith(FILTERED))

    def _fit(self, learn: Drawn, wanted: Callable[[str], bool]) -> Judge:
        measured = self._features(learn)
        columns = [i for i, name in enumerate(self._names) if wanted(name)]
        labels = learn.crops.sln.numpy()
        model = radiomics.fitted(LOGISTIC, measured[:, columns], labels)
        return lambda fresh: model(self._features(fresh)[:, columns])

    def _features(self, drawn: Drawn) -> Scores:
        if drawn.name not in self._known:
            measured = []
            for subject in subjects(drawn.patients, drawn.seed, Level.BENCH):
                found = features(of_phantom(subject))
                self._names = tuple(found)
                measured.append(list(found.values()))
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
    """Return the network of a recipe, what it must beat, and controls, by name."""
    trunk, measured = FrozenTrunk(recipe, tick), Radiomics(tick)
    untrained = recipe.model_copy(
        update={"init": RANDOM, "init_sha256": None, "views": 1}
    )
    return {
        RESNET: trunk.fit,
        RADIOMICS: measured.fit,
        CLINICAL: fit_clinical,
        UNTRAINED: FrozenTrunk(untrained, tick).fit,
        PERMUTED: trunk.fit_permuted,
        SIZE: lambda _, __: lambda fresh: np.log(fresh.patients.size),
        RAW: RawTrunk(recipe, tick).fit,
        UNFILTERED: measured.fit_unfiltered,
    }
