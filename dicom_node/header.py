"""The few header elements that file an instance, read without decoding the rest.

Reading ends with (0020,000E). Values are taken as bytes: no value representation is
converted, so nothing can be logged or raised that carries a patient's data.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.charset import python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
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
WANTED: Final[list[BaseTag | int]] = [
    SPECIFIC_CHARACTER_SET,
    *MANDATORY,
    PATIENT_ID,
    ISSUER_OF_PATIENT_ID,
]
DEFAULT_ENCODING: Final = "iso8859"
MAX_VALUE_LENGTH: Final = 1024


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
        UnreadableObjectError: The elements cannot be parsed, or a UID is missing.
    """
    values = _read_values(file, transfer_syntax_uid == ImplicitVRLittleEndian)
    if any(not values.get(tag) for tag in MANDATORY):
        raise UnreadableObjectError("a mandatory UID is missing")
    encoding = _encoding(values.get(SPECIFIC_CHARACTER_SET, b""))
    return Header(
        sop_class_uid=_uid(values[SOP_CLASS_UID]),
        sop_instance_uid=_uid(values[SOP_INSTANCE_UID]),
        study_uid=_uid(values[STUDY_INSTANCE_UID]),
        series_uid=_uid(values[SERIES_INSTANCE_UID]),
        patient_id=_text(values.get(PATIENT_ID, b""), encoding),
        issuer=_text(values.get(ISSUER_OF_PATIENT_ID, b""), encoding),
    )


def _read_values(file: BinaryIO, implicit: bool) -> dict[int, bytes]:  # noqa: FBT001 - the name says it
    values: dict[int, bytes] = {}
    try:
        for element in data_element_generator(
            file,
            is_implicit_VR=implicit,
            is_little_endian=True,
            stop_when=_is_past_header,
            specific_tags=WANTED,
        ):
            if isinstance(element, RawDataElement) and element.value:
                values[int(element.tag)] = element.value[:MAX_VALUE_LENGTH]
    except Exception as error:  # noqa: BLE001 - hostile bytes raise anything
        # The cause may quote the bytes, so only its type goes on.
        text = f"the data set does not parse ({type(error).__name__})"
        raise UnreadableObjectError(text) from None
    return values


def _is_past_header(tag: BaseTag, vr: str | None, length: int) -> bool:
    del vr, length
    return int(tag) > SERIES_INSTANCE_UID


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
