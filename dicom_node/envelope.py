"""The envelope of an HL7 v2 message: its header, its answer, its character set.

Pure: bytes in, values and bytes out. Errors hold nothing of the message.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dicom_node.errors import PermanentError

ACCEPTED: Final = "AA"
IN_ERROR: Final = "AE"
REJECTED: Final = "AR"

# Conditions of HL7 table 0357.
SEQUENCE_ERROR: Final = 100
REQUIRED_FIELD_MISSING: Final = 101
DATA_TYPE_ERROR: Final = 102
UNSUPPORTED_MESSAGE_TYPE: Final = 200
UNSUPPORTED_EVENT: Final = 201
UNSUPPORTED_PROCESSING_ID: Final = 202
UNSUPPORTED_VERSION: Final = 203
DUPLICATE_KEY: Final = 205
INTERNAL_ERROR: Final = 207

MSH: Final = re.compile(r"MSH([^\w\s])([^\w\s]{4,5})\1")
MAX_CONTROL_ID: Final = 199
CHARACTER_SETS: Final = {
    "": ("utf-8", "iso8859-1"),
    "ASCII": ("ascii",),
    "UNICODE": ("utf-8",),
    "UNICODE UTF-8": ("utf-8",),
    "UTF-8": ("utf-8",),
    "8859/1": ("iso8859-1",),
    "8859/2": ("iso8859-2",),
    "8859/9": ("iso8859-9",),
    "8859/15": ("iso8859-15",),
}
"""MSH-18 (HL7 table 0211); a message that names none is UTF-8, or else Latin-1."""


class NotHl7Error(PermanentError):
    """Bytes that do not begin with a message header; no answer is possible."""


class RefusedError(PermanentError):
    """A message that is answered AE or AR; the text holds nothing of the message."""

    def __init__(self, code: str, condition: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.condition = condition
        self.text = text


@dataclass(frozen=True, slots=True)
class Header:
    """The message header, undecoded (Latin-1), as the answer must repeat it."""

    separators: str
    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    message_type: str
    trigger: str
    control_id: str
    processing_id: str
    version: str
    character_set: str


def read_header(content: bytes) -> Header:
    """Read the message header, in whatever character set the message is.

    Raises:
        NotHl7Error: There is no header with usable separators.
    """
    line = re.split(rb"[\r\n]", content.lstrip(b"\xef\xbb\xbf \t\r\n"), maxsplit=1)[0]
    text = line.decode("iso8859-1")
    found = MSH.match(text)
    if found is None or len(set(found[1] + found[2])) != len(found[1] + found[2]):
        raise NotHl7Error("the bytes do not begin with a message header")
    fields = [*text.split(found[1]), *[""] * 18]
    component, repetition = found[2][0], found[2][1]
    kind = [*fields[8].split(component), "", ""]
    return Header(
        separators=found[1] + found[2],
        sending_application=fields[2],
        sending_facility=fields[3],
        receiving_application=fields[4],
        receiving_facility=fields[5],
        message_type=kind[0].strip(),
        trigger=kind[1].strip(),
        control_id=fields[9].strip(),
        processing_id=fields[10].split(component)[0].strip(),
        version=fields[11].split(component)[0].strip(),
        character_set=fields[17].split(repetition)[0].strip().upper(),
    )


def demand_supported(header: Header, processing_id: str) -> None:
    """Refuse what is no observation result for this installation.

    Raises:
        RefusedError: AR for another type, event, version or processing ID; AE when the
            message cannot be told from another one.
    """
    rules = (
        (header.message_type == "ORU", UNSUPPORTED_MESSAGE_TYPE, "only ORU is taken"),
        (header.trigger in {"R01", ""}, UNSUPPORTED_EVENT, "only ORU^R01 is taken"),
        (
            header.processing_id in {processing_id, ""},
            UNSUPPORTED_PROCESSING_ID,
            f"only processing ID {processing_id} is taken",
        ),
        (
            header.version.startswith("2") or not header.version,
            UNSUPPORTED_VERSION,
            "only HL7 version 2 is taken",
        ),
    )
    for allowed, condition, why in rules:
        if not allowed:
            raise RefusedError(REJECTED, condition, why)
    if not 0 < len(header.control_id) <= MAX_CONTROL_ID:
        text = f"MSH-10 must be given, in at most {MAX_CONTROL_ID} characters"
        raise RefusedError(IN_ERROR, REQUIRED_FIELD_MISSING, text)


def content_of(content: bytes) -> bytes:
    """Return a message without its header: what a repeated message has the same."""
    lines = re.split(rb"[\r\n]+", content.strip())
    return b"\r".join(line for line in lines[1:] if line.strip())


def acknowledge(
    header: Header, code: str, text: str, condition: int | None, answer_id: str
) -> bytes:
    """Write the answer (ACK) to a message, by its own separators.

    `text` is for people and holds nothing of the message. `answer_id` is the new
    control ID.
    """
    bar, hat = header.separators[0], header.separators[1]
    said = _escaped(text, header.separators)
    at = datetime.now().astimezone().strftime("%Y%m%d%H%M%S%z")
    first = (
        *("MSH" + bar + header.separators[1:], header.receiving_application),
        *(header.receiving_facility, header.sending_application),
        *(header.sending_facility, at, ""),
        f"ACK{hat}{header.trigger or 'R01'}{hat}ACK",
        *(answer_id, header.processing_id or "P", header.version or "2.5.1"),
    )
    lines = [bar.join(first), bar.join(("MSA", code, header.control_id, said))]
    if condition is not None:
        error = f"{condition}{hat}{hat}HL70357"
        lines.append(bar.join(("ERR", "", "", error, "E", "", "", "", said)))
    return ("\r".join(lines) + "\r").encode("iso8859-1", "replace")


def decoded(content: bytes, header: Header) -> str:
    """Return a message as text, by the character set that MSH-18 names.

    Raises:
        RefusedError: AE: the character set is not supported, or not that of the bytes.
    """
    codecs = CHARACTER_SETS.get(header.character_set)
    if codecs is None:
        why = "MSH-18 names a character set that is not supported"
        raise RefusedError(IN_ERROR, DATA_TYPE_ERROR, why)
    for codec in codecs:
        try:
            return content.decode(codec).lstrip("\ufeff")
        except UnicodeDecodeError:
            continue
    why = "the bytes are not in the character set of MSH-18"
    raise RefusedError(IN_ERROR, DATA_TYPE_ERROR, why)


def _escaped(text: str, separators: str) -> str:
    codes = dict(zip(separators, "FSRET", strict=False))
    escape = separators[3]
    return "".join(
        f"{escape}{codes[one]}{escape}" if one in codes else one for one in text
    )
