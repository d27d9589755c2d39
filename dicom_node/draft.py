"""A file under way: its bytes as they come, durable once it is whole, without a name.

What interrupts it leaves a file that nothing looks for, until the next sweep.
"""

import hashlib
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

Bytes = bytes | bytearray | memoryview


class Draft:
    """A file that is written once, in order; `sha256` is of what follows its head.

    Closing it takes its own name away. Names that it was linked to stay, so a file
    can be given one again for as long as its draft is open.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        """Create the file.

        Args:
            path: Where it lies while it is under way; its folder exists.
            head: What comes before the bytes that are digested.

        Raises:
            OSError: It cannot be written.
        """
        self.path = path
        self.content_at = len(head)
        self.size = 0
        self._digest = hashlib.sha256()
        self._status: os.stat_result | None = None
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            self._append(head)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def content_size(self) -> int:
        """How many bytes follow the head so far."""
        return self.size - self.content_at

    @property
    def sha256(self) -> str:
        """The digest of what was written so far."""
        return self._digest.hexdigest()

    def write(self, part: Bytes) -> None:
        """Append bytes.

        Raises:
            OSError: The volume cannot take them; what was written is of no use.
        """
        self._append(part)
        self._digest.update(part)

    def sync(self) -> os.stat_result:
        """Put the bytes on the disk, once; return the status of the whole file.

        Raises:
            OSError: The volume fails.
        """
        if self._status is None:
            os.fsync(self._handle)
            self._status = os.fstat(self._handle)
        return self._status

    def close(self) -> None:
        """Take away the name under which it was written; idempotent."""
        if self._handle < 0:
            return
        os.close(self._handle)
        self._handle = -1
        with suppress(OSError):
            self.path.unlink()

    def _append(self, part: Bytes) -> None:
        view = memoryview(part)
        while view:
            written = os.write(self._handle, view)
            self.size += written
            view = view[written:]


def changed_at(status: os.stat_result) -> datetime:
    """Return the modification time in whole microseconds, as databases keep it."""
    microseconds = status.st_mtime_ns // 1000
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
