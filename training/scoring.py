"""What a network says of many crops at once, as it is served."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.cascade import (
    Network,
    StageModel,
    class_activation,
    feature_map,
    logit_difference,
    pooled,
    score,
)
from worker.manifest import Calibration, Preprocessing
from worker.preprocess import centre, standardise

SCORE_BATCH: Final = 32
HEAT_CASES: Final = 128
HEAT_PERCENTILE: Final = 99


def _served_inputs(
    network: Network, crops: torch.Tensor, spec: Preprocessing
) -> Iterator[torch.Tensor]:
    device = network.conv1.weight.device
    for start in range(0, len(crops), SCORE_BATCH):
        part = crops[start : start + SCORE_BATCH]
        x = standardise(centre(part, spec), spec)  # (b, 3, 64, 64)
        yield x.to(device).contiguous(memory_format=torch.channels_last)


def score_logits(
    network: Network, crops: torch.Tensor, spec: Preprocessing
) -> NDArray[np.float64]:
    """Return the logit differences (n,) of crops (n, 70, 70), as they are served."""
    with torch.inference_mode():
        parts = [
            logit_difference(network(x)) for x in _served_inputs(network, crops, spec)
        ]
    logits: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return logits


def served_probabilities(
    model: StageModel, crops: torch.Tensor, tick: Callable[[], None] = lambda: None
) -> NDArray[np.float64]:
    """Return the probabilities (n,) of crops (n, 70, 70) through the served path.

    Raises:
        PermanentError: A score is not finite.
    """
    spec = model.manifest.preprocessing
    probabilities = []
    for crop in crops:
        x = standardise(centre(crop, spec), spec)  # (70, 70) -> (3, 64, 64)
        probabilities.append(score(model, x).probability)
        tick()
    return np.array(probabilities)


def pooled_features(
    network: Network, crops: torch.Tensor, spec: Preprocessing
) -> NDArray[np.float64]:
    """Return what the head sees (n, C) of crops (n, 70, 70), as they are served."""
    with torch.inference_mode():
        parts = [
            pooled(feature_map(network, x))
            for x in _served_inputs(network, crops, spec)
        ]
    features: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
    return features


def heat_range(
    network: Network, crops: torch.Tensor, spec: Preprocessing
) -> tuple[float, float]:
    """Return a symmetric scale: the 99th percentile of |CAM| over training crops."""
    with torch.inference_mode():
        maps = [
            class_activation(network, feature_map(network, x))[0]
            for x in _served_inputs(network, crops[:HEAT_CASES], spec)
        ]
    extent = float(np.percentile(torch.cat(maps).abs().cpu().numpy(), HEAT_PERCENTILE))
    bound = float(f"{max(extent, 1e-6):.3g}")  # people read it on the colour bar
    return -bound, bound


def calibrated(
    logits: NDArray[np.float64], calibration: Calibration
) -> NDArray[np.float64]:
    """Return the probabilities (n,) of logits (n,)."""
    return np.array([calibration.probability(logit) for logit in logits.tolist()])
