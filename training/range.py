"""What the quality gate is told of the cases that a model learned from."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.cascade import TypicalFeatures
from worker.manifest import FeatureGate, SizeRange
from worker.quality import distance

QUANTILE: Final = 0.999
Z_QUANTILE: Final = 3.090232306167813
"""Normal quantile of `QUANTILE`."""

EPSILON: Final = float(np.finfo(np.float32).eps)
DIRECTIONS: Final = 16

FEATURES_OFF: Final = FeatureGate(
    enabled=False,
    reason=(
        "the preset does not measure them: what learned from phantoms has seen nothing "
        "like a real breast, and would hold every real study"
    ),
)


def learn_sides(sides: torch.Tensor | None, tolerance: float) -> SizeRange | None:
    """Return the range of the rectangles' sides (n, 2) in mm, None if not known."""
    if sides is None:
        return None
    return SizeRange(
        shortest=round(float(sides.min()), 2),
        longest=round(float(sides.max()), 2),
        tolerance=tolerance,
    )


def learn_features(features: NDArray[np.float64]) -> TypicalFeatures:
    """Return mean and whitening of features (n, 512) of training crops.

    Features are brought to one scale first; a few directions carry what cases differ
    in, and the rest get the mean of their variances: probabilistic PCA.
    Source: Tipping and Bishop, Probabilistic principal component analysis, JRSS B 1999.
    """
    spread = features.std(axis=0)
    scale = 1 / np.maximum(spread, np.median(spread) + EPSILON)
    variances, axes = np.linalg.eigh(np.cov((features * scale).T))
    rest = max(float(variances[:-DIRECTIONS].mean()), EPSILON)
    whitening = (axes / np.sqrt(np.maximum(variances, rest))) @ axes.T * scale
    return TypicalFeatures(  # rounded as they are stored
        features.mean(axis=0).astype(np.float32).astype(np.float64),
        whitening.astype(np.float32).astype(np.float64),
    )


def limit_features(
    typical: TypicalFeatures, features: NDArray[np.float64]
) -> FeatureGate:
    """Return the gate for features (n, 512) of cases that did not shape `typical`.

    The limit is the 99.9% quantile by a log-normal fit, which a few dozen cases can
    tell, and never below the farthest of them.
    """
    distances = np.array(
        [distance(one, typical.mean, typical.whitening) for one in features]
    )
    logs = np.log(np.maximum(distances, EPSILON))
    fitted = float(np.exp(logs.mean() + Z_QUANTILE * logs.std(ddof=1)))
    limit = max(fitted, float(distances.max()))
    return FeatureGate(
        enabled=True,
        reason=(
            f"{QUANTILE:.1%} of {len(distances)} calibration cases by a log-normal "
            f"fit; median {np.median(distances):.2f}, farthest {distances.max():.2f}"
        ),
        limit=round(limit, 4),
        n=len(distances),
    )
