"""DICOM Part 10 framing around encoded data sets that are never decoded here.

Source: DICOM PS3.10 section 7.1 (preamble, prefix, file meta information).
"""

import struct
import uuid
from dataclasses import dataclass
from typing import BinaryIO, Final

from dicom_node import __version__
from dicom_node.errors import UnreadableObjectError

IMPLEMENTATION_CLASS_UID: Final = (
    f"2.25.{uuid.UUID('6f0bb3e8-6e0f-4b0b-9a6e-4c8b1f0e5a11').int}"
)
IMPLEMENTATION_VERSION_NAME: Final = f"SENTINODE_{__version__}"[:16]

PREFIX: Final = b"\x00" * 128 + b"DICM"
LENGTH_ELEMENT: Final = struct.Struct("<HH2sHL")  # (0002,0000) UL 4 <group length>
ELEMENT: Final = struct.Struct("<HH2sH")
LONG_LENGTH: Final = struct.Struct("<L")
MAX_META_LENGTH: Final = 64 * 1024

SOP_CLASS: Final = 0x0002
SOP_INSTANCE: Final = 0x0003
TRANSFER_SYNTAX: Final = 0x0010
SOURCE_AE: Final = 0x0016


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What our files say about their data set, ahead of it.

    `calling_ae` is the Source Application Entity Title (0002,0016): who sent it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str


def encode_meta(meta: FileMeta) -> bytes:
    """Return preamble, prefix and file meta information, ready for the data set."""
    elements = b"".join(
        (
            ELEMENT.pack(2, 0x0001, b"OB", 0) + LONG_LENGTH.pack(2) + b"\x00\x01",
            _uid(SOP_CLASS, meta.sop_class_uid),
            _uid(SOP_INSTANCE, meta.sop_instance_uid),
            _uid(TRANSFER_SYNTAX, meta.transfer_syntax_uid),
            _uid(0x0012, IMPLEMENTATION_CLASS_UID),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _text(SOURCE_AE, b"AE", meta.calling_ae),
        )
    )
    return PREFIX + LENGTH_ELEMENT.pack(2, 0, b"UL", 4, len(elements)) + elements


def read_meta(file: BinaryIO) -> FileMeta:
    """Read what `encode_meta` wrote and leave the file at its data set.

    Raises:
        UnreadableObjectError: The file does not start as Part 10 demands.
    """
    head = file.read(len(PREFIX) + LENGTH_ELEMENT.size)
    if len(head) < len(PREFIX) + LENGTH_ELEMENT.size or head[128:132] != b"DICM":
        raise UnreadableObjectError("not a DICOM Part 10 file")
    group, element, _, _, length = LENGTH_ELEMENT.unpack_from(head, len(PREFIX))
    if (group, element) != (2, 0) or length > MAX_META_LENGTH:
        raise UnreadableObjectError("file meta information has no usable length")
    values = _elements(file.read(length))
    try:
        return FileMeta(
            sop_class_uid=values[SOP_CLASS],
            sop_instance_uid=values[SOP_INSTANCE],
            transfer_syntax_uid=values[TRANSFER_SYNTAX],
            calling_ae=values.get(SOURCE_AE, ""),
        )
    except KeyError as error:
        raise UnreadableObjectError("file meta information is incomplete") from error


def _elements(group: bytes) -> dict[int, str]:
    """Return the text values of the file meta group by element number."""
    values: dict[int, str] = {}
    position = 0
    while position + ELEMENT.size <= len(group):
        _, element, vr, length = ELEMENT.unpack_from(group, position)
        position += ELEMENT.size
        if vr in {b"OB", b"UN"}:
            (length,) = LONG_LENGTH.unpack_from(group.ljust(position + 4), position)
            position += LONG_LENGTH.size
        value = group[position : position + length]
        values[element] = value.decode("ascii", "replace").strip("\x00 ")
        position += length
    return values


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\x00" * (len(value) % 2)
    return ELEMENT.pack(2, element, b"UI", len(value)) + value


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += b" " * (len(value) % 2)
    return ELEMENT.pack(2, element, vr, len(value)) + value
