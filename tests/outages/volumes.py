"""A small volume that really runs full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_volume(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system in memory; skip, with the reason, where nobody may."""
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    done = subprocess.run(
        ["mount", *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Ballast:
    """A file that takes what is left of a volume, but so much."""

    def __init__(self, volume: Path):
        self._file = volume / "ballast"

    def fill(self, spare: int = 0) -> None:
        block = b"\0" * 4096
        with self._file.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(block)
            except OSError:
                size = file.tell()
                file.truncate(max(0, size - spare))

    def drop(self) -> None:
        self._file.unlink()
