"""A cohort for others: slices and rectangles that no longer say whose they are.

Pseudonyms, UIDs and the shift of a patient's dates are keyed hashes under the site's
key: the same each time, and of no use to whoever has not got it. Rectangles are
written anew, so that nothing of the reader's document leaves. What is written is
searched for what identified the patient, and a case in which any of it is found stays.

    export.json           what was kept, replaced and removed, and who is not in it
    cohort.csv            labels and clinical variables, ages capped
    cases/<id>/image.dcm  the marked slice
    cases/<id>/roi.dcm    the rectangle on it, a structured report
"""

import csv
import hmac
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite

from dicom_node.attributes import study_day, text
from dicom_node.errors import SettingsError, UnreadableObjectError
from dicom_node.images import read_header
from training.deidentify import (
    BASIC_PROFILE,
    KEPT,
    KEPT_DEVICE,
    MIN_IDENTIFIER,
    MODIFIED_DATES,
    Identity,
    identifiers,
    leaks,
    marked_slice,
    refusal,
    removed,
)
from training.durable import whole_folder
from training.layout import COHORT_NAME
from training.phantom.objects import Author, Visit, sr_rectangle
from training.row import CohortRow, cells
from training.snapshot import Snapshot, Tick, reasons

EXPORT_NAME: Final = "export.json"
COLUMNS: Final = (
    *("case_id", "study_uid", "patient_key", "centre", "cohort", "role"),
    *("laterality", "sln", "nsln", "size_cm", "age", "menopause", "histology"),
    *("grade", "subtype", "birads", "mri_aln", "image", "sop_instance_uid", "frame"),
    *("x0", "y0", "x1", "y1", "sln_verified", "flags"),
)
OLDEST: Final = 89
"""Ages above are given as this one: few people are so old."""

MAX_SHIFT_DAYS: Final = 3650
AUTHOR: Final = Author(name="Anonymous^", model="De-identified export")
UNDATED: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - a scanner's local clock
LEFT: Final = "identifier_left"
NOT_STATED: Final = "BurnedInAnnotation not stated: look at the images"


