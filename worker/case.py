"""The values of a case between the pipeline and the database; no torch here."""

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

from dicom_node.findings import (
    CaseFinding,
    Document,
    Laterality,
    Selection,
    SlndResult,
    StageFinding,
)
from dicom_node.study import SopInstanceUid

RESULTS: Final = uuid.UUID("5d2c6a4e-3f0b-5b7e-9c51-0f6d6f1a7c11")
"""Name space of the identifiers of cases and results; never change it."""


@dataclass(frozen=True, slots=True)
class SiteThreshold:
    """A threshold that the site set in place of the manifest's, and why."""

    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class PriorResult:
    """The newest result of a case, and whether it must be computed or written anew.

    `report` is the absolute path of its SR, which the next version points to. `kept`
    is what was chosen then, on the slice that was kept; looked up when the images
    were purged, None when the slice is gone too.
    """

    result_id: str
    version: int
    input_sha256: str
    stale: bool
    sln: StageFinding
    nsln: StageFinding
    slnd: SlndResult | None
    report: Path | None
    kept: Selection | None = None
    rewrite: bool = False


@dataclass(frozen=True, slots=True)
class KeptInput:
    """What outlives the images: the encoded crop, and the slice at `slice_path`.

    `slice_path` is absolute; `slice_sha256` covers its data set.
    """

    crop: bytes = field(repr=False)
    crop_sha256: str
    slice_path: Path
    slice_sha256: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time of the parts of one case, in milliseconds."""

    select_ms: float
    decode_ms: float
    inference_ms: float
    report_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class AnalyzedCase:
    """A new version of a case: what was found, and the objects that say so.

    `studied_on` is the day of the MRI by its header, None when that has none.
    """

    case_id: str
    finding: CaseFinding
    documents: tuple[Document, ...]
    input_sop_instance_uids: tuple[SopInstanceUid, ...]
    input_sha256: str
    supersedes: str | None
    timings: Timings
    kept: KeptInput
    studied_on: date | None = None


def input_sha256(
    slice_sha256: str, frame: int, box: tuple[float, float, float, float]
) -> str:
    """Digest what the networks see: the slice's data set, the frame, the rectangle."""
    seen = {"dataset": slice_sha256, "frame": frame, "box": box}
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def case_id(study_uid: str, side: Laterality) -> str:
    """Return the identifier of the case: the same study and side, the same text."""
    return str(uuid.uuid5(RESULTS, f"{study_uid}/{side}"))
