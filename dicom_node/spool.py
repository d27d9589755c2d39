"""Files on disk, whole or not at all, under names made of hashes.

    incoming/.<random>.part                     what is under way, found by nobody
    instances/<h2>/<h>/<sop>.dcm                first object of a SOP Instance UID
    quarantine/<h2>/<h>/<sop>-<sha256>.dcm      another one under the same UID
    documents/<d2>/<sha256>.dcm                 encoded reports and captures, frozen
    kept/<d2>/<sha256>.dcm, .crop               what outlives the images (see `kept`)

<h> is the SHA-256 of the Study Instance UID, <sop> of the SOP Instance UID: nothing
that a peer sent becomes a path. A name that exists stands for a complete file whose
bytes and whose directory entry are on disk.
"""

import errno
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from io import BufferedReader
from pathlib import Path
from typing import Final

from dicom_node.draft import Bytes, Draft, changed_at
from dicom_node.errors import SpoolFullError, UnreadableObjectError
from dicom_node.part10 import FileMeta, encode_meta, read_meta
from dicom_node.study import SopInstanceUid, StudyUid

INCOMING: Final = Path("incoming")
INSTANCES: Final = Path("instances")
QUARANTINE: Final = Path("quarantine")
DOCUMENTS: Final = Path("documents")
KEPT: Final = Path("kept")
PARTIAL_SUFFIX: Final = ".part"
FILE_SUFFIX: Final = ".dcm"

CANNOT_LINK: Final = frozenset(
    {errno.EMLINK, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}
)
"""What a volume without hard links answers."""


class Outcome(Enum):
    """What writing an instance found under its name."""

    NEW = auto()
    SAME = auto()
    DIFFERS = auto()


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded data set as it came in, with what its file must say about it."""

    study_uid: StudyUid
    sop_instance_uid: SopInstanceUid
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    dataset: Bytes


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A file of the spool: `path` relative to it, `sha256` of the data set alone.

    `received_at` is the file's modification time, so that it survives the database.
    """

    path: Path
    size: int
    sha256: str
    received_at: datetime
    outcome: Outcome = Outcome.NEW


