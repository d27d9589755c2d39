"""Heads on a frozen trunk: logistic regression whose penalty inner folds choose."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from training.config import Recipe
from training.datasets import StageSet
from worker.cascade import NEGATIVE, POSITIVE, Network, feature_map, pooled
from worker.manifest import Preprocessing
from worker.preprocess import centre, standardise

Array = NDArray[np.float64]

PENALTIES: Final = tuple(float(10.0**power) for power in np.arange(1, 4.01, 0.5))
"""Of 0.5 * penalty * |w|^2 beside the sum of the cases' losses, smallest first."""

FOLDS: Final = 5
ITERATIONS: Final = 2000
BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head on raw features: logits = features @ weight.T + bias.

    `weight` is (2, C) and `bias` (2,), for NEGATIVE and POSITIVE; standardisation is
    folded in. `penalty` is what the inner folds chose.
    """

    weight: Array
    bias: Array
    penalty: float

    @property
    def difference(self) -> tuple[Array, float]:
        """Weight (C,) and bias of the logit difference, positive minus negative."""
        weight: Array = self.weight[POSITIVE] - self.weight[NEGATIVE]
        return weight, float(self.bias[POSITIVE] - self.bias[NEGATIVE])


def attach_head(
    network: Network,
    data: StageSet,
    spec: Preprocessing,
    recipe: Recipe,
    tick: Callable[[], None],
) -> Head:
    """Fit a head on the network's frozen trunk and put it into `network.fc`.

    `tick` is called `head_steps` times. The network is left in eval mode.
    """
    features = average_features(network, data.crops, spec, recipe, tick)
    head = fit_head(features, data.labels.numpy(), recipe.seed, patients=data.repeated)
    with torch.no_grad():
        network.fc.weight.copy_(torch.from_numpy(head.weight))
        network.fc.bias.copy_(torch.from_numpy(head.bias))
    return head


def head_steps(cases: int, recipe: Recipe) -> int:
    """Return how often `attach_head` calls `tick`."""
    return -(-cases // BATCH) * recipe.views


def average_features(
    network: Network,
    crops: torch.Tensor,
    spec: Preprocessing,
    recipe: Recipe,
    tick: Callable[[], None],
) -> Array:
    """Return what the head sees (n, C) of crops (n, 70, 70), mean over turned views."""
    network.to(memory_format=torch.channels_last).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(crops), BATCH):
            batch = centre(crops[start : start + BATCH], spec)
            views = []
            for number in range(recipe.views):
                x = standardise(_turned(batch, number), spec)
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                    views.append(pooled(feature_map(network, x)))
                tick()
            parts.append(torch.stack(views).mean(0))
    features: Array = torch.cat(parts).numpy()
    return features


def _turned(crops: torch.Tensor, number: int) -> torch.Tensor:
    """Return one of the eight turned and mirrored views of crops (B, S, S)."""
    turned = torch.rot90(crops, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned  # noqa: PLR2004 - four turns


def fit_head(
    features: Array,
    labels: NDArray[np.int64],
    seed: int,
    penalties: tuple[float, ...] = PENALTIES,
    patients: NDArray[np.int64] | None = None,
) -> Head:
    """Fit an L2-penalised logistic regression on standardised features.

    Args:
        features: (n, C), of development cases alone.
        labels: (n,) of 0 and 1.
        seed: Deals the cases to the inner folds.
        penalties: To choose from by the inner folds' log loss; of equals the largest.
        patients: (n,) numbers; cases of one lie in one inner fold. None: all differ.
    """
    penalty = choose_penalty(features, labels, seed, penalties, patients)
    weight, bias = _fit(features, labels, penalty)
    both = np.empty((2, len(weight) + 1))
    both[POSITIVE] = np.append(weight, bias) / 2
    both[NEGATIVE] = -both[POSITIVE]
    return Head(weight=both[:, :-1], bias=both[:, -1], penalty=penalty)


def choose_penalty(
    features: Array,
    labels: NDArray[np.int64],
    seed: int,
    penalties: tuple[float, ...] = PENALTIES,
    patients: NDArray[np.int64] | None = None,
) -> float:
    """Return the penalty with the least log loss over inner stratified folds.

    Where a class has one patient no fold can be left out: the largest is taken.
    """
    if len(penalties) == 1:
        return penalties[0]
    losses = np.zeros(len(penalties))
    for learn, aside in inner_folds(labels, patients, seed):
        for index, penalty in enumerate(penalties):
            weight, bias = _fit(features[learn], labels[learn], penalty)
            scores = features[aside] @ weight + bias
            chances = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
            losses[index] += log_loss(labels[aside], chances, labels=[0, 1])
    return penalties[int(np.flatnonzero(losses <= losses.min() + 1e-12)[-1])]


def inner_folds(
    labels: NDArray[np.int64], patients: NDArray[np.int64] | None, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return rows to learn from and rows left aside; the former hold both classes."""
    groups = np.arange(len(labels)) if patients is None else patients
    rarer = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    folds = min(FOLDS, rarer)
    if folds < 2:  # noqa: PLR2004 - nothing would be left to learn from
        return []
    kind = StratifiedKFold if patients is None else StratifiedGroupKFold
    dealt = kind(folds, shuffle=True, random_state=seed)
    return [
        (learn, aside)
        for learn, aside in dealt.split(labels, labels, patients)
        if len(np.unique(labels[learn])) > 1
    ]


def _fit(
    features: Array, labels: NDArray[np.int64], penalty: float
) -> tuple[Array, float]:
    """Return weight (C,) and bias on raw features."""
    mean = features.mean(axis=0)
    spread = features.std(axis=0)
    spread = np.where(spread > np.finfo(np.float32).eps, spread, np.inf)
    regression = LogisticRegression(C=1 / penalty, max_iter=ITERATIONS)
    regression.fit((features - mean) / spread, labels)
    weight: Array = regression.coef_[0] / spread
    return weight, float(regression.intercept_[0] - mean @ weight)
