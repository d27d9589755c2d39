"""Keep log files of running processes small: copy what is there, then empty it.

The processes append to their file and know nothing of it. What they write between the
copy and the emptying, a line at most, is lost.
"""

import shutil
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 20 * 2**20
KEPT: Final = 5


def rotate(path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> bool:
    """Move what a log file holds to PATH.1 when it is large, older ones to PATH.2 ...

    Raises:
        OSError: The volume is full, or the folder cannot be written.
    """
    if not path.is_file() or path.stat().st_size <= max_bytes:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    with path.open("r+b") as stream:
        stream.truncate(0)
    return True
