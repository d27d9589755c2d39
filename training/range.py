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
        "like a real breast, and would hold real studies (6 of 13 lesions tried)"
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


def distances(
    typical: TypicalFeatures, features: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far features (n, C) are from typical ones, (n,); 1 is typical."""
    return np.array(
        [distance(one, typical.mean, typical.whitening) for one in features]
    )


def limit_features(
    far: NDArray[np.float64], cases: str = "calibration cases"
) -> FeatureGate:
    """Return the gate for the distances (n,) of cases that shaped nothing.

    The limit is the 99.9% quantile by a log-normal fit, which a few dozen cases can
    tell, and never below the farthest of them. `cases` says in words which they are.
    """
    logs = np.log(np.maximum(far, EPSILON))
    fitted = float(np.exp(logs.mean() + Z_QUANTILE * logs.std(ddof=1)))
    return FeatureGate(
        enabled=True,
        reason=(
            f"{QUANTILE:.1%} of {len(far)} {cases} by a log-normal fit; median "
            f"{np.median(far):.2f}, farthest {far.max():.2f}"
        ),
        limit=round(max(fitted, float(far.max())), 4),
        n=len(far),
    )
