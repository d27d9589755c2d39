"""DICOM files on disk, from folders and from media with a DICOMDIR (PS3.10)."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pydicom
from pydicom import Dataset

from dicom_node.errors import UnreadableObjectError
from dicom_node.intake import StoreRequest
from dicom_node.part10 import read_meta
from dicom_node.silence import silence

DICOMDIR: Final = "DICOMDIR"
MAX_RECORDS: Final = 1_000_000


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the files to read: those named, those below folders, or of a DICOMDIR.

    A folder with a DICOMDIR is read by it: what the DICOMDIR does not name is left
    out. Names that lead outside its folder are not followed.

    Raises:
        UnreadableObjectError: A DICOMDIR cannot be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_below(path)))
    return list(found)


def _below(path: Path) -> Iterator[Path]:
    if path.name == DICOMDIR and path.is_file():
        yield from _of_directory(path)
    elif path.is_file():
        yield path
    elif (path / DICOMDIR).is_file():
        yield from _of_directory(path / DICOMDIR)
    else:
        yield from sorted(each for each in path.rglob("*") if each.is_file())


def _of_directory(path: Path) -> Iterator[Path]:
    """Yield the files that a DICOMDIR refers to, in its order (PS3.3 F.3)."""
    try:
        with silence():
            directory = pydicom.dcmread(path)
            records = list(directory.DirectoryRecordSequence)[:MAX_RECORDS]
    except Exception as error:  # pydicom raises whatever a damaged file leads to
        raise UnreadableObjectError(f"{path} cannot be read as a DICOMDIR") from error
    root = path.parent.resolve()
    for record in records:
        file = _referenced(record, root)
        if file is not None and file.is_relative_to(root) and file.is_file():
            yield file


def _referenced(record: Dataset, root: Path) -> Path | None:
    parts = record.get("ReferencedFileID")
    if parts is None:
        return None
    names = [parts] if isinstance(parts, str) else [str(part) for part in parts]
    wanted = root.joinpath(*names)
    if wanted.exists():
        return wanted.resolve()
    lower = root.joinpath(*(name.lower() for name in names))  # as some mounts show it
    return lower.resolve() if lower.exists() else None


def read(path: Path, calling_ae: str) -> StoreRequest:
    """Read a file as if it had been sent to us; the data set is not decoded.

    Raises:
        UnreadableObjectError: It is not a DICOM Part 10 file.
    """
    try:
        with path.open("rb") as file:
            meta = read_meta(file)
            dataset = io.BytesIO(file.read())
    except OSError as error:
        raise UnreadableObjectError(f"cannot be read: {error.strerror}") from error
    return StoreRequest(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae=calling_ae,
        dataset=dataset,
    )
