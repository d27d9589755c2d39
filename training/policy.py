"""Every number of the gate that a new model passes, written down beforehand."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Policy:
    """When a challenger may take the place of the champion.

    `margin` is how much worse its AUC may be at one-sided level `alpha`: "not worse"
    is claimed within that margin and no further. `slope` and `observed_expected` bound
    its calibration. Subgroups are looked at from `subgroup_positives` positive cases
    on. Nothing is promoted without a person on fewer than `automatic_holdout` held-out
    cases, nor more than `automatic_promotions` times a year on the same ones; stage II
    not before `nsln_automatic` SLN-positive cases to learn from.
    """

    margin: float = 0.05
    alpha: float = 0.05
    sensitivity_drop: float = 0.05
    slope: tuple[float, float] = (0.7, 1.4)
    observed_expected: float = 0.25
    subgroup_drop: float = 0.10
    subgroup_positives: int = 20
    parity: float = 1e-4
    automatic: bool = False
    automatic_holdout: int = 200
    automatic_promotions: int = 4
    nsln_automatic: int = 400


POLICY: Final = Policy()
