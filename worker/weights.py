"""Loading a stage from disk: safetensors only, never a pickle."""

import hashlib
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from dicom_node.errors import ModelIntegrityError, SettingsError
from worker import manifest as manifests
from worker.cascade import StageModel, TypicalFeatures, build_network
from worker.manifest import Manifest

FEATURE_MEAN: Final = "quality.mean"
WHITENING: Final = "quality.whitening"
"""Tensors among the weights that belong to the quality gate, not to the network."""


def load_stage(folder: Path, device: torch.device) -> StageModel:
    """Load the model in a folder, ready to score on a device.

    The bytes that are hashed are the bytes that are loaded.

    Raises:
        SettingsError: A file is missing, or the manifest is not one.
        ModelIntegrityError: The weights are not those of the manifest, or do not
            fit its architecture. The worker must stop.
    """
    manifest = manifests.read(folder)
    path = folder / manifests.WEIGHTS_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.weights_sha256:
        raise ModelIntegrityError(
            f"{path} has SHA-256 {digest}, its manifest says {manifest.weights_sha256}"
        )
    with torch.device("meta"):  # no random initialisation: every weight is loaded
        network = build_network(manifest.architecture)
    try:
        tensors = load_tensors(content)
        typical = _typical(tensors, manifest)
        network.load_state_dict(tensors, strict=True, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelIntegrityError(
            f"{path} does not fit {manifest.architecture.name}: {error}"
        ) from error
    network.requires_grad_(requires_grad=False).eval()
    network.to(device=device, dtype=torch.float32, memory_format=torch.channels_last)
    return StageModel(network, manifest, device, typical)


def _typical(
    tensors: dict[str, torch.Tensor], manifest: Manifest
) -> TypicalFeatures | None:
    """Take the statistics of the features out of the weights, where there are any.

    Raises:
        ModelIntegrityError: The manifest wants them, and they are not there.
    """
    mean, whitening = tensors.pop(FEATURE_MEAN, None), tensors.pop(WHITENING, None)
    if mean is not None and whitening is not None:
        return TypicalFeatures(mean.double().numpy(), whitening.double().numpy())
    gate = manifest.quality.features if manifest.quality else None
    if gate is not None and gate.enabled:
        raise ModelIntegrityError(
            f"{manifest.reference} has a feature gate and no statistics of features"
        )
    return None
