"""Decision curve analysis: net benefit beside treating all and treating none.

Source: Vickers and Elkin, Medical Decision Making 2006.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.statistics.bootstrap import SEED, Interval, percentiles, resample

THRESHOLDS: Final = tuple(i / 100 for i in range(1, 100))

FORMULA: Final = "net benefit = TP / n - FP / n * pt / (1 - pt)"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit at each threshold probability pt (k,), with its 95% band.

    Treating none has a net benefit of 0 everywhere.
    """

    thresholds: Floats
    net_benefit: Floats
    low: Floats
    high: Floats
    treat_all: Floats


def decision_curve(
    labels: ArrayLike,
    probabilities: ArrayLike,
    thresholds: ArrayLike = THRESHOLDS,
    seed: int = SEED,
) -> DecisionCurve:
    """Return the decision curve; treated are cases with probability >= pt.

    Raises:
        ValueError: A class is missing.
    """
    at = np.asarray(thresholds, np.float64)
    truth = np.asarray(labels, dtype=bool)
    gains = _gains(truth, np.asarray(probabilities, np.float64), at)
    low, high = np.percentile(
        resample(truth, seed=seed).mean(gains), (2.5, 97.5), axis=0
    )
    everyone = _gains(truth, np.ones(len(truth)), at).mean(axis=0)
    return DecisionCurve(at, gains.mean(axis=0), low, high, everyone)


def net_benefit_difference(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    threshold: float,
    seed: int = SEED,
) -> Interval:
    """Return first net benefit minus second at one threshold probability."""
    truth = np.asarray(labels, dtype=bool)
    at = np.array([threshold])
    one, two = (
        _gains(truth, np.asarray(score, np.float64), at)[:, 0]
        for score in (first, second)
    )
    draws = resample(truth, seed=seed).mean(one - two)
    return percentiles(float((one - two).mean()), draws)


def _gains(truth: NDArray[np.bool_], chance: Floats, at: Floats) -> Floats:
    """Return what each case adds to the net benefit, (n, k)."""
    worth = np.where(truth[:, None], 1.0, -at / (1 - at))
    return np.where(chance[:, None] >= at, worth, 0.0)