class Spool:
    """One folder of instances and documents, shared by listener and workers.

    `is_shared` says that the files outlive this host, and with it any row that only
    this host could rebuild.
    """

    is_shared = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def absolute(self, relative: Path) -> Path:
        """Return the absolute path of a file of the spool.

        Raises:
            ValueError: The path leads out of the spool.
        """
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError("a path of the spool is relative and has no '..'")
        return self.root / relative

    def fetch(self, relative: Path, sha256: str | None = None) -> Path:
        """Return the absolute path of a file of the spool, for readers of paths.

        Args:
            relative: The file.
            sha256: What its data set must be, where the file had to be brought here;
                a file of this folder is taken as it is.

        Raises:
            UnreadableObjectError: It had to be brought here, and is gone or changed.
            SpoolFullError: It cannot be brought here now.
        """
        del sha256
        return self.absolute(relative)

    def write_instance(self, instance: Encoded) -> SpooledFile:
        """Make an instance durable under its SOP Instance UID; the first one stays.

        Returns:
            The file of that UID. `outcome` is NEW when it was written now, SAME
            when it was there with the same data set, DIFFERS when another data set
            was there: then nothing was written.

        Raises:
            SpoolFullError: The volume cannot take it; nothing was left behind.
        """
        with self.draft(_meta(instance)) as draft:
            with spool_errors():
                draft.write(instance.dataset)
            return self.settle(draft, instance.study_uid, instance.sop_instance_uid)

    def quarantine(self, instance: Encoded) -> SpooledFile:
        """Make an object durable that may not take its UID's name; idempotent.

        Raises:
            SpoolFullError: The volume cannot take it; nothing was left behind.
        """
        with self.draft(_meta(instance)) as draft:
            with spool_errors():
                draft.write(instance.dataset)
            study, sop = instance.study_uid, instance.sop_instance_uid
            return self.settle_aside(draft, study, sop)

    def draft(self, head: bytes = b"") -> Draft:
        """Begin a file; until it is settled nothing finds it. The caller closes it.

        Raises:
            SpoolFullError: The volume cannot take it.
        """
        with spool_errors():
            path = self.root / INCOMING / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
            try:
                return Draft(path, head)
            except FileNotFoundError:
                self._make_folder(path.parent)
                return Draft(path, head)

    def settle(
        self, draft: Draft, study_uid: str, sop_instance_uid: str
    ) -> SpooledFile:
        """Make a whole file durable as an instance; see `write_instance`.

        Raises:
            SpoolFullError: The volume cannot take it.
        """
        path = instance_path(study_uid, sop_instance_uid)
        status = self._name(draft, path)
        if status is not None:
            return _described(path, status, draft)
        kept = self.describe(path)
        outcome = Outcome.SAME if kept.sha256 == draft.sha256 else Outcome.DIFFERS
        return replace(kept, outcome=outcome)

    def settle_aside(
        self, draft: Draft, study_uid: str, sop_instance_uid: str
    ) -> SpooledFile:
        """Make a whole file durable in quarantine; see `quarantine`.

        Raises:
            SpoolFullError: The volume cannot take it.
        """
        path = quarantine_path(study_uid, sop_instance_uid, draft.sha256)
        status = self._name(draft, path)
        return (
            self.describe(path) if status is None else _described(path, status, draft)
        )

    @contextmanager
    def open(self, path: Path) -> Iterator[BufferedReader]:
        """Open a file of the spool for reading.

        Raises:
            UnreadableObjectError: There is no such file.
            SpoolFullError: The volume fails.
        """
        with (
            spool_errors(),
            _file_must_exist(),
            self.absolute(path).open("rb") as file,
        ):
            yield file

    def describe(self, path: Path) -> SpooledFile:
        """Return size, digest and time of an instance from its file alone.

        Raises:
            UnreadableObjectError: The file is not one that this spool wrote.
            SpoolFullError: The volume fails.
        """
        with self.open(path) as file:
            read_meta(file)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            status = os.fstat(file.fileno())
        return SpooledFile(path, status.st_size, digest, changed_at(status))

    def write_document(self, sha256: str, content: bytes) -> Path:
        """Make an encoded document durable under the digest of its bytes.

        Raises:
            ValueError: The digest is not that of the content.
            SpoolFullError: The volume cannot take it; nothing was left behind.
        """
        path = document_path(sha256, content)
        with self.draft() as draft:
            with spool_errors():
                draft.write(content)
            self._name(draft, path)
        return path

    def read_document(self, relative: Path) -> bytes:
        """Return the frozen bytes of a document.

        Raises:
            UnreadableObjectError: The bytes are no longer those that were written.
            SpoolFullError: The volume fails.
        """
        with self.open(relative) as file:
            content = file.read()
        _check_digest(hashlib.sha256(content).hexdigest(), relative.stem)
        return content

    def place(self, path: Path, content: bytes | Path) -> None:
        """Make a file durable under a name that says what it holds. Idempotent.

        A file of that name is replaced, so that its time of change is that of the
        last call. A name is never there without the whole file behind it.

        Args:
            path: The name, relative to the spool.
            content: Its bytes, or a durable file of the spool, which is linked, or
                copied where the volume has no links.

        Raises:
            UnreadableObjectError: There is no such file to link.
            SpoolFullError: The volume cannot take it; nothing was left behind.
        """
        target = self.absolute(path)
        with spool_errors(), _file_must_exist():
            self._make_folder(target.parent)
            draft = target.parent / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
            try:
                if isinstance(content, Path):
                    _link(self.absolute(content), draft)
                else:
                    _write_synced(draft, (content,))
                draft.replace(target)  # leaves a second link to one file as it is
            finally:
                with suppress(OSError):
                    draft.unlink()
            _sync_folder(target.parent)

    def remove(self, paths: Iterable[Path]) -> int:
        """Remove files for good; return how many there were.

        Raises:
            SpoolFullError: The volume fails; what was removed stays so.
        """
        folders = set()
        removed = 0
        with spool_errors():
            for target in map(self.absolute, paths):
                with suppress(FileNotFoundError):
                    target.unlink()
                    folders.add(target.parent)
                    removed += 1
            for folder in folders:
                _sync_folder(folder)
        return removed

    def set_aside(self, path: Path, why: str) -> bool:
        """Give a file a name that nothing looks for, for a person; False without one.

        Raises:
            SpoolFullError: The volume fails.
        """
        target = self.absolute(path)
        with spool_errors():
            try:
                target.rename(target.with_name(f"{target.name}.{why}"))
            except FileNotFoundError:
                return False
            _sync_folder(target.parent)
        return True

    def written_at(self, path: Path) -> datetime | None:
        """Return when a file was written, None when it is not there."""
        try:
            return changed_at(self.absolute(path).stat())
        except FileNotFoundError:
            return None

    def verify(self, relative: Path, sha256: str) -> None:
        """Make sure that a whole file has this digest; it is not read into memory.

        Raises:
            UnreadableObjectError: There is no such file, or its bytes changed.
            SpoolFullError: The volume fails.
        """
        with self.open(relative) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check_digest(digest, sha256)

    def files(self, below: Path, suffix: str) -> Iterator[tuple[Path, datetime]]:
        """Yield the files below a folder, with the time when each was put there."""
        for path in (self.root / below).glob(f"*/*{suffix}"):
            changed = datetime.fromtimestamp(path.stat().st_ctime, UTC)
            yield path.relative_to(self.root), changed

    def of_study(self, study_uid: StudyUid) -> Iterator[Path]:
        """Yield every file of a study's folders: damaged and half-written ones too."""
        for below in study_folders(study_uid):
            for path in (self.root / below).glob("*"):
                yield path.relative_to(self.root)

    def iter_files(self, below: Path = INSTANCES) -> Iterator[Path]:
        """Yield the relative paths of all complete files below a folder."""
        for path in (self.root / below).glob(f"*/*/*{FILE_SUFFIX}"):
            yield path.relative_to(self.root)

    def free_bytes(self) -> int:
        """Return how many bytes an ordinary user may still write to the volume.

        Raises:
            SpoolFullError: The volume fails, or is not there.
        """
        with spool_errors():
            status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def sweep_partial(self, before: datetime) -> int:
        """Remove what interrupted writes left; return how many files that were.

        A draft that somebody wrote to, or linked, since then is left: a link has the
        modification time of what it links, but a time of change of its own.
        """
        removed = 0
        for path in self.root.glob(f"**/.*{PARTIAL_SUFFIX}"):
            with suppress(FileNotFoundError):
                if path.stat().st_ctime <= before.timestamp():
                    path.unlink()
                    removed += 1
        return removed

    def _name(self, draft: Draft, path: Path) -> os.stat_result | None:
        """Make a whole file durable under a name; return None when it was taken."""
        target = self.absolute(path)
        with spool_errors():
            if target.exists():
                _sync_folder(target.parent)  # whoever wrote it may not be there yet
                return None
            self._make_folder(target.parent)
            status: os.stat_result | None = draft.sync()
            try:
                os.link(draft.path, target)  # fails when the name is taken: one wins
            except FileExistsError:
                status = None
            _sync_folder(target.parent)
        return status

    def _make_folder(self, folder: Path) -> None:
        """Create a folder and its parents, each entry durable."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(mode=0o750, exist_ok=True)
            _sync_folder(each.parent)


def instance_path(study_uid: str, sop_instance_uid: str) -> Path:
    """Return the name of an instance: its study's folder, its SOP Instance UID."""
    name = f"{_digest(sop_instance_uid)}{FILE_SUFFIX}"
    return INSTANCES / _study_folder(study_uid) / name


