"""A bound on what a decoder may allocate, whatever its input claims."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

STATM: Final = Path("/proc/self/statm")


@contextmanager
def bounded(extra: int) -> Iterator[None]:
    """Let this process's address space grow by at most so many bytes for a while.

    What asks for more gets a MemoryError, or its library's own. Where the kernel
    does not say how much there is (other systems than Linux), nothing is bounded.

    Args:
        extra: Bytes beyond what the process has now.
    """
    if not STATM.exists():
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(STATM.read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + extra
    finite = [one for one in (limit, before, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(finite), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
