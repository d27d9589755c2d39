"""Which attributes of two objects differ: their names, never their values."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag

from dicom_node.attributes import pixels_begin, read_header, readable

IDENTITY: Final = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
)
"""What says who an object is of; the rest of two images always differs."""

PIXEL_DATA: Final = "PixelData"


def changed(first: Path, second: Path) -> tuple[str, ...]:
    """Name what differs between two objects under one UID, the pixels last.

    Returns:
        Keywords in the order of their tags, "(gggg,eeee)" for what has none.

    Raises:
        UnreadableObjectError: One of the two does not parse.
        OSError: A file cannot be opened or read.
    """
    one, other = read_header(first), read_header(second)
    with readable("the object"):
        tags = sorted({*one.keys(), *other.keys()})
        found = [_name(tag) for tag in tags if _differs(one, other, tag)]
    if one.file_meta.TransferSyntaxUID != other.file_meta.TransferSyntaxUID:
        found.insert(0, "TransferSyntaxUID")
    if _rest(first, one) != _rest(second, other):
        found.append(PIXEL_DATA)
    return tuple(found)


def identity_changed(first: Path, second: Path) -> Sequence[str]:
    """Name what differs in who two objects are of; see `changed`."""
    return [name for name in changed(first, second) if name in IDENTITY]


def _differs(one: Dataset, other: Dataset, tag: BaseTag) -> bool:
    if (tag in one) != (tag in other):
        return True
    return bool(one[tag].value != other[tag].value)


def _name(tag: BaseTag) -> str:
    return keyword_for_tag(tag) or f"({tag.group:04x},{tag.element:04x})"


def _rest(path: Path, header: Dataset) -> bytes:
    """Return a digest of what begins with the pixel data."""
    with path.open("rb") as file:
        file.seek(pixels_begin(header))
        return hashlib.file_digest(file, "sha256").digest()
