"""First-order features of the intensities in a region, as IBSI defines them.

Source: Zwanenburg et al., Image Biomarker Standardisation Initiative, sections 3.3
(statistics, 18 features) and 3.4 (histogram: entropy and uniformity).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = dict[str, float]


def ratio(top: float, bottom: float) -> float:
    """Return top / bottom, 0 where bottom is 0: a flat region has finite features."""
    return float(top / bottom) if bottom else 0.0


def statistics(values: Floats) -> Features:
    """Return the 18 intensity statistics of values (n,)."""
    p10, p25, median, p75, p90 = np.percentile(values, (10, 25, 50, 75, 90)).tolist()
    mean, sd = float(values.mean()), float(values.std())
    robust = values[(values >= p10) & (values <= p90)]
    off = values - mean
    return {
        "stat_mean": mean,
        "stat_var": sd**2,
        "stat_skew": ratio(float((off**3).mean()), sd**3),
        "stat_kurt": ratio(float((off**4).mean()), sd**4) - 3 * bool(sd),
        "stat_median": median,
        "stat_min": float(values.min()),
        "stat_p10": p10,
        "stat_p90": p90,
        "stat_max": float(values.max()),
        "stat_iqr": p75 - p25,
        "stat_range": float(np.ptp(values)),
        "stat_mad": float(np.abs(off).mean()),
        "stat_rmad": float(np.abs(robust - robust.mean()).mean()),
        "stat_medad": float(np.abs(values - median).mean()),
        "stat_cov": ratio(sd, mean),
        "stat_qcod": ratio(p75 - p25, p75 + p25),
        "stat_energy": float((values**2).sum()),
        "stat_rms": float(np.sqrt((values**2).mean())),
    }


def discretise(values: Floats, bins: int) -> NDArray[np.intp]:
    """Return levels 1..bins of equal width over the range of values (n,)."""
    low, width = float(values.min()), float(np.ptp(values))
    if width == 0:
        return np.ones(len(values), dtype=np.intp)
    levels = np.floor(bins * (values - low) / width).astype(np.intp) + 1
    return np.minimum(levels, bins)


def histogram(levels: NDArray[np.intp]) -> Features:
    """Return entropy (bits) and uniformity of levels (n,)."""
    shares = np.bincount(levels) / len(levels)
    return {"ih_entropy": entropy(shares), "ih_uniformity": float((shares**2).sum())}


def entropy(shares: Floats) -> float:
    """Return the entropy of shares in bits."""
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())
