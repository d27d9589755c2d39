"""Where a number is computed: what must be equal for equal bits.

The probability of a live study is that of a forward pass over one crop alone, batch 1,
so it does not depend on a case's neighbours. On a CPU one thread computes it. The bits
then follow from the crop, the weights, torch's version and the kind of CPU. Bulk work
shares passes, where the number of crops and their neighbours may move the last bits:
the recorded batch says so.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Final, TypedDict

import torch

from dicom_node import __version__

CPU_THREADS: Final = 1
CPUINFO: Final = Path("/proc/cpuinfo")


class Computation(TypedDict):
    """What computed a number, under the names that a StageFinding has for it."""

    torch_version: str
    cpu: str
    threads: int
    batch: str
    code_version: str


def settle(device: torch.device) -> None:
    """Make this process compute on a device as every other one does.

    Processes scale, OpenMP threads thrash, and another number of threads gives other
    bits. TF32 would take the results of a GPU further from those of a CPU than any
    replay tolerates.
    """
    if device.type == "cpu":
        torch.set_num_threads(CPU_THREADS)
    else:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def describe(x: torch.Tensor, batch: int) -> Computation:
    """Say what computes the score of an input (3, size, size) in this process.

    Args:
        x: The input.
        batch: How many of them the forward pass held.
    """
    return Computation(
        torch_version=torch.__version__,
        cpu=cpu_kind(),
        threads=torch.get_num_threads(),
        batch="x".join(str(size) for size in (batch, *x.shape)),
        code_version=__version__,
    )


@cache
def cpu_kind() -> str:
    """Name the kind of CPU, not the host: architecture, instructions used, model.

    Kernels are chosen by the instructions, their blocks by the caches of the model.
    """
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {instructions} {_model()}"


def _model() -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(named, "") or platform.processor() or "of an unknown model"
