"""How likely the gate lets a model pass that is exactly as good as the champion."""

import math
from typing import Final, NamedTuple

from scipy.stats import norm

from training.policy import Policy

SIZES: Final = (100, 200, 300, 425, 600, 1000)
CORRELATION: Final = 0.8
"""Of the AUCs of two generations of a model on the same cases."""


class PowerRow(NamedTuple):
    """Size of a holdout, its positive cases, and the power to show "not worse"."""

    n: int
    positives: int
    power: float


def power(area: float, positives: int, negatives: int, policy: Policy) -> float:
    """Return the chance that an equal challenger is shown to be not inferior.

    Source: variance by Hanley and McNeil, Radiology 1982;143:29; the paired variance
    from the correlation of both AUCs as in Radiology 1983;148:839.
    """
    inner = min(max(area, 0.5), 1 - 1e-6)
    both = inner / (2 - inner)
    twice = 2 * inner**2 / (1 + inner)
    variance = (
        inner * (1 - inner)
        + (positives - 1) * (both - inner**2)
        + (negatives - 1) * (twice - inner**2)
    ) / (positives * negatives)
    se = math.sqrt(2 * (1 - CORRELATION) * variance)
    return float(norm.cdf(policy.margin / se - norm.ppf(1 - policy.alpha)))


def power_table(
    area: float, prevalence: float, n: int, policy: Policy
) -> tuple[PowerRow, ...]:
    """Return the power of holdouts of some sizes, and of this one."""
    rows = []
    for size in sorted({*SIZES, n}):
        positives = min(max(round(size * prevalence), 1), size - 1)
        chance = power(area, positives, size - positives, policy)
        rows.append(PowerRow(size, positives, chance))
    return tuple(rows)
