"""McNemar's exact test: two readings of the same cases."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest


class McNemar(NamedTuple):
    """Cases that only the first reading got, only the second, and the exact p."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Compare two yes/no readings (n,) of the same cases, two-sided and exact.

    Raises:
        ValueError: The readings are not of the same cases.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape:
        raise ValueError("two readings of different cases cannot be paired")
    b, c = int((one & ~two).sum()), int((~one & two).sum())
    p = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    return McNemar(b, c, p)
