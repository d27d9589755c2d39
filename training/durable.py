"""Files and folders that are whole or not there, whenever the process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file by one rename; one process at a time may write it.

    Args:
        path: In an existing folder.
        content: All of it.
        sync: Whether to outlive a loss of power too. A checkpoint need not: its
            digest tells a torn one, and syncing 90 MB each epoch costs more than it
            saves.
    """
    part = path.with_name(f".{path.name}.part")  # what a kill left is overwritten
    with part.open("wb") as stream:
        stream.write(content)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())
    part.replace(path)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into; it takes its name when all is written.

    There may be an empty folder of that name already. One process at a time.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.part")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    draft.mkdir()
    try:
        yield draft
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
