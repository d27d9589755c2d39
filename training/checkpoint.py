"""Tensors and what is known of them in one file: safetensors, never a pickle.

A digest of all tensors in the header tells a torn file from a whole one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from training import curves
from training.durable import write_whole
from training.loop import Epoch, State, Tensors

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
WEIGHTS, MOMENTUM = "weights.", "momentum."
Facts = dict[str, Any]


def digest(tensors: Tensors) -> str:
    """Return the SHA-256 of the bytes of all tensors, by name."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode("ascii"))
        whole.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def write(
    path: Path, tensors: Tensors, facts: Mapping[str, Any], *, sync: bool = True
) -> None:
    """Write tensors and facts, whole or not at all; `sync` as in `write_whole`."""
    flat = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    header = {"facts": json.dumps(facts), "sha256": digest(flat)}
    write_whole(path, save(flat, header), sync=sync)


def read(path: Path) -> tuple[Tensors, Facts] | None:
    """Return what `write` wrote; None if there is none, or not a whole one."""
    try:
        with safe_open(path, "pt") as stored:
            header = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        facts = json.loads(header["facts"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (tensors, facts) if digest(tensors) == header.get("sha256") else None


def part(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose name has a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A journal in a folder: one checkpoint, replaced after each epoch."""

    folder: Path

    def load(self) -> State | None:
        """Return the state after the last finished epoch, None if there is none.

        A torn checkpoint is none: the run starts again, slower and never wrong.
        """
        found = read(self.folder / CHECKPOINT_NAME)
        if found is None:
            return None
        tensors, facts = found
        curve = tuple(Epoch(**row) for row in facts["curve"])
        return State(part(tensors, WEIGHTS), part(tensors, MOMENTUM), curve)

    def save(self, state: State) -> None:
        """Write the state after an epoch, and the curve beside it for people."""
        tensors = {WEIGHTS + name: one for name, one in state.weights.items()}
        tensors |= {MOMENTUM + name: one for name, one in state.momentum.items()}
        facts = {"curve": [asdict(epoch) for epoch in state.curve]}
        write(self.folder / CHECKPOINT_NAME, tensors, facts, sync=False)
        curves.write(self.folder / curves.CURVE_NAME, state.curve)

    def forget(self) -> None:
        """Remove the checkpoint of a finished run."""
        (self.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
