"""Stratified patient bootstrap: intervals where no formula is good enough.

Positives and negatives are drawn separately, so prevalence stays that of the
cohort. A resample is how often each case was drawn; statistics are sums over cases
weighted by it, which makes 2,000 resamples one matrix product.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.statistics.auc import auc

TIMES: Final = 2000
SEED: Final = 20240101

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its 95% percentile interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resamples:
    """How often each case was drawn: positives (times, p), negatives (times, m)."""

    truth: NDArray[np.bool_]
    positives: Floats
    negatives: Floats

    def mean(self, values: Floats) -> Floats:
        """Return the mean of (n,) or (n, k) values in each resample."""
        total = self.positives @ values[self.truth]
        total = total + self.negatives @ values[~self.truth]
        mean: Floats = total / len(self.truth)
        return mean

    def auc(self, scores: Floats) -> Floats:
        """Return the AUC of (n,) scores in each resample, (times,)."""
        found, spared = scores[self.truth][:, None], scores[~self.truth][None]
        beats = (found > spared) + 0.5 * (found == spared)  # (p, m)
        total = ((self.positives @ beats) * self.negatives).sum(axis=1)
        share: Floats = total / beats.size
        return share


def resample(labels: ArrayLike, times: int = TIMES, seed: int = SEED) -> Resamples:
    """Draw patients with replacement within each class; the same seed, the same draw.

    Raises:
        ValueError: A class is missing.
    """
    truth = np.asarray(labels, dtype=bool)
    if not truth.any() or truth.all():
        raise ValueError("a stratified bootstrap needs cases of both classes")
    rng = np.random.default_rng(seed)
    drawn = [
        rng.multinomial(size, np.full(size, 1 / size), times).astype(np.float64)
        for size in (int(truth.sum()), int((~truth).sum()))
    ]
    return Resamples(truth, drawn[0], drawn[1])


def percentiles(value: float, draws: Floats) -> Interval:
    """Return an estimate with the 2.5th and 97.5th percentile of its draws (times,)."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def auc_difference(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, seed: int = SEED
) -> Interval:
    """Return first AUC minus second on the same cases."""
    drawn = resample(labels, seed=seed)
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    value = auc(labels, one) - auc(labels, two)
    return percentiles(value, drawn.auc(one) - drawn.auc(two))


def auc_bootstrap(labels: ArrayLike, scores: ArrayLike, seed: int = SEED) -> Interval:
    """Return the AUC with its bootstrap interval, to print beside DeLong's."""
    values = np.asarray(scores, np.float64)
    draws = resample(labels, seed=seed).auc(values)
    return percentiles(auc(labels, values), draws)


def brier(labels: ArrayLike, probabilities: ArrayLike, seed: int = SEED) -> Interval:
    """Return the mean squared error of the probabilities."""
    errors = squared_errors(labels, probabilities)
    return percentiles(float(errors.mean()), resample(labels, seed=seed).mean(errors))


def brier_difference(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, seed: int = SEED
) -> Interval:
    """Return first Brier score minus second; below 0 the first is better."""
    errors = squared_errors(labels, first) - squared_errors(labels, second)
    return percentiles(float(errors.mean()), resample(labels, seed=seed).mean(errors))


def squared_errors(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return (probability - label)^2 of each case, (n,)."""
    errors: Floats = np.asarray(probabilities, np.float64) - np.asarray(
        labels, np.float64
    )
    return errors**2
