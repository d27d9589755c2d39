"""Weights that a network starts from: the shipped trunk, a local file, or none.

The bytes that are hashed are the bytes that are loaded, and only tensors are.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from dicom_node.errors import ModelIntegrityError, SettingsError
from training.config import PROCEDURAL, RANDOM
from training.durable import write_whole
from training.pretrain import READOUT, Plan

Weights = Mapping[str, torch.Tensor]

SHIPPED: Final = Path(__file__).parent / "weights" / "procedural-resnet18.safetensors"
SHIPPED_SHA256: Final = (
    "a5fb9caa45a39e323ecdcb77e8c0ba650453dc0a8ba2cc21005201d8b77906d2"
)
HEAD: Final = "fc."


def initial_weights(init: str | Path, sha256: str | None = None) -> Weights:
    """Return the trunk to start from, float32, torchvision's names, without a head.

    Args:
        init: `procedural` for the shipped trunk, `none` for random weights (nothing is
            returned), or a ResNet18 as .safetensors or .pth, such as ImageNet's.
        sha256: Of a file of the user's, which is refused without it.

    Raises:
        SettingsError: The file cannot be read, or comes without its SHA-256.
        ModelIntegrityError: The bytes are not the expected ones, or hold no tensors.
    """
    if init == RANDOM:
        return {}
    if init == PROCEDURAL:
        tensors = _read(SHIPPED, SHIPPED_SHA256)
    elif sha256 is None:
        raise SettingsError(
            f"initial weights of a file need its SHA-256, so that the run can be "
            f"repeated: sha256sum {init}"
        )
    else:
        tensors = _read(Path(init), sha256)
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if not name.startswith((HEAD, READOUT))
    }


def encode(tensors: Weights, plan: Plan) -> bytes:
    """Encode a trunk as float16 safetensors that say how they were made."""
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    about = {"plan": plan.model_dump_json(), "torch": str(torch.__version__)}
    return save(halves, about)


def write(path: Path, tensors: Weights, plan: Plan) -> str:
    """Write a trunk whole or not at all, and return its SHA-256."""
    content = encode(tensors, plan)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, sha256: str) -> Weights:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256.lower():
        raise ModelIntegrityError(f"{path} has SHA-256 {digest}, not {sha256}")
    try:
        if path.suffix == ".safetensors":
            return load_tensors(content)
        loaded = torch.load(  # noqa: TID251 - of checked bytes, tensors only
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelIntegrityError(f"{path} holds no weights: {error}") from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(one, torch.Tensor) for one in loaded.values()
    ):
        raise ModelIntegrityError(f"{path} holds no state dict of tensors")
    return loaded
