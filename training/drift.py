"""Are the cases of today like those that the model learned from? Pure statistics.

Inputs and scores are compared without labels: the population stability index in its
chi-square form, and Kolmogorov-Smirnov. Labels, which come weeks later, are compared
with what the model promised: AUC, and observed over expected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2, ks_2samp, norm

from training.lineage import Reference
from training.statistics.auc import auc, auc_interval, delong_variance
from training.statistics.proportion import clopper_pearson
from worker.manifest import Performance

Floats = NDArray[np.float64]

ALPHA: Final = 0.01
WINDOW: Final = 100
"""Cases of one window; with fewer nothing is tested."""

BINS: Final = 10
LABELLED: Final = 100
MIN_OF_EACH: Final = 5
EVERY_SCANNER: Final = "all"


@dataclass(frozen=True, slots=True)
class Finding:
    """One statistic of one window; `p` is None where it is no test."""

    statistic: str
    value: float
    p: float | None
    n: int
    alarm: bool
    scanner: str = EVERY_SCANNER
    detail: str | None = None


def population_stability(reference: Reference, window: Floats) -> Finding:
    """Return the PSI of a window, which without drift is a chi-square.

    Bins are tenths of the reference; half a case is added to each bin, so that an
    empty one is no infinity.
    Source: Yurdakul, Statistical Properties of Population Stability Index, 2018.
    """
    values = np.array(reference.values)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = len(edges) + 1
    m, n = float(reference.n), float(len(window))
    before = _shares(values, edges) * m
    now = _shares(window, edges) * n
    p = (before + 0.5) / (m + 0.5 * bins)
    q = (now + 0.5) / (n + 0.5 * bins)
    index = float(np.sum((q - p) * np.log(q / p)))
    tail = float(chi2.sf(index / (1 / n + 1 / m), bins - 1)) if bins > 1 else 1.0
    return Finding("psi", index, tail, len(window), alarm=tail < ALPHA)


def _shares(values: Floats, edges: Floats) -> Floats:
    counts = np.bincount(
        np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1
    )
    shares: Floats = counts / len(values)
    return shares


def kolmogorov_smirnov(reference: Reference, window: Floats) -> Finding:
    """Return the largest distance between both distributions."""
    found = ks_2samp(np.array(reference.values), window, method="asymp")
    tail = float(found.pvalue)
    return Finding("ks", float(found.statistic), tail, len(window), alarm=tail < ALPHA)


def rate_change(
    statistic: str, found: tuple[int, int], reference: tuple[int, int]
) -> Finding:
    """Compare how many of the cases are positive: (k, n) now with (k, n) before.

    Exact against the rate of the reference, whose own uncertainty is small beside.
    """
    (k, n), (before, of) = found, reference
    rate = min(max(before / of, 0.5 / of), 1 - 0.5 / of)
    tail = float(binomtest(k, n, rate).pvalue)
    return Finding(statistic, k / n, tail, n, alarm=tail < ALPHA)


def inputs(
    reference: Mapping[str, Reference], window: Mapping[str, Floats]
) -> list[Finding]:
    """Compare each feature that both know, in windows that are large enough."""
    findings = []
    for name, values in window.items():
        finite = values[np.isfinite(values)]
        if name in reference and len(finite) >= WINDOW:
            for test in (population_stability, kolmogorov_smirnov):
                one = test(reference[name], finite)
                findings.append(replace(one, statistic=f"{one.statistic}_{name}"))
    return findings


def jointly(findings: Iterable[Finding]) -> list[Finding]:
    """Set the alarms so that a report without drift raises one in a hundred times.

    Source: Holm, Scandinavian Journal of Statistics 1979;6:65.
    """
    given = list(findings)
    order = sorted(
        (i for i, one in enumerate(given) if one.p is not None),
        key=lambda i: given[i].p or 0.0,
    )
    alarms, still = set(), True
    for rank, i in enumerate(order):
        still = still and (given[i].p or 0.0) < ALPHA / (len(order) - rank)
        if still:
            alarms.add(i)
    return [
        one if one.p is None else replace(one, alarm=i in alarms)
        for i, one in enumerate(given)
    ]


def labelled(
    labels: Sequence[int], probabilities: Sequence[float], promised: Performance
) -> list[Finding]:
    """Compare the last labelled cases with what the model's manifest promises.

    An AUC is an alarm only when it is lower than promised; observed over expected is
    exact (Poisson binomial), two-sided.
    """
    truth = np.array(labels[-LABELLED:], dtype=np.int64)
    chance = np.array(probabilities[-LABELLED:], dtype=np.float64)
    if not len(truth):
        return []
    findings = [_observed_expected(truth, chance)]
    positives = int(truth.sum())
    if min(positives, len(truth) - positives) >= MIN_OF_EACH:
        findings.append(_rolling_auc(truth, chance, promised))
    return findings


def _rolling_auc(
    truth: NDArray[np.int64], chance: Floats, promised: Performance
) -> Finding:
    now = auc_interval(truth, chance)
    then = (*promised.positives, *promised.negatives)
    known = [1] * len(promised.positives) + [0] * len(promised.negatives)
    variance = delong_variance(truth, chance)
    if min(len(promised.positives), len(promised.negatives)) > 1:
        variance += delong_variance(known, then)
    gap = now.value - auc(known, then)
    tail = float(norm.cdf(gap / math.sqrt(max(variance, 1e-12))))
    return Finding(
        "auc",
        now.value,
        tail,
        len(truth),
        alarm=tail < ALPHA,
        detail=f"95% CI {now.low:.3f}-{now.high:.3f}, promised {promised.auc:.3f}",
    )


def _observed_expected(truth: NDArray[np.int64], chance: Floats) -> Finding:
    observed, expected = int(truth.sum()), float(chance.sum())
    law = np.ones(1)
    for one in chance:
        law = np.convolve(law, (1 - one, one))
    tail = float(min(1.0, 2 * min(law[: observed + 1].sum(), law[observed:].sum())))
    share = clopper_pearson(observed, len(truth))
    mean = max(expected / len(truth), 1e-9)
    return Finding(
        "observed_expected",
        observed / max(expected, 1e-9),
        tail,
        len(truth),
        alarm=tail < ALPHA,
        detail=f"observed {observed}, expected {expected:.1f}, 95% CI "
        f"{share.low / mean:.2f}-{share.high / mean:.2f}",
    )
