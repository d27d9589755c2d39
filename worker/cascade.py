"""The cascade: two ResNet18 networks, the SLND gate and the decision rule.

Stage I predicts metastasis of the sentinel lymph node (SLN); low risk ends there.
High risk waits for the sentinel node dissection (SLND); a positive result opens
stage II, which predicts metastasis of the non-sentinel nodes (NSLN).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from dicom_node.errors import PermanentError
from dicom_node.findings import (
    Pathway,
    Risk,
    Slnd,
    StageFinding,
    StageStatus,
    StageTwo,
)
from worker.manifest import Architecture, Manifest

NEGATIVE, POSITIVE = 0, 1  # classes of the head
BLOCKS = (2, 2, 2, 2)  # ResNet18
WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512}  # channels of each layer
LAST_LAYER = (4,)


class Network(ResNet):  # type: ignore[misc]  # torchvision has no types
    """A ResNet18 with torchvision's names whose head may read several layers.

    The head is linear on the global averages of `head_layers`, side by side.
    """

    def __init__(self, head_layers: tuple[int, ...]) -> None:
        super().__init__(BasicBlock, list(BLOCKS), num_classes=2)
        self.head_layers = head_layers
        if head_layers != LAST_LAYER:
            width = sum(WIDTHS[layer] for layer in head_layers)
            self.fc = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 2) of inputs (B, 3, 64, 64)."""
        maps = layer_maps(self, x, self.head_layers)
        averages = [torch.flatten(self.avgpool(one), 1) for one in maps]
        logits: torch.Tensor = self.fc(torch.cat(averages, dim=1))
        return logits


@dataclass(frozen=True, slots=True)
class TypicalFeatures:
    """Mean (C,) and whitening (C, C) of the features of the training crops."""

    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageModel:
    """A network with its weights loaded, in eval mode on `device`.

    `typical` is None where the model does not say what it learned from.
    """

    network: Network
    manifest: Manifest
    device: torch.device
    typical: TypicalFeatures | None = None


@dataclass(frozen=True, slots=True)
class StageScore:
    """What one network says of one crop.

    `probability` is calibrated. `logit` is the uncalibrated difference, positive
    minus negative. `cam` is the (map, map) float32 class activation map of that
    logit: mean(cam) + bias == logit. `features` (C,) are what the head sees: the
    global averages of the layers that it reads. `batch` is how many crops the forward
    pass held, `share_ms` this one's part of its time.
    """

    probability: float
    logit: float
    cam: NDArray[np.float32]
    bias: float
    features: NDArray[np.float64]
    batch: int
    share_ms: float


def build_network(architecture: Architecture) -> Network:
    """Build a ResNet18 with two classes and torchvision's names of weights.

    Strides that the architecture removes become dilation of every convolution
    behind them ("à trous"): at the positions that a stock ResNet18 would keep, the
    map has the same values. torchvision itself refuses dilation for its BasicBlock.
    """
    network = Network(architecture.head_layers)
    reshape(network, architecture)
    return network


def reshape(network: ResNet, architecture: Architecture) -> None:
    """Give a network other strides and dilations, in place; its weights stay."""
    layers = (network.layer1, network.layer2, network.layer3, network.layer4)
    before = 1
    for layer, stride, dilation in zip(
        layers, architecture.strides, architecture.dilations, strict=True
    ):
        for block in layer:
            _dilate(block.conv1, before)
            _dilate(block.conv2, dilation)
            before = dilation
        first = layer[0]
        first.conv1.stride = (stride, stride)
        if first.downsample is not None:
            first.downsample[0].stride = (stride, stride)


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation, dilation)  # keeps the size of a 3x3 convolution


def layer_maps(
    network: ResNet, x: torch.Tensor, layers: tuple[int, ...]
) -> list[torch.Tensor]:
    """Return the feature maps (B, C, h, w) of these layers, 1 to 4, ascending."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))  # (B, 64, 16, 16)
    maps = []
    stack = (network.layer1, network.layer2, network.layer3, network.layer4)
    for number, layer in enumerate(stack, start=1):
        x = layer(x)
        if number in layers:
            maps.append(x)
    return maps


def feature_map(network: Network, x: torch.Tensor) -> torch.Tensor:
    """Return what the head averages, (B, C, map, map), of inputs (B, 3, 64, 64).

    C is 512 for a head on layer4, 896 for one on layer2 to layer4.
    """
    return torch.cat(layer_maps(network, x, network.head_layers), dim=1)


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Return the global average (B, C), float64, of maps (B, C, map, map)."""
    return features.double().mean(dim=(2, 3))


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    """Return positive minus negative, (B,), of logits (B, 2)."""
    return logits[:, POSITIVE] - logits[:, NEGATIVE]


