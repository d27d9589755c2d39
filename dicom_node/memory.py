"""A bound on what a parser or decoder may allocate, whatever its input claims."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

STATM: Final = Path("/proc/self/statm")

_lock: Final = threading.Lock()
_bounds: Final[list[int]] = []
"""What is in force, in every thread: the limit belongs to the process. The first is
the limit that the process had before."""


@contextmanager
def bounded(extra: int) -> Iterator[None]:
    """Let this process's address space grow by at most so many bytes for a while.

    What asks for more gets a MemoryError, or its library's own. Where the kernel
    does not say how much there is (other systems than Linux), nothing is bounded.
    The smallest of the bounds that are in force counts, also those of other threads;
    the last one to end takes the limit away.

    Args:
        extra: Bytes beyond what the process has now.
    """
    if not STATM.exists():
        yield
        return
    pages = int(STATM.read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + extra
    with _lock:
        if not _bounds:
            _bounds.append(resource.getrlimit(resource.RLIMIT_AS)[0])
        _bounds.append(limit)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _bounds.remove(limit)
            _apply()
            if len(_bounds) == 1:
                _bounds.clear()


def _apply() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    finite = [one for one in (*_bounds, hard) if one != resource.RLIM_INFINITY]
    soft = min(finite, default=resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
