"""The storage commitment SCU: ask an archive to keep what it was sent (PS3.4 J).

The report comes on the same association while we hold it open, or later on a new
one that the archive opens to our listener; both end in the same function.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import build_context

from dicom_node.association import associate, end, status_of
from dicom_node.codestream import UNCOMPRESSED
from dicom_node.commitment import Report, Request, read_report
from dicom_node.contexts import COMMITMENT, COMMITMENT_INSTANCE
from dicom_node.errors import (
    PeerRejectedError,
    UnreadableObjectError,
)
from dicom_node.statuses import meaning, written
from dicom_node.study import Peer
from dicom_node.tls import Calling

log = logging.getLogger(__name__)

REQUEST_COMMITMENT: Final = 1
"""Action Type ID of N-ACTION (PS3.4 table J.3-1)."""

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
INVALID_ARGUMENT: Final = 0x0115

PASSING: Final = frozenset({SUCCESS, PROCESSING_FAILURE, 0x0213})
"""Not a refusal for good: with a failure or a lack of resources it is asked again."""

POLL_S: Final = 0.05

Enter = Callable[[Report], bool]
"""Enters a report; False when its transaction is none of ours."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for an answer, and for a report on the same association."""

    answer: float
    report: float


@dataclass(slots=True)
class _Ear:
    """Hears the reports that come on our own association."""

    transaction_uid: str
    enter: Enter
    heard: threading.Event = field(default_factory=threading.Event)

    def on_report(self, event: Event) -> tuple[int, None]:
        status, report = take_report(event, self.enter)
        if report is not None and report.transaction_uid == self.transaction_uid:
            self.heard.set()
        return status, None


def ask(
    peer: Peer, calling: Calling, request: Request, enter: Enter, patience: Patience
) -> None:
    """Ask a peer to commit, and listen a little for its report.

    A peer that gives no answer may have understood all the same: its report is
    waited for, as after a success.

    Raises:
        PeerUnavailableError: No association; nothing was asked.
        PeerRejectedError: The peer does not commit: it took no presentation context,
            or answered so.
    """
    ear = _Ear(request.transaction_uid, enter)
    association = associate(
        peer,
        calling,
        [build_context(COMMITMENT, list(UNCOMPRESSED))],
        patience.answer,
        [(evt.EVT_N_EVENT_REPORT, ear.on_report)],
    )
    try:
        status = _send(association, request)
        if status is not None and status not in PASSING:
            text = f"{peer} refused to commit: {written(status)} ({meaning(status)})"
            raise PeerRejectedError(text, status)
        if status == SUCCESS:
            _listen(association, ear, patience.report)
    finally:
        end(association)


def _send(association: Association, request: Request) -> int | None:
    """Send the N-ACTION and return its status, None when no answer came."""
    try:
        answer, _ = association.send_n_action(
            _information(request.transaction_uid, request.objects),
            REQUEST_COMMITMENT,
            COMMITMENT,
            COMMITMENT_INSTANCE,
        )
    except (OSError, RuntimeError, ValueError):
        return None
    return status_of(answer)


def _information(transaction_uid: str, objects: Sequence[tuple[str, str]]) -> Dataset:
    information = Dataset()
    information.TransactionUID = UID(transaction_uid)
    items = []
    for sop_class_uid, sop_instance_uid in objects:
        item = Dataset()
        item.ReferencedSOPClassUID = UID(sop_class_uid)
        item.ReferencedSOPInstanceUID = UID(sop_instance_uid)
        items.append(item)
    information.add(DataElement("ReferencedSOPSequence", "SQ", items))
    return information


def _listen(association: Association, ear: _Ear, seconds: float) -> None:
    waited = 0.0
    while waited < seconds and association.is_established:
        if ear.heard.wait(POLL_S):
            time.sleep(POLL_S)  # our answer to the report goes out after the handler
            return
        waited += POLL_S


def take_report(event: Event, enter: Enter) -> tuple[int, Report | None]:
    """Enter the report of an N-EVENT-REPORT; return the status to answer with.

    Returns:
        * 0x0000 Success: it is entered, or was before.
        * 0x0110 Processing failure: our database does not answer, or a fault of ours.
        * 0x0115 Invalid argument value: it does not parse, or its transaction is none
          of ours.

        And the report, None when there is none.
    """
    try:
        report = read_report(event.event_information)
    except UnreadableObjectError as error:
        log.warning("commitment report refused", extra={"why": str(error)})
        return INVALID_ARGUMENT, None
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on bad bytes
        log.warning("commitment report refused", extra={"why": type(error).__name__})
        return INVALID_ARGUMENT, None
    extra = {
        "transaction_uid": report.transaction_uid,
        "committed": len(report.committed),
        "failed": len(report.failed),
    }
    try:
        known = enter(report)
    except Exception as error:  # noqa: BLE001 - the peer must get an answer
        extra["error"] = type(error).__name__
        log.error("commitment report not entered", extra=extra)  # noqa: TRY400 - its text may hold values
        return PROCESSING_FAILURE, report
    log.info("commitment report" if known else "unknown commitment report", extra=extra)
    return (SUCCESS if known else INVALID_ARGUMENT), report
