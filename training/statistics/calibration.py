"""From logits to probabilities, and from probabilities to a threshold."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from worker.manifest import Calibration, OperatingThreshold

MIN_SLOPE = 0.01  # a model no better than chance gets almost one probability for all


def fit_platt(labels: NDArray[np.int64], logits: NDArray[np.float64]) -> Calibration:
    """Fit probability = sigmoid(slope * logit + intercept) by maximum likelihood.

    The targets are Platt's, (k + 1) / (n + 2) in place of 1, so that separable
    cases do not give an infinite slope. The slope stays positive: calibration never
    turns a ranking around.
    Source: Platt, Probabilistic outputs for support vector machines, 1999.

    Raises:
        ValueError: A class is missing.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError("calibration needs cases of both classes")
    targets = np.where(
        labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2)
    )

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = at[0] * logits + at[1]
        value = np.logaddexp(0, z) - targets * z
        error = expit(z) - targets
        return float(value.sum()), np.array([error @ logits, error.sum()])

    start = np.array([1.0, math.log(positives / negatives)])
    fitted = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(MIN_SLOPE, None), (None, None)],
    )
    slope, intercept = fitted.x.tolist()
    return Calibration(slope=slope, intercept=intercept)


def threshold_at_sensitivity(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], sensitivity: float
) -> OperatingThreshold:
    """Return the highest threshold that reaches a sensitivity on these cases."""
    found = np.sort(probabilities[labels == 1])[::-1]
    k = math.ceil(sensitivity * len(found))
    return OperatingThreshold(
        value=float(found[k - 1]),
        how=f"sensitivity {sensitivity:.0%} on the calibration split "
        f"({k}/{len(found)} positives)",
    )