@dataclass(slots=True)
class _Report:
    """What an export did, for its manifest."""

    removed: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    not_stated: int = 0
    dated: int = 0


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Names under a site's key."""

    key: bytes

    def _digest(self, kind: str, said: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{said}".encode(), "sha256")

    def patient(self, patient_key: str) -> str:
        """Return the pseudonym of a patient."""
        return f"P{self._digest('patient', patient_key).hex()[:20].upper()}"

    def case(self, case_id: str) -> str:
        """Return the pseudonym of a case."""
        return f"c{self._digest('case', case_id).hex()[:16]}"

    def uid(self, uid: str) -> str:
        """Return a UID in place of another: the same for the same (PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16])}"

    def shift(self, patient_key: str) -> timedelta:
        """Return how far back all dates of a patient go: 1 to 3650 days."""
        number = int.from_bytes(self._digest("shift", patient_key)[:8])
        return timedelta(days=1 + number % MAX_SHIFT_DAYS)


def export(found: Snapshot, key: bytes, out: Path, tick: Tick) -> Mapping[str, Any]:
    """Write a cohort into a new folder, whole or not at all; `tick` after each case.

    Returns:
        The manifest.

    Raises:
        FileExistsError: Something is there already.
        SettingsError: No case may leave.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: an export is never written over")
    names, report = Pseudonyms(key), _Report()
    with whole_folder(out) as draft:
        rows = []
        for row in sorted(found.rows, key=lambda one: names.case(one.case_id)):
            written = _write_case(found.folder, row, (names, report), draft)
            tick()
            if written is not None:
                rows.append(written)
        if not rows:
            raise SettingsError(
                f"no case may leave: {dict(report.excluded)}; see the README on export"
            )
        (draft / COHORT_NAME).write_bytes(_table(rows))
        manifest = _manifest(found, rows, report)
        content = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (draft / EXPORT_NAME).write_text(content, encoding="utf-8")
    return manifest


def _write_case(
    folder: Path, row: CohortRow, how: tuple[Pseudonyms, _Report], draft: Path
) -> dict[str, str] | None:
    """Write one case; None when it must stay, which is then counted."""
    names, report = how
    try:
        header = read_header(folder / row.image)
        why = refusal(header)
        if why is not None:
            report.excluded[why] += 1
            return None
        image = marked_slice(
            folder / row.image, row.frame, _identity(row, header, names)
        )
    except UnreadableObjectError as error:
        raise SettingsError(f"case {row.case_id}: image: {error}") from error
    case_id = names.case(row.case_id)
    document = sr_rectangle(_visit(image, names, row), image, row.box, AUTHOR)
    written = _cells(row, names, image)
    contents = {"image.dcm": _encoded(image), "roi.dcm": _encoded(document)}
    everything = b"\n".join((*contents.values(), ",".join(written.values()).encode()))
    if leaks(everything, identifiers(header) | _own(row)):
        report.excluded[LEFT] += 1
        return None
    (draft / "cases" / case_id).mkdir(parents=True)
    for name, content in contents.items():
        (draft / "cases" / case_id / name).write_bytes(content)
    report.removed.update(removed(header))
    report.not_stated += not text(header, "BurnedInAnnotation")
    report.dated += bool(image.StudyDate)
    return written


def _identity(row: CohortRow, header: Dataset, names: Pseudonyms) -> Identity:
    day = study_day(header)
    return Identity(
        patient_id=names.patient(row.patient_key),
        uid=names.uid,
        day=day - names.shift(row.patient_key) if day else None,
        options=(*((MODIFIED_DATES,) if day else ()), KEPT_DEVICE),
    )


def _visit(image: Dataset, names: Pseudonyms, row: CohortRow) -> Visit:
    said = str(image.StudyDate or "")
    at = datetime.strptime(said, "%Y%m%d") if said else UNDATED  # noqa: DTZ007 - a day
    return Visit(
        key=names.uid(f"{row.case_id} rectangle"),
        patient_id=image.PatientID,
        age=0,
        at=at,
        centre=0,
    )


def _own(row: CohortRow) -> frozenset[str]:
    said = (row.case_id, row.patient_key, row.study_uid, row.sop_instance_uid)
    return frozenset(one for one in said if len(one) >= MIN_IDENTIFIER)


def _cells(row: CohortRow, names: Pseudonyms, image: Dataset) -> dict[str, str]:
    """Return the row that leaves: allowed columns only, ages capped."""
    case_id = names.case(row.case_id)
    age = None if row.age is None else float(min(int(row.age), OLDEST))
    new = row.model_copy(
        update={
            "case_id": case_id,
            "study_uid": str(image.StudyInstanceUID),
            "patient_key": names.patient(row.patient_key),
            "age": age,
            "image": Path("cases") / case_id / "image.dcm",
            "sop_instance_uid": str(image.SOPInstanceUID),
            "frame": 1,
        }
    )
    said = cells(new)
    return {name: said[name] for name in COLUMNS}


def _encoded(dataset: Dataset) -> bytes:
    stream = DicomBytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _table(rows: list[dict[str, str]]) -> bytes:
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue().encode()


def _manifest(
    found: Snapshot, rows: list[dict[str, str]], report: _Report
) -> dict[str, Any]:
    options = (*((MODIFIED_DATES,) if report.dated else ()), KEPT_DEVICE)
    return {
        "format": 1,
        "profile": " ".join(BASIC_PROFILE),
        "options": [" ".join(option) for option in options],
        "synthetic": found.synthetic,
        "cases": len(rows),
        "patients": len({row["patient_key"] for row in rows}),
        "excluded_before": reasons(found.exclusions),
        "excluded_from_export": dict(report.excluded),
        "attributes_that_may_stay": sorted(KEPT),
        "attributes_removed": dict(sorted(report.removed.items())),
        "columns": list(COLUMNS),
        "ages_above": f"{OLDEST} are given as {OLDEST}",
        "dates": "shifted by patient, times removed" if report.dated else "removed",
        "marks": "written anew as structured reports; no reader is named",
        "to_check": {NOT_STATED: report.not_stated} if report.not_stated else {},
    }
