"""A C-STORE request as pynetdicom hands it over, made ours (PS3.7 section 9.1.1)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pynetdicom.events import Event

from dicom_node.errors import LedgerUnavailableError, SpoolFullError
from dicom_node.intake import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    StoreRefusedError,
    StoreRequest,
)

if TYPE_CHECKING:
    from pynetdicom.dimse_primitives import C_STORE


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status that a sender gets, and why, for the log."""

    status: int
    why: str


def refusal(error: Exception) -> Refusal:
    """Return what a fault while an object is stored means for its sender.

    What passes by itself is 0xA700, so that the sender comes back; a fault of ours is
    0x0110, and of it only the type is told: its text may hold values.
    """
    if isinstance(error, StoreRefusedError):
        return Refusal(error.status, str(error))
    if isinstance(error, SpoolFullError | LedgerUnavailableError):
        return Refusal(OUT_OF_RESOURCES, str(error))
    return Refusal(PROCESSING_FAILURE, type(error).__name__)


def request_of(event: Event, calling_ae: str) -> StoreRequest:
    """Return what a C-STORE event asks to store; nothing is decoded.

    Raises:
        StoreRefusedError: There is no data set, or its SOP class is not that of the
            presentation context.
    """
    request = cast("C_STORE", event.request)
    if request.AffectedSOPClassUID != event.context.abstract_syntax:
        text = "the SOP class is not that of the presentation context"
        raise StoreRefusedError(SOP_CLASS_NOT_SUPPORTED, text)
    if request.DataSet is None:
        raise StoreRefusedError(CANNOT_UNDERSTAND, "there is no data set")
    return StoreRequest(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        calling_ae=calling_ae,
        dataset=request.DataSet,
    )
