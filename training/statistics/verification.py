"""Verification bias: a label is known only where surgery was done.

Where patients called high are operated on more often than those called low, the
verified cases flatter sensitivity. Begg and Greenes correct it, provided that
verification depends on the call alone.
Source: Begg and Greenes, Biometrics 1983;39:207-215.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import fisher_exact

from dicom_node.findings import Z95, Proportion
from training.statistics.bootstrap import Interval
from training.statistics.confusion import Counts, Metric, rate
from training.statistics.proportion import clopper_pearson

BIASED: Final = 0.05
"""Below this p of Fisher's test, the verified shares of high and low differ."""

ASSUMPTION: Final = (
    "Begg-Greenes: right only if, among patients with the same call, verification "
    "does not depend on the disease."
)


@dataclass(frozen=True, slots=True)
class Verification:
    """Verified share per risk group; naive and corrected rates side by side.

    `corrected_*` are None where a risk group has no verified case, or none of a
    class, so that its share of disease is not known.
    """

    high: Proportion | None
    low: Proportion | None
    p: float
    counts: Counts
    sensitivity: Proportion | None
    specificity: Proportion | None
    corrected_sensitivity: Interval | None
    corrected_specificity: Interval | None
    warning: str


def verification(high: ArrayLike, labels: ArrayLike) -> Verification:
    """Compare verification between risk groups and correct for it.

    Args:
        high: (n,) of bool: the call of every case, verified or not.
        labels: (n,) of 1, 0, or -1 where surgery was not done.
    """
    call, truth = np.asarray(high, dtype=bool), np.asarray(labels)
    known = truth >= 0
    counts = Counts(
        tp=int((call & (truth == 1)).sum()),
        fp=int((call & (truth == 0)).sum()),
        fn=int((~call & (truth == 1)).sum()),
        tn=int((~call & (truth == 0)).sum()),
    )
    p = _difference(call, known)
    corrected = _corrected(counts, int(call.sum()), len(call))
    return Verification(
        high=_share(known[call]),
        low=_share(known[~call]),
        p=p,
        counts=counts,
        sensitivity=rate(counts, Metric.SENSITIVITY),
        specificity=rate(counts, Metric.SPECIFICITY),
        corrected_sensitivity=corrected[0],
        corrected_specificity=corrected[1],
        warning=_warning(p, int((~known).sum())),
    )


def _share(known: NDArray[np.bool_]) -> Proportion | None:
    return clopper_pearson(int(known.sum()), len(known)) if len(known) else None


def _difference(call: NDArray[np.bool_], known: NDArray[np.bool_]) -> float:
    table = [
        [int((group & known).sum()), int((group & ~known).sum())]
        for group in (call, ~call)
    ]
    return float(fisher_exact(table).pvalue)


def _warning(p: float, unverified: int) -> str:
    if not unverified:
        return ""
    if p < BIASED:
        return (
            "verification bias: the share of verified cases differs between high and "
            f"low risk (Fisher p = {p:.2g}); read the corrected values. {ASSUMPTION}"
        )
    return f"{unverified} cases have no label; they are in no rate. {ASSUMPTION}"


def _corrected(
    counts: Counts, high: int, n: int
) -> tuple[Interval | None, Interval | None]:
    """Return corrected sensitivity and specificity, intervals on the logit scale."""
    if min(counts.tp, counts.fp, counts.fn, counts.tn) == 0 or high in {0, n}:
        return None, None
    called = high / n
    ill_high, ill_low = counts.tp / counts.high, counts.fn / counts.low
    margin = 1 / (n * called * (1 - called))
    sensitivity = _interval(
        math.log(ill_high) - math.log(ill_low) + float(logit(called)),
        (1 - ill_high) / counts.tp + (1 - ill_low) / counts.fn + margin,
    )
    specificity = _interval(
        math.log(1 - ill_low) - math.log(1 - ill_high) - float(logit(called)),
        ill_high / counts.fp + ill_low / counts.tn + margin,
    )
    return sensitivity, specificity


def _interval(middle: float, variance: float) -> Interval:
    half = Z95 * math.sqrt(variance)
    return Interval(*(float(expit(x)) for x in (middle, middle - half, middle + half)))
