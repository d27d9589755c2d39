"""One received data set: checked, made durable, and described for the ledger.

What this returns has kept the promise that Success gives: a file from which the row
can be rebuilt. The data set itself is never decoded.
"""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from dicom_node.draft import Bytes, Draft
from dicom_node.errors import PermanentError, SpoolFullError, UnreadableObjectError
from dicom_node.header import Header, read_header
from dicom_node.ledger import Conflict, issuer_key, patient_key
from dicom_node.part10 import FileMeta, encode_meta, read_meta
from dicom_node.spool import Encoded, Outcome, Spool, SpooledFile, spool_errors
from dicom_node.study import (
    Duplicate,
    Patient,
    ReceivedInstance,
    SopInstanceUid,
    StudyUid,
    is_valid_uid,
)

log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DIFFERS: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
INVALID_SOP_UID: Final = 0xC001
INVALID_STUDY_UID: Final = 0xC002

LOOK_EVERY: Final = 2**23
"""Bytes of an object after which it is asked again whether there is room."""


class StoreRefusedError(PermanentError):
    """An object that is not kept; `status` goes to the sender."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE request: what it says of its data set, and the encoded data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    dataset: io.BytesIO


@dataclass(frozen=True, slots=True)
class Intake:
    """Where instances go, how patients are hashed, and how much may come."""

    spool: Spool
    secret: bytes
    min_free_bytes: int
    max_instance_bytes: int
    duplicate: Duplicate = Duplicate.QUARANTINE

    def keep(self, request: StoreRequest) -> ReceivedInstance | Conflict:
        """Make a received data set durable.

        Returns:
            The instance; the one that was there if it is the same, or if others are
            ignored; or a conflict when another one was there: then the new one lies
            in quarantine.

        Raises:
            StoreRefusedError: It is not an object that can be kept.
            SpoolFullError: There is no room for it now.
        """
        size = request.dataset.getbuffer().nbytes
        self._check_size(size)
        self._check_room(size)
        meta = FileMeta(
            request.sop_class_uid,
            request.sop_instance_uid,
            request.transfer_syntax_uid,
            request.calling_ae,
        )
        request.dataset.seek(0)
        header = _checked_header(meta, request.dataset)
        encoded = Encoded(
            study_uid=StudyUid(header.study_uid),
            sop_instance_uid=SopInstanceUid(header.sop_instance_uid),
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            calling_ae=request.calling_ae,
            dataset=request.dataset.getbuffer(),
        )
        file = self.spool.write_instance(encoded)
        aside = partial(self.spool.quarantine, encoded)
        return self._kept(header, meta, file, aside)

    def begin(self, meta: FileMeta) -> Draft:
        """Begin the file of a data set that is on its way, for `keep_draft`.

        Raises:
            SpoolFullError: There is no room for it now.
        """
        self._check_room(0)
        return self.spool.draft(encode_meta(meta))

    def write(self, draft: Draft, part: Bytes) -> None:
        """Add to a file what came of its data set.

        Raises:
            SpoolFullError: There is no room for it; the draft is of no use any more.
        """
        if draft.size // LOOK_EVERY != (draft.size + len(part)) // LOOK_EVERY:
            self._check_room(len(part))
        with spool_errors():
            draft.write(part)

    def keep_draft(self, meta: FileMeta, draft: Draft) -> ReceivedInstance | Conflict:
        """Make a data set durable that was written to its file as it came; see `keep`.

        The caller closes the draft, and may call this again before.

        Raises:
            StoreRefusedError: It is not an object that can be kept.
            SpoolFullError: There is no room for it now.
        """
        self._check_size(draft.content_size)
        self._check_room(0)
        with spool_errors(), draft.path.open("rb") as written:
            written.seek(draft.content_at)
            header = _checked_header(meta, written)
        uids = (header.study_uid, header.sop_instance_uid)
        file = self.spool.settle(draft, *uids)
        aside = partial(self.spool.settle_aside, draft, *uids)
        return self._kept(header, meta, file, aside)

    def _kept(
        self,
        header: Header,
        meta: FileMeta,
        file: SpooledFile,
        aside: Callable[[], SpooledFile],
    ) -> ReceivedInstance | Conflict:
        """Say what a durable file is; `aside` puts an object that differs elsewhere."""
        if file.outcome is Outcome.NEW:
            return self._received(
                header, meta.transfer_syntax_uid, meta.calling_ae, file
            )
        first = self.rebuild(file.path)
        if file.outcome is Outcome.SAME:
            return first
        differs = first.patient.differs(self._patient(header))
        if self.duplicate is not Duplicate.QUARANTINE and not differs:
            return self._not_taken(first)
        return Conflict(self.rebuild(aside().path), differs)

    def rebuild(self, path: Path) -> ReceivedInstance:
        """Describe an instance or a quarantined object from its file alone.

        Raises:
            UnreadableObjectError: The file is damaged, or not one of ours.
            SpoolFullError: The volume fails.
        """
        file = self.spool.describe(path)
        with self.spool.open(path) as stream:
            meta = read_meta(stream)
            header = read_header(stream, meta.transfer_syntax_uid)
        return self._received(header, meta.transfer_syntax_uid, meta.calling_ae, file)

    def _check_size(self, size: int) -> None:
        if size > self.max_instance_bytes:
            raise SpoolFullError(f"an instance of {size} bytes is too large")

    def _check_room(self, size: int) -> None:
        if self.spool.free_bytes() < self.min_free_bytes + size:
            raise SpoolFullError("the spool volume is nearly full")

    def _not_taken(self, first: ReceivedInstance) -> ReceivedInstance:
        """Leave out another object of the same patient, as the site has it."""
        if self.duplicate is Duplicate.REJECT:
            text = "another object is stored under this UID"
            raise StoreRefusedError(DUPLICATE_SOP_INSTANCE, text)
        log.warning("duplicate ignored", extra={"study_uid": first.study_uid})
        return first

    def _patient(self, header: Header) -> Patient:
        return Patient(
            patient_key(self.secret, header.patient_id),
            issuer_key(self.secret, header.issuer, header.patient_id),
        )

    def _received(
        self,
        header: Header,
        transfer_syntax_uid: str,
        calling_ae: str,
        file: SpooledFile,
    ) -> ReceivedInstance:
        patient = self._patient(header)
        return ReceivedInstance(
            study_uid=StudyUid(header.study_uid),
            series_uid=header.series_uid,
            sop_instance_uid=SopInstanceUid(header.sop_instance_uid),
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            path=file.path,
            size=file.size,
            sha256=file.sha256,
            patient_key=patient.key,
            calling_ae=calling_ae,
            received_at=file.received_at,
            issuer_key=patient.issuer_key,
        )


def _checked_header(meta: FileMeta, dataset: BinaryIO) -> Header:
    """Read the header and compare it with the request; UIDs are trusted after that."""
    try:
        header = read_header(dataset, meta.transfer_syntax_uid)
    except UnreadableObjectError as error:
        raise StoreRefusedError(CANNOT_UNDERSTAND, str(error)) from None
    if not (
        is_valid_uid(header.sop_instance_uid) and is_valid_uid(header.sop_class_uid)
    ):
        raise StoreRefusedError(INVALID_SOP_UID, "an SOP UID is not a UID")
    if not (is_valid_uid(header.study_uid) and is_valid_uid(header.series_uid)):
        raise StoreRefusedError(INVALID_STUDY_UID, "a study or series UID is not a UID")
    said = (meta.sop_class_uid, meta.sop_instance_uid)
    if (header.sop_class_uid, header.sop_instance_uid) != said:
        raise StoreRefusedError(
            DATA_SET_DIFFERS, "the data set is not what was announced"
        )
    return header
