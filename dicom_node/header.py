"""The few header elements that file an instance, read without decoding the rest.

Reading ends with (0020,000E). Values are taken as bytes: no value representation is
converted, so nothing can be logged or raised that carries a patient's data. The
reader is our own: pydicom's builds every sequence that it passes, and a listener must
not be made to allocate a hundred times what it was sent.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.charset import python_encoding
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.errors import UnreadableObjectError

SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
SOP_CLASS_UID: Final = 0x0008_0016
SOP_INSTANCE_UID: Final = 0x0008_0018
PATIENT_ID: Final = 0x0010_0020
ISSUER_OF_PATIENT_ID: Final = 0x0010_0021
STUDY_INSTANCE_UID: Final = 0x0020_000D
SERIES_INSTANCE_UID: Final = 0x0020_000E

MANDATORY: Final = (
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    SERIES_INSTANCE_UID,
)
WANTED: Final = frozenset(
    {SPECIFIC_CHARACTER_SET, *MANDATORY, PATIENT_ID, ISSUER_OF_PATIENT_ID}
)
DEFAULT_ENCODING: Final = "iso8859"
MAX_VALUE_LENGTH: Final = 1024

MAX_ELEMENTS: Final = 200_000
"""Elements and items before the series is named; a header has some hundred."""

HEAD: Final = struct.Struct("<HH2sH")
LONG_LENGTH: Final = struct.Struct("<L")
LONG_VRS: Final = frozenset(
    {
        *(b"OB", b"OD", b"OF", b"OL", b"OV", b"OW"),
        *(b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"),
    }
)
"""VRs with a length of four bytes (PS3.5 table 7.1-1)."""

UNDEFINED: Final = 0xFFFF_FFFF
ITEM: Final = 0xFFFE_E000
DELIMITERS: Final = frozenset({0xFFFE_E00D, 0xFFFE_E0DD})


@dataclass(frozen=True, slots=True)
class Header:
    """Who and what an instance is; the UIDs are as sent and may not be valid."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str


def read_header(file: BinaryIO, transfer_syntax_uid: str) -> Header:
    """Read the header of an encoded data set from where the file stands.

    Args:
        file: Stands at the first element of the data set.
        transfer_syntax_uid: Any but Big Endian and Deflated.

    Raises:
        UnreadableObjectError: The elements cannot be parsed, or a UID is missing, or
            nothing but padding.
    """
    values = _read_values(file, transfer_syntax_uid == ImplicitVRLittleEndian)
    uids = [_uid(values.get(tag, b"")) for tag in MANDATORY]
    if not all(uids):
        raise UnreadableObjectError("a mandatory UID is missing")
    encoding = _encoding(values.get(SPECIFIC_CHARACTER_SET, b""))
    sop_class, sop_instance, study, series = uids
    return Header(
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        study_uid=study,
        series_uid=series,
        patient_id=_text(values.get(PATIENT_ID, b""), encoding),
        issuer=_text(values.get(ISSUER_OF_PATIENT_ID, b""), encoding),
    )


def _read_values(file: BinaryIO, implicit: bool) -> dict[int, bytes]:  # noqa: FBT001 - the name says it
    values: dict[int, bytes] = {}
    try:
        for tag, length in _elements(file, implicit):
            if tag not in WANTED:
                file.seek(length, os.SEEK_CUR)
                continue
            values[tag] = file.read(min(length, MAX_VALUE_LENGTH))
            if len(values[tag]) < length:
                raise UnreadableObjectError("a value is cut off or far too long")
    except (OverflowError, ValueError, struct.error) as error:
        text = f"the data set does not parse ({type(error).__name__})"
        raise UnreadableObjectError(text) from None
    return values


def _elements(file: BinaryIO, implicit: bool) -> Iterator[tuple[int, int]]:  # noqa: FBT001 - as above
    """Yield tag and length of each element of the header that stands in no sequence.

    Whoever takes one moves the file behind its value. Sequences are passed over flat,
    by their delimiters: whatever they nest or hold takes no memory.
    """
    depth = 0
    for _ in range(MAX_ELEMENTS):
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return
        group, element, vr, length = HEAD.unpack(head)
        tag = group << 16 | element
        if tag in DELIMITERS:
            depth -= 1
            if depth < 0:
                return
            continue
        length = _length(file, head, vr, length, implicit or tag == ITEM)
        if depth == 0 and tag > SERIES_INSTANCE_UID:
            return
        if length == UNDEFINED:
            depth += 1
        elif depth == 0:
            yield tag, length
        else:
            file.seek(length, os.SEEK_CUR)
    raise ValueError("too many elements")


def _length(file: BinaryIO, head: bytes, vr: bytes, length: int, implicit: bool) -> int:  # noqa: FBT001 - as above
    """Return the length of an element, of which the first eight bytes were read.

    Where a VR should stand that is none, the element is taken as one of Implicit VR:
    some writers change to it inside sequences.
    """
    if implicit or not (vr.isalpha() and vr.isupper()):
        return int(LONG_LENGTH.unpack_from(head, 4)[0])
    if vr in LONG_VRS:
        return int(LONG_LENGTH.unpack(file.read(LONG_LENGTH.size))[0])
    return length


def _uid(value: bytes) -> str:
    """Return a UID as text; the Standard pads with NUL, some writers with space."""
    return value.decode("ascii", "backslashreplace").strip("\x00 ")


def _encoding(character_set: bytes) -> str:
    """Return the Python codec of the first character set, Latin-1 when unknown."""
    first = character_set.split(b"\\")[0].decode("ascii", "replace").strip("\x00 ")
    return python_encoding.get(first, DEFAULT_ENCODING)


def _text(value: bytes, encoding: str) -> str:
    try:
        text = value.decode(encoding, "backslashreplace")
    except (LookupError, struct.error, ValueError):
        text = value.decode(DEFAULT_ENCODING)
    return text.strip("\x00 ")
