"""Who would be operated on: radiologists against the network (the paper's Fig. 4).

The paper calls FDR and FOR "FPR" and "FNR". All four are given here, each with its
definition, because a false positive rate of 77.9% cannot come from its margins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicom_node.findings import Proportion
from training.scores import CohortScores
from training.statistics.confusion import DEFINITIONS, Counts, Metric, count, rate
from training.statistics.paired import McNemar, mcnemar

LABELS: Final = {
    Metric.FPR: "FPR",
    Metric.FNR: "FNR",
    Metric.FDR: "FDR (paper: 'FPR')",
    Metric.FOR: "FOR (paper: 'FNR')",
}


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """One of the four error rates, as it is printed."""

    label: str
    formula: str
    proportion: Proportion | None


def error_rates(counts: Counts) -> tuple[ErrorRate, ...]:
    """Return FPR, FNR, FDR and FOR with the paper's names beside."""
    return tuple(
        ErrorRate(label, DEFINITIONS[metric].formula, rate(counts, metric))
        for metric, label in LABELS.items()
    )


@dataclass(frozen=True, slots=True)
class Surgery:
    """What a rule "operate on high only" does, against operating on everyone.

    `avoided` are not operated on: `rightly` of them have no metastasis, `missed`
    have one. `needless` are operated on and have none.
    """

    everyone: int
    avoided: int
    rightly: int
    missed: int
    needless: int


def surgery(counts: Counts) -> Surgery:
    """Return SLND (counts of stage I) or ALND (of stage II) done and avoided."""
    return Surgery(counts.n, counts.low, counts.tn, counts.fn, counts.fp)


@dataclass(frozen=True, slots=True)
class Reading:
    """Yes/no of one reader or model, at its threshold."""

    name: str
    scores: CohortScores
    threshold: float

    @property
    def counts(self) -> Counts:
        """Its four counts."""
        return count(self.scores.labels, self.scores.probabilities, self.threshold)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two readings of the same cases, with McNemar's exact tests between them."""

    first: Counts
    second: Counts
    sensitivity: McNemar
    specificity: McNemar
    accuracy: McNemar


def compare(first: Reading, second: Reading) -> Comparison:
    """Compare two readings on the cases that both have.

    Raises:
        ValueError: They share no case, or disagree on a label.
    """
    one, two = _paired(first.scores, second.scores)
    high = one.probabilities >= first.threshold
    other = two.probabilities >= second.threshold
    truth = one.labels == 1
    return Comparison(
        first=count(one.labels, one.probabilities, first.threshold),
        second=count(two.labels, two.probabilities, second.threshold),
        sensitivity=mcnemar(high[truth], other[truth]),
        specificity=mcnemar(~high[~truth], ~other[~truth]),
        accuracy=mcnemar(high == truth, other == truth),
    )


def _paired(
    first: CohortScores, second: CohortScores
) -> tuple[CohortScores, CohortScores]:
    shared = set(first.case_ids) & set(second.case_ids)
    one, two = (_only(each, shared) for each in (first, second))
    if not shared or not np.array_equal(one.labels, two.labels):
        raise ValueError("two readings must share cases and their labels")
    return one, two


def _only(scores: CohortScores, cases: set[str]) -> CohortScores:
    """Return these cases, sorted by case_id."""
    rows = sorted(
        (i for i, case in enumerate(scores.case_ids) if case in cases),
        key=lambda i: scores.case_ids[i],
    )
    return CohortScores(
        scores.cohort,
        tuple(scores.case_ids[i] for i in rows),
        scores.labels[rows],
        scores.probabilities[rows],
    )


def pool(parts: Sequence[CohortScores], name: str) -> CohortScores:
    """Return several cohorts as one, as Fig. 4 pools validation and test sets."""
    return CohortScores(
        name,
        tuple(case for part in parts for case in part.case_ids),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class Cascade:
    """Where the two stages send patients; every one is in exactly one count.

    Stage I low ends there. Stage I high has SLND; those with SLN metastasis and a
    known NSLN status are counted by stage II (`alnd`), the others in `unstaged`.
    """

    low_negative: int
    low_positive: int
    slnd_negative: int
    unstaged: int
    alnd: Counts

    @property
    def n(self) -> int:
        """All patients."""
        return sum(
            (
                self.low_negative,
                self.low_positive,
                self.slnd_negative,
                self.unstaged,
                self.alnd.n,
            )
        )


def cascade(sln: Reading, nsln: Reading) -> Cascade:
    """Send the patients of stage I through both stages."""
    one = sln.counts
    high = {
        case
        for case, label, chance in zip(
            sln.scores.case_ids,
            sln.scores.labels,
            sln.scores.probabilities,
            strict=True,
        )
        if label == 1 and chance >= sln.threshold
    }
    staged = _only(nsln.scores, high)
    two = count(staged.labels, staged.probabilities, nsln.threshold)
    return Cascade(one.tn, one.fn, one.fp, one.tp - two.n, two)
