"""ROC and precision-recall curves, and Youden's cut as what it is: optimistic."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_curve,
)

from training.statistics.auc import AucInterval, auc_interval
from training.statistics.confusion import Counts, count

OPTIMISTIC: Final = (
    "optimistic: Youden's cut was chosen on the very cases that it is counted on"
)


@dataclass(frozen=True, slots=True)
class RocCurve:
    """Corners of the ROC curve; at thresholds[i] cases with score >= it are high."""

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    auc: AucInterval


@dataclass(frozen=True, slots=True)
class PrCurve:
    """Precision over recall; a model that knows nothing has precision = prevalence."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    average_precision: float
    prevalence: float


def roc(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """Return the ROC curve with DeLong's interval of its area.

    Raises:
        ValueError: A class has fewer than two cases.
    """
    area = auc_interval(labels, scores)
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    return RocCurve(fpr, tpr, thresholds, area)


def precision_recall(labels: ArrayLike, scores: ArrayLike) -> PrCurve:
    """Return the precision-recall curve; its area is the average precision."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    return PrCurve(
        recall,
        precision,
        float(average_precision_score(labels, scores)),
        float(np.mean(np.asarray(labels))),
    )


@dataclass(frozen=True, slots=True)
class YoudenPoint:
    """The cut with the largest sensitivity + specificity; `note` says what it is."""

    threshold: float
    counts: Counts
    note: str = OPTIMISTIC


def youden(labels: ArrayLike, scores: ArrayLike) -> YoudenPoint:
    """Return Youden's cut of these cases; it is never an operating threshold."""
    curve = roc(labels, scores)
    best = float(curve.thresholds[int(np.argmax(curve.tpr - curve.fpr))])
    return YoudenPoint(best, count(labels, scores, best))
