"""Counts at a threshold and every rate of them, with its definition.

The same four counts give FPR and FDR, which are easily taken for each other:
FP / (FP + TN) is a share of the negatives, FP / (FP + TP) of those called high.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dicom_node.findings import Proportion
from training.statistics.proportion import clopper_pearson


@dataclass(frozen=True, slots=True)
class Counts:
    """Cases by label and by side of the threshold."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __post_init__(self) -> None:
        if min(self.tp, self.fp, self.fn, self.tn) < 0:
            raise ValueError("a count is negative")

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
        )

    @property
    def n(self) -> int:
        """All cases."""
        return self.positives + self.negatives

    @property
    def positives(self) -> int:
        """Cases with label 1."""
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        """Cases with label 0."""
        return self.fp + self.tn

    @property
    def high(self) -> int:
        """Cases at or above the threshold."""
        return self.tp + self.fp

    @property
    def low(self) -> int:
        """Cases below the threshold."""
        return self.fn + self.tn


def count(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Counts:
    """Count cases; high means probability >= threshold, unrounded.

    Args:
        labels: (n,) of 0 and 1.
        probabilities: (n,).
        threshold: On the scale of the probabilities.
    """
    truth = np.asarray(labels, dtype=bool)
    high = np.asarray(probabilities, dtype=np.float64) >= threshold
    return Counts(
        tp=int((truth & high).sum()),
        fp=int((~truth & high).sum()),
        fn=int((truth & ~high).sum()),
        tn=int((~truth & ~high).sum()),
    )


class Metric(StrEnum):
    """A rate of the four counts."""

    ACCURACY = "accuracy"
    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"
    PPV = "PPV"
    NPV = "NPV"
    FPR = "FPR"
    FNR = "FNR"
    FDR = "FDR"
    FOR = "FOR"


class Definition(NamedTuple):
    """What a rate is: its name in words, its formula, and which counts it takes."""

    words: str
    formula: str
    part: Callable[[Counts], int]
    whole: Callable[[Counts], int]


DEFINITIONS: Final = {
    Metric.ACCURACY: Definition(
        "accuracy", "(TP + TN) / n", lambda c: c.tp + c.tn, lambda c: c.n
    ),
    Metric.SENSITIVITY: Definition(
        "sensitivity", "TP / (TP + FN)", lambda c: c.tp, lambda c: c.positives
    ),
    Metric.SPECIFICITY: Definition(
        "specificity", "TN / (TN + FP)", lambda c: c.tn, lambda c: c.negatives
    ),
    Metric.PPV: Definition(
        "positive predictive value", "TP / (TP + FP)", lambda c: c.tp, lambda c: c.high
    ),
    Metric.NPV: Definition(
        "negative predictive value", "TN / (TN + FN)", lambda c: c.tn, lambda c: c.low
    ),
    Metric.FPR: Definition(
        "false positive rate", "FP / (FP + TN)", lambda c: c.fp, lambda c: c.negatives
    ),
    Metric.FNR: Definition(
        "false negative rate", "FN / (FN + TP)", lambda c: c.fn, lambda c: c.positives
    ),
    Metric.FDR: Definition(
        "false discovery rate", "FP / (FP + TP)", lambda c: c.fp, lambda c: c.high
    ),
    Metric.FOR: Definition(
        "false omission rate", "FN / (FN + TN)", lambda c: c.fn, lambda c: c.low
    ),
}


def rate(counts: Counts, metric: Metric) -> Proportion | None:
    """Return a rate with its Clopper-Pearson interval, None for 0 / 0."""
    definition = DEFINITIONS[metric]
    whole = definition.whole(counts)
    return clopper_pearson(definition.part(counts), whole) if whole else None


def rates(counts: Counts) -> dict[Metric, Proportion | None]:
    """Return every rate of these counts, in the order of the table."""
    return {metric: rate(counts, metric) for metric in Metric}


def percent(proportion: Proportion | None, digits: int = 1) -> str:
    """Print a proportion as "76.4 (68.5-83.2) 107/140"; a missing one as "-"."""
    if proportion is None:
        return "-"
    value, low, high = (
        f"{100 * x:.{digits}f}"
        for x in (proportion.value, proportion.low, proportion.high)
    )
    return f"{value} ({low}-{high}) {proportion.k}/{proportion.n}"