def class_activation(
    network: Network, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the class activation maps (B, map, map) and the bias, both float64.

    With global average pooling and a linear head, the logit difference *is* the
    mean of this map plus the bias, so the map needs no backward pass. A head on
    several layers sums one such map of each.
    Source: Zhou et al., Learning Deep Features for Discriminative Localization,
    CVPR 2016, equation 2.
    """
    weight = network.fc.weight.double()  # (2, C)
    bias = network.fc.bias.double()
    direction = weight[POSITIVE] - weight[NEGATIVE]
    cam = torch.einsum("c,bchw->bhw", direction, features.double())
    return cam, bias[POSITIVE] - bias[NEGATIVE]


def score(model: StageModel, x: torch.Tensor) -> StageScore:
    """Score one crop in a forward pass of its own.

    Args:
        model: A loaded stage.
        x: (3, 64, 64) float32 from `worker.preprocess.to_input`.

    Returns:
        The score; the same crop gives the same bits on the same device.

    Raises:
        PermanentError: The score is not finite: no result is better than a default.
    """
    (scored,) = score_batch(model, [x])
    if isinstance(scored, PermanentError):
        raise scored
    return scored


def score_batch(
    model: StageModel, xs: Sequence[torch.Tensor]
) -> list[StageScore | PermanentError]:
    """Score crops in one pass: the network in float32, its linear head in float64.

    Args:
        model: A loaded stage.
        xs: One or more inputs as `score` takes them.

    Returns:
        The score of each, or why it has none. In company the last bits of a score may
        differ from those that the crop gets alone.
    """
    started = time.perf_counter()
    batch = _moved(torch.stack(list(xs)), model.device)  # (B, 3, 64, 64)
    with torch.inference_mode():
        features = feature_map(model.network, batch)
        cam, bias = class_activation(model.network, features)
        parts = (cam.flatten(1), pooled(features), bias.expand(len(xs), 1))
        rows = torch.cat(parts, dim=1).cpu()  # the one wait for a GPU
    share_ms = (time.perf_counter() - started) * 1000 / len(xs)
    sizes = [part.shape[1] for part in parts]
    return [_said(model, row.split(sizes), (len(xs), share_ms)) for row in rows]


def _moved(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring inputs to a device, channels last: twice as fast on a CPU."""
    batch = batch.contiguous(memory_format=torch.channels_last)
    if device.type == "cuda":  # only out of pinned memory is a copy not waited for
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


def _said(
    model: StageModel, parts: Sequence[torch.Tensor], effort: tuple[int, float]
) -> StageScore | PermanentError:
    """Read what a pass says of one crop: map, averages and bias, flat, in float64."""
    cam, features, bias = parts
    logit = cam.mean() + bias  # (1,)
    if not bool(torch.isfinite(cam).all() and torch.isfinite(logit)):
        return PermanentError(
            f"{model.manifest.reference} gives no finite score on {model.device}; "
            "its weights or its device are faulty"
        )
    side = math.isqrt(len(cam))
    batch, share_ms = effort
    return StageScore(
        probability=model.manifest.calibration.probability(float(logit)),
        logit=float(logit),
        cam=cam.float().reshape(side, side).numpy(),
        bias=float(bias),
        features=features.numpy().copy(),  # a view would keep the whole batch
        batch=batch,
        share_ms=share_ms,
    )


def risk_of(probability: float, threshold: float) -> Risk:
    """Decide: high means probability >= threshold, both unrounded."""
    return Risk.HIGH if probability >= threshold else Risk.LOW


def stage_two_status(
    sln: Risk, slnd: Slnd | None, policy: StageTwo = StageTwo.ON_SLND
) -> StageStatus:
    """Say whether stage II runs (`DONE`, `CONDITIONAL`), or why it does not.

    Pathology outranks the prediction: a positive dissection opens stage II on a
    low-risk case too, and a negative one closes every case. A site may have stage II
    run before the dissection; what it says then holds only if that is positive.
    """
    if slnd is Slnd.POSITIVE:
        return StageStatus.DONE
    if slnd is Slnd.NEGATIVE:
        return StageStatus.EXCLUDED
    if sln is Risk.LOW:
        return StageStatus.NOT_INDICATED
    conditional = policy is StageTwo.CONDITIONAL
    return StageStatus.CONDITIONAL if conditional else StageStatus.PENDING


def standing(nsln: StageFinding, status: StageStatus) -> StageFinding:
    """Return what stage II said under another status; the numbers stay.

    A conditional number names no risk group: none may stand before the dissection.

    Raises:
        PermanentError: The stage has no numbers.
    """
    if nsln.probability is None or nsln.threshold is None:
        raise PermanentError("stage II is recorded without its numbers")
    done = status is StageStatus.DONE
    risk = risk_of(nsln.probability, nsln.threshold) if done else None
    return replace(nsln, status=status, risk=risk)


def pathway(sln: Risk, slnd: Slnd | None, nsln: Risk | None) -> Pathway:
    """Return where a case stands; a withdrawn SLND result counts as none.

    Args:
        sln: Risk of stage I.
        slnd: Result of the dissection, if there is one.
        nsln: Risk of stage II; looked at only when the dissection was positive.

    Raises:
        ValueError: The dissection was positive and stage II has not run.
    """
    status = stage_two_status(sln, slnd)
    if status is StageStatus.DONE:
        if nsln is None:
            raise ValueError("a positive SLND needs the risk of stage II")
        return Pathway.NSLN_HIGH_RISK if nsln is Risk.HIGH else Pathway.NSLN_LOW_RISK
    return {
        StageStatus.EXCLUDED: Pathway.SLN_NEGATIVE,
        StageStatus.PENDING: Pathway.AWAITING_SLND,
        StageStatus.NOT_INDICATED: Pathway.SLN_LOW_RISK,
    }[status]


def is_discordant(sln: Risk, slnd: Slnd | None) -> bool:
    """Say whether the dissection found a metastasis that stage I called low risk."""
    return sln is Risk.LOW and slnd is Slnd.POSITIVE
