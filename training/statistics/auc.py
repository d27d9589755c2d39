"""Area under the ROC curve with DeLong's variance.

Source: DeLong, DeLong, Clarke-Pearson, Biometrics 1988; computed from midranks as
in Sun and Xu, IEEE Signal Processing Letters 2014.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from dicom_node.findings import Z95

MIN_VARIANCE = 1e-14  # below it two scores rank all pairs alike, but for rounding

TAIL = 0.025  # of a 95% interval on either side


class AucInterval(NamedTuple):
    """An AUC with its 95% interval, all in [0, 1]."""

    value: float
    low: float
    high: float


class AucCases(NamedTuple):
    """Labels (n,) of 0 and 1, and scores (n,)."""

    labels: ArrayLike
    scores: ArrayLike


class AucDifference(NamedTuple):
    """First AUC minus second on the same cases, its 95% interval and DeLong's test.

    `p` is two-sided. Where both rank every pair alike, z is 0 and p is 1.
    """

    value: float
    low: float
    high: float
    z: float
    p: float

    @property
    def se(self) -> float:
        """Standard error of the difference."""
        return (self.high - self.low) / (2 * Z95)


class _Placements(NamedTuple):
    """Share of the other class that each case beats, ties counting half."""

    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]


def _placements(labels: ArrayLike, scores: ArrayLike) -> _Placements:
    truth = np.asarray(labels, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or not truth.any() or truth.all():
        raise ValueError("an AUC needs one score per case and cases of both classes")
    ranks = rankdata(values)
    positive, negative = values[truth], values[~truth]
    return _Placements(
        (ranks[truth] - rankdata(positive)) / len(negative),
        1 - (ranks[~truth] - rankdata(negative)) / len(positive),
    )


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a positive case scores above a negative one.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), higher means more likely positive; a tie counts half.

    Raises:
        ValueError: A class is missing, or the lengths differ.
    """
    return float(_placements(labels, scores).positives.mean())


def delong_variance(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the variance of the AUC; each class needs two cases.

    Raises:
        ValueError: A class has fewer than two cases, or the lengths differ.
    """
    return _variance(_placements(labels, scores))


def _variance(placements: _Placements) -> float:
    if min(map(len, placements)) < 2:  # noqa: PLR2004 - a variance needs two
        raise ValueError("the variance of an AUC needs two cases of each class")
    return float(sum(np.var(part, ddof=1) / len(part) for part in placements))


def auc_interval(labels: ArrayLike, scores: ArrayLike) -> AucInterval:
    """Return the AUC with a 95% interval on the logit scale, so it stays in [0, 1].

    A perfect AUC, or one of 0, has no variance. What can be said then is what a
    proportion says: each case of the smaller class with another one of the larger are
    pairs independent of each other, all ranked alike, so that the exact interval of
    Clopper and Pearson holds, and errs to the wide side.

    Raises:
        ValueError: A class has fewer than two cases, or the lengths differ.
    """
    placements = _placements(labels, scores)
    value, variance = float(placements.positives.mean()), _variance(placements)
    if value in {0.0, 1.0}:
        reach = TAIL ** (1 / min(map(len, placements)))
        return AucInterval(value, *((reach, 1.0) if value else (0.0, 1 - reach)))
    middle = math.log(value / (1 - value))
    half = Z95 * math.sqrt(variance) / (value * (1 - value))
    low, high = _expit(middle - half), _expit(middle + half)
    return AucInterval(value, min(low, value), max(high, value))


def compare(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> AucDifference:
    """Compare the AUCs of two scores of the same cases by DeLong's paired test.

    Raises:
        ValueError: A class has fewer than two cases, or the lengths differ.
    """
    return compare_means(labels, [(first, second)])


def compare_means(
    labels: ArrayLike, pairs: Sequence[tuple[ArrayLike, ArrayLike]]
) -> AucDifference:
    """Compare mean AUCs: of the first scores of all pairs, and of the second ones.

    All scores are of the same cases, from models that were fitted several times. This
    is DeLong's test of a contrast of many correlated AUCs, with equal weights: the
    cases are what varies, the models are taken as they are.

    Raises:
        ValueError: There is no pair, a class has fewer than two cases, or the lengths
            differ.
    """
    if not pairs:
        raise ValueError("there is nothing to compare")
    placed = [(_placements(labels, a), _placements(labels, b)) for a, b in pairs]
    if min(map(len, placed[0][0])) < 2:  # noqa: PLR2004 - a variance needs two
        raise ValueError("a DeLong test needs two cases of each class")
    gains = _Placements(
        np.mean([one.positives - two.positives for one, two in placed], axis=0),
        np.mean([one.negatives - two.negatives for one, two in placed], axis=0),
    )
    return _tested(float(gains.positives.mean()), _variance(gains))


def compare_unpaired(first: AucCases, second: AucCases) -> AucDifference:
    """Compare the AUCs of one score in two disjoint groups of cases.

    Raises:
        ValueError: A group has fewer than two cases of a class.
    """
    value = auc(*first) - auc(*second)
    return _tested(value, delong_variance(*first) + delong_variance(*second))


def _tested(value: float, variance: float) -> AucDifference:
    se = math.sqrt(variance) if variance > MIN_VARIANCE else 0.0
    z = value / se if se else math.copysign(math.inf, value) if value else 0.0
    return AucDifference(
        value, value - Z95 * se, value + Z95 * se, z, float(2 * norm.sf(abs(z)))
    )


def _expit(z: float) -> float:
    return 0.5 * (1 + math.tanh(z / 2))
