"""What the quality gate is told of the cases that a model learned from."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from worker.cascade import TypicalFeatures
from worker.manifest import FeatureGate, SizeRange
from worker.quality import distance

QUANTILE: Final = 0.999
Z_QUANTILE: Final = 3.090232306167813
"""Normal quantile of `QUANTILE`."""

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

    There are more features than cases tell apart, so the covariance is shrunk.
    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional
    covariance matrices, J Multivar Anal 2004.
    """
    covariance, _ = ledoit_wolf(features)
    variances, axes = np.linalg.eigh(covariance)
    scales = 1 / np.sqrt(np.maximum(variances, np.finfo(np.float32).eps))
    whitening = (axes * scales) @ axes.T
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
    logs = np.log(np.maximum(distances, np.finfo(np.float32).eps))
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
