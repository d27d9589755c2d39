"""Do probabilities mean what they say: slope, intercept, O/E, Brier, the curve."""

import math
import warnings
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import statsmodels.api as sm
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from dicom_node.findings import Z95, Proportion
from training.statistics.bootstrap import SEED, Interval, brier
from training.statistics.proportion import clopper_pearson

CLIP: Final = 1e-6
"""Probabilities of 0 and 1 have no logit; they are taken this far inside."""

BINS: Final = 10
FLAT: Final = 1e-9

Floats = NDArray[np.float64]


class Bin(NamedTuple):
    """Cases of like probability: their mean probability and how many were positive."""

    mean: float
    observed: Proportion


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of probabilities.

    `slope` is that of label on logit(probability), 1 when spread is right;
    `intercept` is the shift of the logit with slope 1, 0 when the mean is right.
    Both are None where they cannot be fitted, and `note` says why. `scaled_brier` is
    1 - Brier / Brier of the prevalence: 1 is perfect, 0 knows nothing.
    """

    n: int
    positives: int
    slope: Interval | None
    intercept: Interval | None
    observed_expected: Interval
    brier: Interval
    scaled_brier: float
    bins: tuple[Bin, ...]
    note: str = ""


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, seed: int = SEED
) -> Reliability:
    """Compare probabilities (n,) with labels (n,) of 0 and 1.

    Raises:
        ValueError: A class is missing.
    """
    truth = np.asarray(labels, dtype=np.float64)
    chance = np.asarray(probabilities, dtype=np.float64)
    error = brier(truth, chance, seed)
    prevalence = float(truth.mean())
    slope, intercept, note = _logistic(truth, chance)
    return Reliability(
        n=len(truth),
        positives=int(truth.sum()),
        slope=slope,
        intercept=intercept,
        observed_expected=_observed_expected(truth, chance),
        brier=error,
        scaled_brier=1 - error.value / (prevalence * (1 - prevalence)),
        bins=reliability_curve(truth, chance),
        note=note,
    )


def _logistic(
    truth: Floats, chance: Floats
) -> tuple[Interval | None, Interval | None, str]:
    x = logit(np.clip(chance, CLIP, 1 - CLIP))
    shift = _shift(truth, x)
    if np.ptp(x) < FLAT:
        return None, shift, "all probabilities are equal, so there is no slope"
    slope = _slope(truth, x)
    if slope is None:
        return None, shift, "the labels are separated, so the slope is infinite"
    return slope, shift, ""


def _shift(truth: Floats, x: Floats) -> Interval:
    """Return the maximum-likelihood intercept with slope 1, where O equals E.

    It is found by bracketing: Newton's steps diverge for probabilities of 0 and 1.
    """
    reach = float(np.abs(x).max()) + abs(float(logit(truth.mean()))) + 1
    at = brentq(lambda a: expit(x + a).sum() - truth.sum(), -reach, reach, xtol=1e-12)
    chance = expit(x + at)
    half = Z95 / math.sqrt(float((chance * (1 - chance)).sum()))
    return Interval(at, at - half, at + half)


def _slope(truth: Floats, x: Floats) -> Interval | None:
    """Return the slope with its Wald interval, None where labels are separated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit is judged below
        model = sm.GLM(truth, sm.add_constant(x), family=sm.families.Binomial())
        fit = model.fit(maxiter=100, tol=1e-12)
        value, se, deviance = float(fit.params[1]), float(fit.bse[1]), fit.deviance
    if not (fit.converged and math.isfinite(se)) or deviance < FLAT * len(truth):
        return None
    return Interval(value, value - Z95 * se, value + Z95 * se)


def _observed_expected(truth: Floats, chance: Floats) -> Interval:
    """Return observed over expected positives, its interval on the log scale.

    Source: Debray et al., BMJ 2017;356:i6460 (variance of ln O/E, binomial O).
    """
    observed, expected = float(truth.sum()), max(float(chance.sum()), CLIP)
    ratio = observed / expected
    half = Z95 * math.sqrt((1 - observed / len(truth)) / observed)
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half))


def reliability_curve(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS
) -> tuple[Bin, ...]:
    """Return groups of equal size from low to high; equal scores stay together."""
    truth, chance = np.asarray(labels), np.asarray(probabilities, np.float64)
    inner = np.quantile(chance, np.linspace(0, 1, bins + 1)[1:-1])
    group = np.searchsorted(np.unique(inner), chance, side="left")
    return tuple(
        Bin(
            float(chance[group == g].mean()),
            clopper_pearson(int(truth[group == g].sum()), int((group == g).sum())),
        )
        for g in np.unique(group)
    )
