"""Logistic regression with intervals, and Firth's where classes are separated.

Source: Firth, Biometrika 1993; Heinze and Schemper, Statistics in Medicine 2002.
"""

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm
from statsmodels.tools.sm_exceptions import PerfectSeparationError

from dicom_node.findings import Z95

MAX_STEPS: Final = 100
TOLERANCE: Final = 1e-10
SMALLEST_STEP: Final = 1e-12
SEPARATED_SE: Final = 10.0
"""A standard error this large, per SD of the variable, says that no maximum exists."""

LIKELIHOOD: Final = "maximum likelihood"
FIRTH: Final = "Firth's penalised likelihood (classes separated or a cell empty)"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Logistic:
    """Coefficients (k + 1,), the intercept first, with standard errors."""

    coefficients: Floats
    errors: Floats
    method: str

    @property
    def p(self) -> Floats:
        """Two-sided Wald p of each coefficient."""
        p: Floats = 2 * norm.sf(np.abs(self.coefficients / self.errors))
        return p

    def odds_ratio(self, i: int) -> tuple[float, float, float]:
        """Return the odds ratio of variable i (from 0) with its 95% Wald interval."""
        value, half = self.coefficients[i + 1], Z95 * self.errors[i + 1]
        low, middle, high = np.exp([value - half, value, value + half]).tolist()
        return middle, low, high

    def predict(self, x: Floats) -> Floats:
        """Return the probabilities (n,) of variables (n, k)."""
        chances: Floats = expit(self.coefficients[0] + x @ self.coefficients[1:])
        return chances


def fit(x: Floats, labels: NDArray[np.int64]) -> Logistic:
    """Fit labels (n,) on variables (n, k); k may be 0.

    Maximum likelihood, or Firth's where that has no finite maximum.
    """
    design = np.column_stack([np.ones(len(labels)), x])
    spread = np.r_[1.0, x.std(axis=0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit is judged below
        try:
            found = sm.Logit(labels, design).fit(disp=False, maxiter=MAX_STEPS)
        except (PerfectSeparationError, np.linalg.LinAlgError):
            return firth(x, labels)
    errors = np.asarray(found.bse, dtype=np.float64)
    sound = found.mle_retvals["converged"] and np.isfinite(errors).all()
    if not sound or (errors[1:] * spread[1:] > SEPARATED_SE).any():
        return firth(x, labels)
    return Logistic(np.asarray(found.params, np.float64), errors, LIKELIHOOD)


def firth(x: Floats, labels: NDArray[np.int64]) -> Logistic:
    """Fit by Firth's penalised likelihood, which always has a finite maximum.

    Raises:
        ValueError: Variables are collinear.
    """
    design = np.column_stack([np.ones(len(labels)), x])
    at = np.zeros(design.shape[1])
    best = _penalised(design, labels, at)
    for _ in range(MAX_STEPS):
        step = _step(design, labels, at)
        while (
            _penalised(design, labels, at + step) < best
            and np.abs(step).max() > SMALLEST_STEP
        ):
            step /= 2
        at = at + step
        best = _penalised(design, labels, at)
        if np.abs(step).max() < TOLERANCE:
            break
    covariance = np.linalg.inv(_information(design, at))
    return Logistic(at, np.sqrt(np.diag(covariance)), FIRTH)


def _information(design: Floats, at: Floats) -> Floats:
    chances = expit(design @ at)
    weighted: Floats = (design.T * (chances * (1 - chances))) @ design
    return weighted


def _step(design: Floats, labels: NDArray[np.int64], at: Floats) -> Floats:
    """Return Newton's step on the modified score."""
    chances = expit(design @ at)
    try:
        covariance = np.linalg.inv(_information(design, at))
    except np.linalg.LinAlgError as error:
        raise ValueError("the variables of a regression are collinear") from error
    leverage = np.einsum("ij,jk,ik->i", design, covariance, design)
    leverage = leverage * chances * (1 - chances)
    score = design.T @ (labels - chances + leverage * (0.5 - chances))
    step: Floats = covariance @ score
    return step


def _penalised(design: Floats, labels: NDArray[np.int64], at: Floats) -> float:
    z = design @ at
    _, determinant = np.linalg.slogdet(_information(design, at))
    return float((labels * z - np.logaddexp(0, z)).sum() + 0.5 * determinant)
