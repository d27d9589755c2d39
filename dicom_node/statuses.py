"""What a status says: is the object there, is another try worth it, and why.

A STOW-RS response carries the same reasons as C-STORE. When HTTP itself refused, its
code is kept above the 16 bits of DIMSE, so that no number has two meanings.

Source: PS3.4 table B.2-1 and section J.3, PS3.7 annex C, PS3.18 section 10.5.3.
"""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    PermanentError,
    TransientError,
)
from dicom_node.study import SopInstanceUid

WARNING_CLASS: Final = 0xB000
OUT_OF_RESOURCES_CLASS: Final = 0xA700
DUPLICATE_INSTANCE: Final = 0x0111
"""The peer holds this UID: the answer to an earlier attempt was lost on its way."""

STORED: Final = frozenset({0x0000, 0x0001, 0x0107, DUPLICATE_INSTANCE, 0x0116})
"""Success, warnings outside 0xBxxx, and "I have it already"."""

HTTP: Final = 0x1_0000
HTTP_FAILURE: Final = 400
HTTP_SERVER_FAULT: Final = 500
HTTP_PASSING: Final = frozenset({408, 425, 429})

MEANINGS: Final = {
    0x0000: "success",
    0x0001: "success, with a warning",
    0x0107: "warning: attribute list error",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance: it is there already",
    0x0112: "no such object instance",
    0x0113: "no such event type",
    0x0115: "invalid argument value",
    0x0116: "warning: attribute value out of range",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0123: "no such action",
    0x0124: "not authorised",
    0x0131: "duplicate transaction UID",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "warning: elements were coerced",
    0xB006: "warning: elements were discarded",
    0xB007: "warning: data set does not match SOP class",
    0xC122: "transfer syntax not supported",
    0xFE00: "cancelled",
}
PHRASES: Final = {each.value: each.phrase.lower() for each in HTTPStatus}
CLASSES: Final = {
    0xA700: "out of resources",
    0xA900: "data set does not match SOP class",
}
KINDS: Final = {0xA000: "failure", 0xB000: "warning", 0xC000: "cannot understand"}


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """How one file went: `error` is None when the destination has it.

    `status` is None when no answer came; `sop_instance_uid` is that of the object
    that went out, None when the file is not DICOM.
    """

    path: Path
    sop_instance_uid: SopInstanceUid | None
    status: int | None
    error: TransientError | PermanentError | None


def judge(who: object, status: int | None) -> TransientError | PermanentError | None:
    """Turn a status into one of our two kinds of error, None when the object is there.

    Args:
        who: The destination, for the message.
        status: A DIMSE status, `HTTP` plus an HTTP status, None without an answer.
    """
    if status is None:
        return PeerUnavailableError(f"{who} did not answer")
    if status in STORED or status & ~0xFFF == WARNING_CLASS:
        return None
    text = f"{who} answered {written(status)} ({meaning(status)})"
    if _passes(status):
        return PeerUnavailableError(text, status)
    return PeerRejectedError(text, status)


def _passes(status: int) -> bool:
    if status < HTTP:
        return status & 0xFF00 == OUT_OF_RESOURCES_CLASS
    code = status - HTTP
    return code >= HTTP_SERVER_FAULT or code in HTTP_PASSING


def written(status: int) -> str:
    """Write a status as people look it up: 0xA700, or HTTP 503."""
    return f"HTTP {status - HTTP}" if status >= HTTP else f"0x{status:04X}"


def meaning(status: int) -> str:
    """Return what a status means, in a few words."""
    if status >= HTTP:
        return PHRASES.get(status - HTTP, "not a known HTTP status")
    return (
        MEANINGS.get(status)
        or CLASSES.get(status & 0xFF00)
        or KINDS.get(status & 0xF000)
        or "not a status of the Standard"
    )
