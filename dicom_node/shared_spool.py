"""A spool in an object store: many hosts, one set of files, a bounded cache on each.

What a listener answers Success for is in the store, and its row in the database, so
that any host may be lost with its disk. What is read is brought to the local folder
first, compared with its digest, and goes again when it was not used for a day or the
cache is full: until then a purge of another host leaves a copy.
"""

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Final

from dicom_node.bucket import Address, Bucket
from dicom_node.errors import UnreadableObjectError
from dicom_node.settings import NodeSettings
from dicom_node.spool import (
    INSTANCES,
    PARTIAL_SUFFIX,
    Encoded,
    Outcome,
    Spool,
    SpooledFile,
    as_file,
    digest_of,
    document_path,
    instance_path,
    quarantine_path,
    spool_errors,
    study_folders,
)
from dicom_node.study import StudyUid

IDLE: Final = timedelta(days=1)
IN_USE: Final = timedelta(minutes=15)
"""A file that was asked for within this time may be open: it is never removed."""

TRIM_EVERY_S: Final = 300.0


class SharedSpool(Spool):
    """The files of a bucket; `root` is the cache of this host."""

    is_shared = True

    def __init__(self, root: Path, bucket: Bucket, cache_bytes: int) -> None:
        super().__init__(root)
        self._bucket = bucket
        self._cache_bytes = cache_bytes
        self._trimmed_at = 0.0

    def fetch(self, relative: Path, sha256: str | None = None) -> Path:
        """Return the absolute path of a file, brought here if it was not.

        With the digest of its data set, a copy that differs is brought anew, once.
        """
        target = self.absolute(relative)
        try:
            os.utime(target, ns=(time.time_ns(), target.stat().st_mtime_ns))
        except FileNotFoundError:
            self._bring(relative, target)
        if sha256 is not None and super().describe(relative).sha256 != sha256:
            self._bring(relative, target)
            if super().describe(relative).sha256 != sha256:
                raise UnreadableObjectError("a file of the spool has changed")
        return target

    @contextmanager
    def open(self, path: Path) -> Iterator[BufferedReader]:
        """Open a file, brought here if it was not."""
        self.fetch(path)
        with super().open(path) as file:
            yield file

    def write_instance(self, instance: Encoded) -> SpooledFile:
        """Make an instance durable in the store; the first one of its UID stays."""
        path = instance_path(instance.study_uid, instance.sop_instance_uid)
        content = as_file(instance)
        if self._bucket.put_new(path, content):
            digest = digest_of(instance)
            return SpooledFile(path, len(content), digest, _now())
        kept = self.describe(path)
        same = kept.sha256 == digest_of(instance)
        outcome = Outcome.SAME if same else Outcome.DIFFERS
        return SpooledFile(
            path, kept.size, kept.sha256, kept.received_at, outcome=outcome
        )

    def quarantine(self, instance: Encoded) -> SpooledFile:
        """Make an object durable that may not take its UID's name; idempotent."""
        digest, content = digest_of(instance), as_file(instance)
        path = quarantine_path(instance.study_uid, instance.sop_instance_uid, digest)
        self._bucket.put_new(path, content)
        return SpooledFile(path, len(content), digest, _now())

    def write_document(self, sha256: str, content: bytes) -> Path:
        """Make an encoded document durable under the digest of its bytes."""
        path = document_path(sha256, content)
        self._bucket.put_new(path, content)
        return path

    def place(self, path: Path, content: bytes | Path) -> None:
        """Make a file durable under a name that says what it holds. Idempotent."""
        if content == path:  # no store copies an object to itself
            content = self.fetch(path).read_bytes()
        try:
            if isinstance(content, Path):
                self._bucket.copy(content, path)
            else:
                self._bucket.put(path, content)
        except FileNotFoundError as error:
            raise UnreadableObjectError("a file of the spool is missing") from error

    def remove(self, paths: Iterable[Path]) -> int:
        """Remove files from the store and from here; return how many there were."""
        wanted = list(paths)
        removed = sum(self._bucket.remove(path) for path in wanted)
        for path in wanted:
            with suppress(FileNotFoundError):
                self.absolute(path).unlink()
        return removed

    def written_at(self, path: Path) -> datetime | None:
        """Return when a file was stored, None when it is not there."""
        return self._bucket.changed_at(path)

    def verify(self, relative: Path, sha256: str) -> None:
        """Make sure that a whole file has this digest; a damaged copy is replaced."""
        try:
            super().verify(relative, sha256)
        except UnreadableObjectError:
            self._bring(relative, self.absolute(relative))
            super().verify(relative, sha256)

    def free_bytes(self) -> int:
        """Return how many bytes the cache's volume has left."""
        self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        return super().free_bytes()

    def files(self, below: Path, suffix: str) -> Iterator[tuple[Path, datetime]]:
        """Yield the files below a folder, with the time when each was stored."""
        for path, at in self._bucket.files(below):
            if path.suffix == suffix:
                yield path, at

    def of_study(self, study_uid: StudyUid) -> Iterator[Path]:
        """Yield every file of a study's folders, in the store and in the cache."""
        yield from super().of_study(study_uid)
        for below in study_folders(study_uid):
            for path, _ in self._bucket.files(below):
                yield path

    def iter_files(self, below: Path = INSTANCES) -> Iterator[Path]:
        """Yield the relative paths of all files below a folder."""
        for path, _ in self._bucket.files(below):
            yield path

    def _bring(self, relative: Path, target: Path) -> None:
        self._trim()
        with spool_errors():
            target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        draft = target.parent / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        try:
            self._bucket.download(relative, draft)
            with spool_errors():
                draft.replace(target)
        except FileNotFoundError as error:
            raise UnreadableObjectError("a file of the spool is missing") from error
        finally:
            with suppress(OSError):
                draft.unlink()

    def _trim(self) -> None:
        """Now and then, let go what is idle, and the oldest while it is too much."""
        if time.monotonic() - self._trimmed_at < TRIM_EVERY_S:
            return
        self._trimmed_at = time.monotonic()
        trim(self.root, self._cache_bytes, datetime.now(UTC))


def trim(root: Path, limit: int, at: datetime) -> int:
    """Remove files of a cache that nobody asked for lately; return how many.

    Args:
        root: The folder of the cache.
        limit: How many bytes may stay; what is in use stays all the same.
        at: The time of this call.
    """
    found = []
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                status = path.stat()
                used = datetime.fromtimestamp(status.st_atime, UTC)
                found.append((used, status.st_size, path))
    total = sum(size for _, size, _ in found)
    removed = 0
    for used, size, path in sorted(found):
        is_old = at - used > IDLE
        is_too_much = total > limit and at - used > IN_USE
        if is_old or is_too_much:
            path.unlink(missing_ok=True)
            total -= size
            removed += 1
    return removed


def spool_of(settings: NodeSettings) -> Spool:
    """Return where the files of an installation are: a folder, or an object store."""
    if settings.store_url is None:
        return Spool(settings.spool)
    key_id, _, secret = (settings.store_credentials or "").partition(":")
    address = Address(
        settings.store_url, settings.store_endpoint, key_id or None, secret or None
    )
    return SharedSpool(settings.spool, Bucket(address), settings.cache_bytes)


def _now() -> datetime:
    return datetime.now(UTC)
