"""Choosing features from training cases alone, as one step of a scikit-learn pipeline.

First, of two features that correlate, the one that separates the classes less goes;
then a logistic regression with an L1 penalty keeps what it needs.
"""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression

FLAT: Final = 1e-9

Floats = NDArray[np.float64]


class Selection(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # no stubs
    """Standardises, drops what correlates above `correlation`, keeps what L1 keeps.

    `fewest` features are kept even where L1 would keep none.
    """

    def __init__(
        self, correlation: float = 0.9, strength: float = 0.1, fewest: int = 3
    ) -> None:
        self.correlation = correlation
        self.strength = strength
        self.fewest = fewest

    def fit(self, x: Floats, y: NDArray[np.int64]) -> Self:
        """Choose columns of x (n, k) that tell labels y (n,) apart."""
        self.mean_, self.scale_ = x.mean(axis=0), x.std(axis=0)
        self.scale_[self.scale_ < FLAT] = np.inf  # a flat feature becomes 0
        z = self._standardised(x)
        separates = separation(z, y)
        order = [i for i in np.argsort(-separates) if np.isfinite(self.scale_[i])]
        apart = np.array(uncorrelated(z, order, self.correlation), dtype=np.intp)
        self.chosen_ = apart[self._needed(z[:, apart], y)] if len(apart) else apart
        return self

    def _needed(self, z: Floats, y: NDArray[np.int64]) -> NDArray[np.intp]:
        model = LogisticRegression(
            C=self.strength, l1_ratio=1.0, solver="liblinear", random_state=0
        )
        weights = np.abs(model.fit(z, y).coef_[0])
        kept = np.flatnonzero(weights > 0)
        enough = min(self.fewest, z.shape[1])  # columns come best first
        return kept if len(kept) >= enough else np.arange(enough)

    def transform(self, x: Floats) -> Floats:
        """Return the chosen columns, standardised; a constant if there are none."""
        if not len(self.chosen_):
            return np.zeros((len(x), 1))
        return self._standardised(x)[:, self.chosen_]

    def _standardised(self, x: Floats) -> Floats:
        z: Floats = (x - self.mean_) / self.scale_
        return z


def separation(x: Floats, y: NDArray[np.int64]) -> Floats:
    """Return |AUC - 0.5| of each column of x (n, k)."""
    positives = int(y.sum())
    ranks = rankdata(x, axis=0)[y == 1].sum(axis=0)
    area = (ranks - positives * (positives + 1) / 2) / (
        positives * (len(y) - positives)
    )
    away: Floats = np.abs(area - 0.5)
    return away


def uncorrelated(z: Floats, order: list[int], limit: float) -> list[int]:
    """Return columns in this order that correlate below the limit with those kept."""
    kept: list[int] = []
    for i in order:
        related = np.abs(z[:, kept].T @ z[:, i]) / len(z)
        if not kept or related.max() <= limit:
            kept.append(i)
    return kept
