"""Getting studies from an archive: C-FIND, then C-MOVE to us, or C-GET (PS3.4 C.4).

C-MOVE sends to our listener, so the archive must know our AE title and address. C-GET
needs no more than the one association. Only series of modalities that can matter are
asked for.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context, build_role

from dicom_node import contexts
from dicom_node.association import associate, end, status_of
from dicom_node.attributes import number, text
from dicom_node.codestream import UNCOMPRESSED
from dicom_node.deposit import Deposit
from dicom_node.errors import PeerUnavailableError
from dicom_node.intake import SUCCESS
from dicom_node.retrieve import FIND, PENDING, Archive, find, judge
from dicom_node.storage import refusal, request_of
from dicom_node.study import Peer, StudyUid, is_valid_uid
from dicom_node.tls import Calling

log = logging.getLogger(__name__)

MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
"""Study Root Query/Retrieve Information Models - MOVE and GET."""

MODALITIES: Final = frozenset(
    {"MR", "SR", "PR", "KO", "SEG", "RTSTRUCT", "OT", "SC", ""}
)
"""Of series that may hold images or marks for us; "" is a series that does not say."""

WARNING: Final = 0xB000
"""Some sub-operations failed; the counts say how many."""


@dataclass(frozen=True, slots=True)
class Match:
    """A study at the archive; nothing here names the patient."""

    study_uid: StudyUid
    study_date: str
    modalities: str
    instances: int | None


@dataclass(frozen=True, slots=True)
class Moved:
    """How the sub-operations of one study ended."""

    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for; empty means any. Dates are YYYYMMDD, or ranges A-B."""

    study_uid: str = ""
    accession: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    dates: str = ""
    modality: str = "MR"


def studies(archive: Archive, query: Query) -> Iterator[Match]:
    """Yield the studies that match, each once.

    Raises:
        PeerUnavailableError: No answer in time, or the archive is out of resources.
        PeerRejectedError: The archive cannot process the query.
    """
    seen = set()
    matches = find(
        archive,
        "STUDY",
        StudyInstanceUID=query.study_uid,
        AccessionNumber=query.accession,
        PatientID=query.patient_id,
        StudyDate=query.dates,
        ModalitiesInStudy=query.modality,
        NumberOfStudyRelatedInstances="",
    )
    for each in matches:
        uid = text(each, "StudyInstanceUID")
        if uid in seen or not is_valid_uid(uid):
            continue
        seen.add(uid)
        held = each.get("ModalitiesInStudy") or ""
        modalities = [held] if isinstance(held, str) else [str(one) for one in held]
        if query.modality and modalities != [""] and query.modality not in modalities:
            continue  # an archive that does not match on it still tells
        yield Match(
            StudyUid(uid),
            text(each, "StudyDate"),
            "\\".join(modalities),
            number(each, "NumberOfStudyRelatedInstances"),
        )


def series(archive: Archive, uid: StudyUid) -> list[str]:
    """Return the series of a study that may matter."""
    wanted = {"StudyInstanceUID": uid, "SeriesInstanceUID": "", "Modality": ""}
    return [
        text(one, "SeriesInstanceUID")
        for one in find(archive, "SERIES", **wanted)
        if text(one, "Modality") in MODALITIES and text(one, "SeriesInstanceUID")
    ]


def move_context() -> PresentationContext:
    """Return the context that `move` needs, to open an association with."""
    return build_context(MOVE, list(UNCOMPRESSED))


def move(archive: Archive, uid: StudyUid, to_aet: str) -> Moved:
    """Have the archive send a study to our listener, series by series.

    Raises:
        PeerUnavailableError: The archive does not answer or has no resources.
        PeerRejectedError: It refuses; 0xA801 means that it does not know `to_aet`.
    """
    total = Moved(0, 0)
    for each in series(archive, uid):
        answers = archive.association.send_c_move(_identifier(uid, each), to_aet, MOVE)
        total = _sum(total, _followed(archive.peer, answers))
    return total


def get(
    peer: Peer, calling: Calling, uids: list[StudyUid], deposit: Deposit, timeout: float
) -> Iterator[tuple[StudyUid, Moved]]:
    """Get studies over one association; each object is durable before its Success.

    Raises:
        PeerUnavailableError: The archive is not there, or has no resources.
        PeerRejectedError: It refuses.
    """
    stored = [*contexts.IMAGES, *contexts.SEGMENTATIONS, *contexts.DOCUMENTS]
    wanted = [
        context
        for context in contexts.accepted()
        if str(context.abstract_syntax) in stored
    ]
    find_and_get = [build_context(uid, list(UNCOMPRESSED)) for uid in (FIND, GET)]
    association = associate(
        peer,
        calling,
        [*find_and_get, *wanted],
        timeout,
        [(evt.EVT_C_STORE, _store, [deposit, peer.ae_title])],
        [build_role(str(each.abstract_syntax), scp_role=True) for each in wanted],
    )
    archive = Archive(peer, association, timeout)
    try:
        for uid in uids:
            total = Moved(0, 0)
            for each in series(archive, uid):
                answers = association.send_c_get(_identifier(uid, each), GET)
                total = _sum(total, _followed(peer, answers))
            yield uid, total
    finally:
        end(association)


def _store(event: Event, deposit: Deposit, calling_ae: str) -> int:
    """Take one object of a C-GET as the listener would take it."""
    try:
        deposit.put(request_of(event, calling_ae))
    except Exception as error:  # noqa: BLE001 - the peer gets a status, whatever went wrong
        refused = refusal(error)
        extra = {
            "calling_ae": calling_ae,
            "status": f"0x{refused.status:04X}",
            "why": refused.why,
        }
        log.warning("object of a retrieval refused", extra=extra)
        return refused.status
    return SUCCESS


def _identifier(uid: StudyUid, series_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = uid
    identifier.SeriesInstanceUID = series_uid
    return identifier


def _followed(peer: Peer, answers: Iterator[tuple[Dataset, Dataset | None]]) -> Moved:
    """Follow one retrieval to its end and return its counts."""
    completed = failed = 0
    try:
        for status, _ in answers:
            code = status_of(status)
            completed = int(status.get("NumberOfCompletedSuboperations") or completed)
            failed = int(status.get("NumberOfFailedSuboperations") or failed)
            if code not in PENDING and code != WARNING:
                judge(peer, code)
    except (RuntimeError, ValueError) as error:
        raise PeerUnavailableError(f"{peer} takes no retrieval now") from error
    return Moved(completed, failed)


def _sum(one: Moved, other: Moved) -> Moved:
    return Moved(one.completed + other.completed, one.failed + other.failed)
