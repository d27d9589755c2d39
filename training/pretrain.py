"""Pre-training of the ResNet18 trunk: reading the descriptors of drawn blobs.

Pictures and order of a step are a pure function of seed and step, so that a run that
was killed goes on from its last checkpoint to the very same weights.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from dicom_node.errors import SettingsError
from training.config import DILATED, STOCK
from training.determinism import determinism
from training.durable import write_whole
from training.procedural import DESCRIPTORS, draw
from worker.cascade import build_network, layer_maps, reshape
from worker.manifest import Architecture, Preprocessing
from worker.preprocess import centre, standardise

LAYERS: Final = (2, 3, 4)
"""Whose global averages are read, as the head of a model reads them."""

WIDTH: Final = 128 + 256 + 512
SPEC: Final = Preprocessing(mean=0.33, sd=0.24)
READOUT: Final = "readout."
OPTIMIZER: Final = "optimizer."
EXTENT: Final = 3**-0.5  # SD of a descriptor, uniform in [-1, 1]


class Plan(BaseModel):
    """Every number of a pre-training; the same plan and libraries give the same bits.

    The learning rate follows a cosine over `horizon` steps until the last `cool_down`
    steps bring it to 0; the last `dilated` steps see the network in its served shape,
    the others have stock strides, at a third of the cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=2200, ge=2)
    horizon: int = Field(default=7000, ge=2)
    cool_down: int = Field(default=450, ge=1)
    dilated: int = Field(default=60, ge=0)
    batch: int = Field(default=32, ge=4, multiple_of=4)
    rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warm_up: int = Field(default=200, ge=1)
    autocast: bool = True
    seed: int = Field(default=1, ge=0)
    threads: int = Field(default=1, ge=1)

    def architecture(self, step: int) -> Architecture:
        """Return the network's shape at a step."""
        return DILATED if step >= self.steps - self.dilated else STOCK

    def factor(self, step: int) -> float:
        """Return the learning rate's part at a step."""
        left = min((self.steps - step) / self.cool_down, 1.0)
        if step < self.warm_up:
            return left * (step + 1) / self.warm_up
        done = min((step - self.warm_up) / (self.horizon - self.warm_up), 1.0)
        return left * 0.5 * (1 + float(np.cos(np.pi * done)))


@dataclass(frozen=True, slots=True)
class Told:
    """What a step tells: its number from 1 and the share of variance not explained."""

    step: int
    loss: float


class _Reader(nn.Module):
    """A trunk and a linear reading of its averages, (B, 896) -> (B, 18)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = build_network(STOCK)
        self.readout = nn.Linear(WIDTH, len(DESCRIPTORS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = layer_maps(self.trunk, x, LAYERS)
        averages = torch.cat([one.float().mean((2, 3)) for one in maps], dim=1)
        read: torch.Tensor = self.readout(averages)
        return read


def pretrain(
    plan: Plan,
    checkpoint: Path,
    report: Callable[[Told], None],
    every: int = 250,
    until: int | None = None,
) -> dict[str, torch.Tensor]:
    """Pre-train, from the checkpoint if it is there, and return the trunk's tensors.

    Args:
        plan: Every number of the run.
        checkpoint: Written every so many steps, whole or not at all.
        report: Called after each step.
        every: Steps between checkpoints.
        until: Stop after this step, as a kill would.

    Raises:
        SettingsError: The checkpoint belongs to another plan or is damaged.
    """
    with determinism(plan.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        reader = _Reader()
        optimizer = _optimizer(reader, plan)
        start = _resume(checkpoint, plan, reader, optimizer)
        stop = plan.steps if until is None else min(until, plan.steps)
        for step in range(start, stop):
            reshape(reader.trunk, plan.architecture(step))
            loss = _step(reader, optimizer, plan, step)
            report(Told(step + 1, loss))
            if (step + 1) % every == 0 and step + 1 < plan.steps:
                _save(checkpoint, plan, step + 1, (reader, optimizer))
        return trunk_of(reader)


def _optimizer(reader: _Reader, plan: Plan) -> torch.optim.AdamW:
    reader.trunk.fc.requires_grad_(requires_grad=False)
    learned = [p for p in reader.parameters() if p.requires_grad]
    kernels = [p for p in learned if p.dim() > 1]
    others = [p for p in learned if p.dim() <= 1]
    groups: list[dict[str, object]] = [
        {"params": kernels, "weight_decay": plan.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.rate)


def _step(
    reader: _Reader, optimizer: torch.optim.AdamW, plan: Plan, step: int
) -> float:
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    pictures = draw(plan.batch, SPEC, generator)
    x = standardise(centre(pictures.crops, SPEC), SPEC)
    x = x.contiguous(memory_format=torch.channels_last)
    reader.to(memory_format=torch.channels_last).train()
    for group in optimizer.param_groups:
        group["lr"] = plan.rate * plan.factor(step)
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.autocast):
        read = reader(x)
    loss = functional.mse_loss(read.float(), pictures.descriptors / EXTENT)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
    return float(loss.detach())


def trunk_of(reader: _Reader) -> dict[str, torch.Tensor]:
    """Return the trunk under torchvision's names, without its head, and the readout."""
    tensors = {
        name: tensor
        for name, tensor in reader.trunk.state_dict().items()
        if not name.startswith("fc.")
    }
    for name, tensor in reader.readout.state_dict().items():
        tensors[READOUT + name] = tensor
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _save(
    path: Path, plan: Plan, step: int, state: tuple[_Reader, torch.optim.AdamW]
) -> None:
    reader, optimizer = state
    tensors = trunk_of(reader)
    for index, moments in optimizer.state_dict()["state"].items():
        for name, tensor in moments.items():
            tensors[f"{OPTIMIZER}{index}.{name}"] = tensor.contiguous()
    about = {"plan": plan.model_dump_json(), "step": str(step)}
    write_whole(path, save(tensors, about))


def _resume(
    path: Path, plan: Plan, reader: _Reader, optimizer: torch.optim.AdamW
) -> int:
    """Load a checkpoint where there is one, and return the step to go on with."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as stored:
            about: Mapping[str, str] = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise SettingsError(f"{path} is not a checkpoint: remove it") from error
    if json.loads(about.get("plan", "{}")) != plan.model_dump(mode="json"):
        raise SettingsError(f"{path} belongs to another run: remove it or change --out")
    _load(reader, optimizer, tensors)
    return int(about["step"])


def _load(
    reader: _Reader, optimizer: torch.optim.AdamW, tensors: dict[str, torch.Tensor]
) -> None:
    moments: dict[int, dict[str, torch.Tensor]] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            index, key = name.removeprefix(OPTIMIZER).split(".")
            moments.setdefault(int(index), {})[key] = tensor
        elif name.startswith(READOUT):
            weights[name] = tensor
        else:
            weights[f"trunk.{name}"] = tensor
    reader.load_state_dict(weights, strict=False)  # the unused fc is not stored
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": moments})
