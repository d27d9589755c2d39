"""One stage from cases to what is published, with one split for its calibration.

The short way, for the demonstration; `training.crossval` is the one for a cohort.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training import learning
from training.config import Recipe
from training.datasets import StageSet, measure, split
from training.determinism import determinism
from training.learning import Start, learn, pretrained, starting_weights
from training.loop import Around, Tick
from training.range import (
    FEATURES_OFF,
    distances,
    learn_features,
    learn_sides,
    limit_features,
)
from training.scoring import calibrated, heat_range, pooled_features, score_logits
from training.statistics.auc import auc_interval
from training.statistics.calibration import fit_platt, threshold_at_sensitivity
from worker.cascade import Network, TypicalFeatures
from worker.manifest import (
    Calibration,
    OperatingThreshold,
    Performance,
    Preprocessing,
    QualityGate,
    operating_point,
)

MIN_RARER: Final = 5  # of each class; less cannot be split, calibrated and judged


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained stage with everything that was measured on it."""

    stage: Stage
    recipe: Recipe
    network: Network
    preprocessing: Preprocessing
    calibration: Calibration
    threshold: OperatingThreshold
    performance: Performance
    heat_range: tuple[float, float]
    quality: QualityGate
    typical: TypicalFeatures | None


@dataclass(frozen=True, slots=True)
class Task:
    """What to train on, and what to judge it by.

    `development` is split for calibration; `heldout` is only ever scored, once.
    `dataset` names the held-out cases for people.
    """

    stage: Stage
    development: StageSet
    heldout: StageSet
    dataset: str
    parent: Start | None = None


def steps(task: Task, recipe: Recipe) -> int:
    """Return how often `train` calls `tick`, for a progress bar."""
    cases = len(task.development) - round(
        len(task.development) * recipe.calibration_share
    )
    return learning.steps(cases, recipe)


def check_enough(stage: Stage, name: str, part: StageSet) -> None:
    """Refuse too few cases of a class.

    Raises:
        SettingsError: There are; the message counts both classes.
    """
    if part.rarer < MIN_RARER:
        positives = int(part.labels.sum())
        raise SettingsError(
            f"{stage}: {part.rarer} {name} cases of the rarer class ({positives} "
            f"positive of {len(part)}), at least {MIN_RARER} are needed: check the "
            "labels, or use a larger cohort"
        )


def train(task: Task, recipe: Recipe, tick: Tick) -> Trained:
    """Train, calibrate and judge one stage.

    Args:
        task: The cases; development and held-out ones are different patients.
        recipe: Every number of the run.
        tick: Called after each step.

    Raises:
        SettingsError: There are too few cases of a class.
    """
    check_enough(task.stage, "development", task.development)
    check_enough(task.stage, "held-out", task.heldout)
    kept, aside = split(task.development, recipe.calibration_share, recipe.seed)
    spec = measure(kept)
    with determinism(recipe.threads):
        start = starting_weights(recipe, task.parent or pretrained(recipe))
        network = learn(start, kept, spec, recipe, Around(tick=tick))
        logits = score_logits(network, aside.crops, spec)
        labels = aside.labels.numpy()
        calibration = fit_platt(labels, logits)
        threshold = choose_threshold(labels, calibrated(logits, calibration), recipe)
        typical, features = None, FEATURES_OFF
        if recipe.feature_gate:
            typical = learn_features(pooled_features(network, kept.crops, spec))
            seen = pooled_features(network, aside.crops, spec)
            features = limit_features(distances(typical, seen))
        heldout = calibrated(
            score_logits(network, task.heldout.crops, spec), calibration
        )
        return Trained(
            stage=task.stage,
            recipe=recipe,
            network=network,
            preprocessing=spec,
            calibration=calibration,
            threshold=threshold,
            performance=judge(
                task.heldout.labels.numpy(), heldout, threshold.value, task.dataset
            ),
            heat_range=heat_range(network, kept.crops, spec),
            quality=QualityGate(
                sides=learn_sides(task.development.sides, recipe.side_tolerance),
                features=features,
            ),
            typical=typical,
        )


def choose_threshold(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    recipe: Recipe,
    where: str = "on the calibration split",
) -> OperatingThreshold:
    """Return the operating threshold of a recipe from cases that nothing learned from.

    `where` names those cases.
    """
    if recipe.target_sensitivity is None:
        return OperatingThreshold(value=0.5, how="fixed at 0.5, as in the paper")
    found = threshold_at_sensitivity(labels, probabilities, recipe.target_sensitivity)
    how = found.how.replace("on the calibration split", where)
    return found.model_copy(update={"how": how})


def judge(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    threshold: float,
    dataset: str,
) -> Performance:
    """Measure probabilities (n,) of cases that nothing was chosen by."""
    area = auc_interval(labels, probabilities)
    positives = tuple(np.sort(probabilities[labels == 1]).tolist())
    negatives = tuple(np.sort(probabilities[labels == 0]).tolist())
    point = operating_point(positives, negatives, threshold)
    return Performance(
        dataset=dataset,
        n=len(labels),
        auc=area.value,
        auc_low=area.low,
        auc_high=area.high,
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        positives=positives,
        negatives=negatives,
    )
