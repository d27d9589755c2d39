"""The exact interval of a proportion, for tables as the paper's."""

from dataclasses import replace

from scipy.stats import binomtest

from dicom_node.findings import Proportion


def clopper_pearson(k: int, n: int) -> Proportion:
    """Return k of n with its exact 95% interval.

    Source: Clopper and Pearson, Biometrika 1934. Manifests carry Wilson's.

    Raises:
        ValueError: n is not positive, or k is not in 0..n.
    """
    wilson = Proportion.wilson(k, n)  # it refuses what is not a proportion
    exact = binomtest(k, n).proportion_ci(confidence_level=0.95, method="exact")
    return replace(wilson, low=float(exact.low), high=float(exact.high))
