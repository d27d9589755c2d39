"""The devices of a run: one process, or several that share every batch.

`torchrun --nproc-per-node N -m training train ...` starts N processes; rank and
world come from its environment. Each takes an equal share of the same batch, so the
batch, the order of the cases and their variation are those of one process; batch
normalisation uses the statistics of a share.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dicom_node.errors import SettingsError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Team:
    """This process among `world`; rank 0 alone writes."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws bars."""
        return self.rank == 0

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a batch, along the first dimension."""
        size = len(rows) // self.world
        return rows[self.rank * size : (self.rank + 1) * size]

    def wrap(self, network: nn.Module) -> nn.Module:
        """Let gradients be averaged over all processes."""
        if self.world == 1:
            return network
        places = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            network, device_ids=places, forward_sync_buffers=False
        )

    def agree(self, network: nn.Module) -> None:
        """Average the running statistics of the batch norms over all processes."""
        if self.world == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer.div_(self.world)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values (n,) of all processes, (world * n,), by rank."""
        if self.world == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.world)]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.world > 1:
            distributed.barrier()


def choose(name: str, index: int | None = None) -> torch.device:
    """Return the device that a person named; `auto` is a GPU where there is one.

    Raises:
        SettingsError: There is no such device.
    """
    if name not in DEVICES:
        raise SettingsError(f"--device {name}: use {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: this machine has no usable CUDA device")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", index or 0)


@contextmanager
def assemble(name: str) -> Iterator[Team]:
    """Join the processes that torchrun started, or work alone.

    Raises:
        SettingsError: There is no such device.
    """
    if not distributed.is_torchelastic_launched():
        yield Team(choose(name))
        return
    device = choose(name, distributed.get_node_local_rank(0))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
