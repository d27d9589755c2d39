"""Texture of a slice: co-occurrence and run lengths, merged over four directions.

Source: IBSI sections 3.6 and 3.7, aggregation "2D, merged" (by slice, directions
merged, distance 1, symmetric). Levels are 1..levels, 0 is outside the region.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.baselines.intensity import Features, entropy, ratio

Floats = NDArray[np.float64]
Levels = NDArray[np.intp]


def cooccurrence(image: Levels, levels: int) -> Floats:
    """Return how often level i lies beside level j, (levels, levels), sum 1.

    Args:
        image: (rows, columns) of levels, 0 outside.
        levels: How many there are.
    """
    counts = np.zeros(levels * levels)
    for here, there in _neighbours(image):
        both = (here > 0) & (there > 0)
        pairs = (here[both] - 1) * levels + there[both] - 1
        counts += np.bincount(pairs, minlength=levels * levels)
    matrix = counts.reshape(levels, levels)
    matrix = matrix + matrix.T
    shares: Floats = matrix / matrix.sum() if matrix.any() else matrix
    return shares


def _neighbours(image: Levels) -> Iterator[tuple[Levels, Levels]]:
    """Yield each pixel with its neighbour, in four directions."""
    yield image[:, :-1], image[:, 1:]
    yield image[:-1], image[1:]
    yield image[:-1, :-1], image[1:, 1:]
    yield image[:-1, 1:], image[1:, :-1]


def cooccurrence_features(p: Floats) -> Features:
    """Return 25 features of a co-occurrence matrix (levels, levels) of sum 1."""
    i, j = np.indices(p.shape) + 1.0
    px = p.sum(axis=1)
    levels = np.arange(1.0, len(p) + 1)
    mean = float((px * levels).sum())
    variance = float((px * (levels - mean) ** 2).sum())
    apart, beside = _diagonals(p)
    return {
        "cm_joint_max": float(p.max()),
        "cm_joint_avg": mean,
        "cm_joint_var": variance,
        "cm_joint_entr": entropy(p),
        **_spread("diff", apart.shares, apart.values),
        **_spread("sum", beside.shares, beside.values),
        "cm_energy": float((p**2).sum()),
        "cm_contrast": float((p * (i - j) ** 2).sum()),
        "cm_dissimilarity": float((p * np.abs(i - j)).sum()),
        **_inverse(p, np.abs(i - j)),
        "cm_corr": ratio(float((p * (i - mean) * (j - mean)).sum()), variance),
        "cm_auto_corr": float((p * i * j).sum()),
        **{
            f"cm_clust_{name}": float((p * (i + j - 2 * mean) ** power).sum())
            for name, power in (("tend", 2), ("shade", 3), ("prom", 4))
        },
        **_information(p, px),
    }


class _Law(NamedTuple):
    """Shares of values of a whole number."""

    shares: Floats
    values: Floats


def _diagonals(p: Floats) -> tuple[_Law, _Law]:
    """Return the laws of |i - j| and of i + j."""
    n = len(p)
    i, j = np.indices(p.shape)
    apart = np.bincount(np.abs(i - j).ravel(), p.ravel(), n).astype(np.float64)
    beside = np.bincount((i + j).ravel(), p.ravel()).astype(np.float64)
    return _Law(apart, np.arange(float(n))), _Law(beside, np.arange(2.0, 2 * n + 1))


def _spread(name: str, shares: Floats, values: Floats) -> Features:
    mean = float((shares * values).sum())
    return {
        f"cm_{name}_avg": mean,
        f"cm_{name}_var": float((shares * (values - mean) ** 2).sum()),
        f"cm_{name}_entr": entropy(shares),
    }


def _inverse(p: Floats, apart: Floats) -> Features:
    n = len(p)
    other = apart > 0
    return {
        "cm_inv_diff": float((p / (1 + apart)).sum()),
        "cm_inv_diff_norm": float((p / (1 + apart / n)).sum()),
        "cm_inv_diff_mom": float((p / (1 + apart**2)).sum()),
        "cm_inv_diff_mom_norm": float((p / (1 + (apart / n) ** 2)).sum()),
        "cm_inv_var": float((p[other] / apart[other] ** 2).sum()),
    }


def _information(p: Floats, px: Floats) -> Features:
    """Return both information correlations, from joint and marginal entropies."""
    product = px[:, None] * px[None]
    some = p > 0
    joint, marginal = entropy(p), entropy(px)
    first = float(-(p[some] * np.log2(product[some])).sum())
    second = entropy(product)
    inner = 1 - np.exp(-2 * (second - joint))
    return {
        "cm_info_corr1": ratio(joint - first, marginal),
        "cm_info_corr2": float(np.sqrt(max(inner, 0.0))),
    }


def run_lengths(image: Levels, levels: int) -> Floats:
    """Return how many runs each level has of each length, (levels, longest).

    Args:
        image: (rows, columns) of levels, 0 outside: a run ends there.
        levels: How many there are.
    """
    longest = max(image.shape)
    counts = np.zeros(levels * longest)
    for line in _lines(image):
        ends = np.flatnonzero(np.diff(line)) + 1
        starts = np.r_[0, ends]
        length = np.diff(np.r_[starts, len(line)])
        level = line[starts]
        inside = level > 0
        cells = (level[inside] - 1) * longest + length[inside] - 1
        counts += np.bincount(cells, minlength=levels * longest)
    return counts.reshape(levels, longest)


def _lines(image: Levels) -> Iterator[Levels]:
    """Yield all lines of each direction end to end, with zeros between them."""
    rows, columns = image.shape
    yield np.pad(image, ((0, 0), (0, 1))).ravel()
    yield np.pad(image, ((0, 1), (0, 0))).T.ravel()
    for turned in (image, image[:, ::-1]):
        skew = np.zeros((rows, rows + columns), dtype=image.dtype)
        at = np.arange(rows)[:, None]
        skew[at, np.arange(columns)[None] + at] = turned
        yield np.pad(skew, ((0, 1), (0, 0))).T.ravel()


def run_length_features(runs: Floats, pixels: int) -> Features:
    """Return the 16 features of a run-length matrix (levels, longest).

    Args:
        runs: From `run_lengths`.
        pixels: In the region.
    """
    total = float(runs.sum())
    if not total:
        return dict.fromkeys(RUN_LENGTH_NAMES, 0.0)
    p = runs / total
    i, j = np.indices(runs.shape) + 1.0
    by_level, by_length = runs.sum(axis=1), runs.sum(axis=0)
    mean_level, mean_length = float((p * i).sum()), float((p * j).sum())
    values = (
        float((p / j**2).sum()),
        float((p * j**2).sum()),
        float((p / i**2).sum()),
        float((p * i**2).sum()),
        float((p / (i * j) ** 2).sum()),
        float((p * (i / j) ** 2).sum()),
        float((p * (j / i) ** 2).sum()),
        float((p * (i * j) ** 2).sum()),
        float((by_level**2).sum() / total),
        float((by_level**2).sum() / total**2),
        float((by_length**2).sum() / total),
        float((by_length**2).sum() / total**2),
        total / (DIRECTIONS * pixels),
        float((p * (i - mean_level) ** 2).sum()),
        float((p * (j - mean_length) ** 2).sum()),
        entropy(p),
    )
    return dict(zip(RUN_LENGTH_NAMES, values, strict=True))


DIRECTIONS = 4
RUN_LENGTH_NAMES = tuple(
    f"rlm_{name}"
    for name in (
        *("sre", "lre", "lgre", "hgre", "srlge", "srhge", "lrlge", "lrhge"),
        *("glnu", "glnu_norm", "rlnu", "rlnu_norm"),
        *("r_perc", "gl_var", "rl_var", "rl_entr"),
    )
)
