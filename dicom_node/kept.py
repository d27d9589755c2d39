"""What outlives the images of a study: for each result the crop and the slice.

    kept/<d2>/<sha256>.crop   the pixels that the networks saw
    kept/<d2>/<sha256>.dcm    the analysed slice: header and pixels for later reports

Names are digests: of a crop's bytes, of a slice's data set without file meta
information, as the ledger has it. No name holds anything of a patient; a slice's
header does. Which file is needed is for the database to say.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from dicom_node.errors import UnreadableObjectError
from dicom_node.spool import FILE_SUFFIX, KEPT, Spool

CROP_SUFFIX: Final = ".crop"


def crop_path(sha256: str) -> Path:
    """Return where a crop lies, relative to the spool."""
    return KEPT / sha256[:2] / crop_name(sha256)


def crop_name(sha256: str) -> str:
    """Return the name of a crop's file."""
    return f"{sha256}{CROP_SUFFIX}"


def slice_path(sha256: str) -> Path:
    """Return where a slice lies, relative to the spool."""
    return KEPT / sha256[:2] / slice_name(sha256)


def slice_name(sha256: str) -> str:
    """Return the name of a slice's file."""
    return f"{sha256}{FILE_SUFFIX}"


def keep_crop(spool: Spool, sha256: str, content: bytes) -> None:
    """Make a crop durable. Idempotent.

    Raises:
        ValueError: The digest is not that of the content.
        SpoolFullError: The volume cannot take it.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("the digest is not that of the crop")
    spool.place(crop_path(sha256), content)


def keep_slice(spool: Spool, sha256: str, instance: Path) -> None:
    """Let an instance outlive its name among the instances. Idempotent.

    Args:
        spool: Where both lie.
        sha256: Digest of the instance's data set.
        instance: Its path, relative to the spool; that of the kept slice is legal.

    Raises:
        UnreadableObjectError: The instance is missing.
        SpoolFullError: The volume cannot take it.
    """
    spool.place(slice_path(sha256), instance)


def has(spool: Spool, path: Path) -> bool:
    """Say whether something kept is there."""
    return spool.written_at(path) is not None


def read_crop(spool: Spool, sha256: str) -> bytes:
    """Return the bytes of a crop.

    Raises:
        UnreadableObjectError: It is missing, or not what it was.
    """
    with spool.open(crop_path(sha256)) as file:
        content = file.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UnreadableObjectError(
            f"the stored crop has SHA-256 {found}, recorded is {sha256}"
        )
    return content


def check_slice(spool: Spool, sha256: str) -> Path:
    """Return the absolute path of a slice whose data set is what it was.

    Raises:
        UnreadableObjectError: It is missing, or not what it was.
    """
    path = spool.fetch(slice_path(sha256))
    found = spool.describe(slice_path(sha256)).sha256
    if found != sha256:
        raise UnreadableObjectError(
            f"the stored slice has SHA-256 {found}, recorded is {sha256}"
        )
    return path


def files(spool: Spool) -> Iterator[tuple[Path, datetime]]:
    """Yield every kept file with the time when it was last kept."""
    for suffix in (CROP_SUFFIX, FILE_SUFFIX):
        yield from spool.files(KEPT, suffix)
