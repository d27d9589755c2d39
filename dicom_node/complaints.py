"""What a C library says on standard error while it carries on regardless.

libjpeg fills the rest of a damaged image with what it has and prints one line; the
caller is told nothing. Here the caller is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dicom_node.errors import UnreadableObjectError

STDERR: Final = 2
DAMAGE: Final = b"Corrupt JPEG data"


@contextmanager
def heeded() -> Iterator[None]:
    """Turn a decoder's complaint about damaged data into an error.

    Standard error belongs to the process: use this in one thread at a time. What
    others print meanwhile is printed afterwards.

    Raises:
        UnreadableObjectError: The decoder worked around damage.
    """
    try:
        before = os.dup(STDERR)
    except OSError:  # a daemon may have closed it; then nothing can be heard
        yield
        return
    with open(os.memfd_create("decoder"), "r+b", buffering=0) as said:  # noqa: PTH123 - no path
        os.dup2(said.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(before, STDERR)
            os.close(before)
            said.seek(0)
            lines = said.read().splitlines(keepends=True)
            os.write(STDERR, b"".join(one for one in lines if DAMAGE not in one))
    if any(DAMAGE in line for line in lines):
        raise UnreadableObjectError("the compressed pixels are damaged or cut off")