def quarantine_path(study_uid: str, sop_instance_uid: str, sha256: str) -> Path:
    """Return the name of an object with this digest that may not take its UID's."""
    name = f"{_digest(sop_instance_uid)}-{sha256}{FILE_SUFFIX}"
    return QUARANTINE / _study_folder(study_uid) / name


def study_folders(study_uid: StudyUid) -> tuple[Path, Path]:
    """Return where the objects of a study lie: received ones, quarantined ones."""
    folder = _study_folder(study_uid)
    return INSTANCES / folder, QUARANTINE / folder


def document_path(sha256: str, content: bytes) -> Path:
    """Return the name of a document.

    Raises:
        ValueError: The digest is not that of the content.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("the digest is not that of the document")
    return DOCUMENTS / sha256[:2] / f"{sha256}{FILE_SUFFIX}"


def digest_of(instance: Encoded) -> str:
    """Return the SHA-256 of a data set."""
    return hashlib.sha256(instance.dataset).hexdigest()


def as_file(instance: Encoded) -> bytes:
    """Return the bytes of an instance's file."""
    return b"".join((_meta(instance), instance.dataset))


def _meta(instance: Encoded) -> bytes:
    return encode_meta(
        FileMeta(
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax_uid,
            instance.calling_ae,
        )
    )


def _study_folder(study_uid: str) -> Path:
    digest = _digest(study_uid)
    return Path(digest[:2]) / digest


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode("ascii")).hexdigest()


def _check_digest(found: str, expected: str) -> None:
    if found != expected:
        raise UnreadableObjectError("a document's bytes changed on disk")


def _described(path: Path, status: os.stat_result, draft: Draft) -> SpooledFile:
    return SpooledFile(path, status.st_size, draft.sha256, changed_at(status))


def _write_synced(path: Path, parts: tuple[Bytes, ...]) -> os.stat_result:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with os.fdopen(handle, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        os.fsync(handle)
        return os.fstat(handle)


def _link(source: Path, draft: Path) -> None:
    try:
        draft.hardlink_to(source)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        _write_synced(draft, (source.read_bytes(),))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def spool_errors() -> Iterator[None]:
    """Turn a full or failing volume into the error that says: come back later."""
    try:
        yield
    except OSError as error:
        raise SpoolFullError(f"the spool cannot be used: {error.strerror}") from error


@contextmanager
def _file_must_exist() -> Iterator[None]:
    """Turn a missing file into the error that says: not this one."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableObjectError("a file of the spool is missing") from error
