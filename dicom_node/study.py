"""What a study is to Sentinode: identifiers, states, reasons, received instances."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, NewType, Self

StudyUid = NewType("StudyUid", str)
SopInstanceUid = NewType("SopInstanceUid", str)

UID_PATTERN: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", re.ASCII)
"""Components without leading zeros, joined by dots (DICOM PS3.5 section 9.1)."""

UID_MAX_LENGTH: Final = 64
MAX_PORT: Final = 65535
BY_TLS: Final = "tls:"
"""Before a peer that is called by TLS."""
AE_TITLE_PATTERN: Final = re.compile(r"(?! +$)[ -\[\]-~]{1,16}", re.ASCII)
"""1-16 characters of the default repertoire, no backslash, not blank (PS3.5 6.2)."""


def is_valid_uid(text: str) -> bool:
    """Say whether text is a UID by PS3.5 section 9.1; anything else is refused."""
    return len(text) <= UID_MAX_LENGTH and UID_PATTERN.fullmatch(text) is not None


class StudyState(StrEnum):
    """Where a study stands in the ledger (not its clinical pathway)."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    ANALYZING = "analyzing"
    ANALYZED = "analyzed"
    HELD = "held"
    IGNORED = "ignored"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a study is held, ignored or failed; stable codes for scripts and metrics."""

    NO_ROI = "no_roi"
    NO_DCE_PHASE = "no_dce_phase"
    ROI_CONFLICT = "roi_conflict"
    ROI_OUTSIDE_IMAGE = "roi_outside_image"
    ROI_IMAGE_MISSING = "roi_image_missing"
    ROI_UNREADABLE = "roi_unreadable"
    PHASE_AMBIGUOUS = "phase_ambiguous"
    LATERALITY_UNKNOWN = "laterality_unknown"
    QUALITY = "quality"
    DUPLICATE_DIFFERS = "duplicate_differs"
    PATIENT_MISMATCH = "patient_mismatch"
    INCOMPLETE = "incomplete"
    IMAGES_PURGED = "images_purged"
    NOT_BREAST_MR = "not_breast_mr"
    ANNOTATES_OTHER_STUDY = "annotates_other_study"
    UNREADABLE = "unreadable"
    NO_MODEL = "no_model"
    BY_HAND = "by_hand"
    EXCLUDED_BY_RULE = "excluded_by_rule"
    NO_RULE = "no_rule"
    DOCUMENT_INVALID = "document_invalid"
    ANALYSIS_ERROR = "analysis_error"
    WORKER_LOST = "worker_lost"


class Duplicate(StrEnum):
    """What becomes of another object under a SOP Instance UID that is held.

    Whatever is chosen, the first stays, and one of another patient is quarantined.
    """

    QUARANTINE = "quarantine"
    IGNORE = "ignore"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM application entity on the network, written AET@HOST:PORT.

    One that is called by TLS is written tls:AET@HOST:PORT.
    """

    ae_title: str
    host: str
    port: int
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read AET@HOST:PORT or tls:AET@HOST:PORT.

        Raises:
            ValueError: The text has another form, or a part is out of range.
        """
        tls = text.startswith(BY_TLS)
        ae_title, at, address = text.removeprefix(BY_TLS).partition("@")
        host, colon, port = address.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        well_formed = at and colon and host and port.isdecimal()
        if not well_formed or "[" in host or "]" in host:
            raise ValueError(f"{text!r} is not of the form [tls:]AET@HOST:PORT")
        if not AE_TITLE_PATTERN.fullmatch(ae_title):
            raise ValueError(f"{ae_title!r} is not an AE title of 1-16 characters")
        if not 0 < int(port) <= MAX_PORT:
            raise ValueError(f"port {port} is not in 1-65535")
        return cls(ae_title, host, int(port), tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = BY_TLS if self.tls else ""
        return f"{scheme}{self.ae_title}@{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Patient:
    """Who an object is of, as keyed hashes: of the ID alone, and of issuer and ID.

    `issuer_key` is None when the object names no issuer.
    """

    key: str
    issuer_key: str | None

    def differs(self, other: "Patient") -> bool:
        """Say whether two objects cannot be of one patient."""
        if self.key != other.key:
            return True
        issuers = {self.issuer_key, other.issuer_key}
        return None not in issuers and len(issuers) > 1


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One durable instance, as the listener hands it to the ledger.

    All of it can be read back from the file alone, so a lost row can be rebuilt.
    `path` is relative to the spool; `sha256` covers the encoded data set without
    file meta information; `patient_key` is a keyed hash of the Patient ID, never the
    ID, and `issuer_key` one of issuer and ID, when there is an issuer.
    """

    study_uid: StudyUid
    series_uid: str
    sop_instance_uid: SopInstanceUid
    sop_class_uid: str
    transfer_syntax_uid: str
    path: Path
    size: int
    sha256: str
    patient_key: str
    calling_ae: str
    received_at: datetime
    issuer_key: str | None = None

    @property
    def patient(self) -> Patient:
        """Who the instance is of."""
        return Patient(self.patient_key, self.issuer_key)


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance of a study, as the ledger hands it to the readers."""

    sop_instance_uid: SopInstanceUid
    series_uid: str
    sop_class_uid: str
    path: Path
    sha256: str
