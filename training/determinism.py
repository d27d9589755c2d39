"""Running torch so that the same numbers give the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def determinism(threads: int) -> Iterator[None]:
    """Use deterministic algorithms and a fixed number of threads for a while."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
