"""Which of several versions of a mark counts: a reader may save it many times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

from pydicom import Dataset

from dicom_node.attributes import number, text
from dicom_node.findings import Roi

Age: TypeAlias = tuple[datetime, int]
Lesion: TypeAlias = tuple[str | None, str]

NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle, which lesion of which author it marks, and when it was saved."""

    roi: Roi
    lesion: Lesion
    age: Age


def mark(roi: Roi, document: Dataset) -> Mark:
    """Say which lesion a rectangle marks: tracking UID, else label, else the series."""
    series = text(document, "SeriesInstanceUID")
    lesion = (roi.author, roi.tracking_uid or roi.label or series)
    saved = number(document, "InstanceNumber") or 0
    age = (roi.marked_at, 0) if roi.marked_at else (NEVER, saved)
    return Mark(roi, lesion, age)


def newest(marks: Sequence[Mark]) -> tuple[tuple[Roi, ...], tuple[str, ...]]:
    """Keep the newest document of each author and lesion.

    Documents of the same second stand side by side: they are lesions, not versions.

    Returns:
        The rectangles that count, in order, and a sentence for each other document.
    """
    ages: dict[Lesion, Age] = {}
    for one in marks:
        ages[one.lesion] = max(one.age, ages.get(one.lesion, one.age))
    current = tuple(one.roi for one in marks if one.age == ages[one.lesion])
    outdated = {
        f"document {one.roi.carrier_sop_instance_uid}: a newer version of its mark "
        "is there"
        for one in marks
        if one.age != ages[one.lesion]
    }
    return current, tuple(sorted(outdated))


def replaced_by(document: Dataset) -> set[str]:
    """Return the UIDs of the documents that one names as its predecessors."""
    references = [
        instance
        for study in document.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    ]
    references += document.get("PredecessorStructureSetSequence") or ()
    uids = {text(one, "ReferencedSOPInstanceUID") for one in references}
    return uids - {text(document, "SOPInstanceUID")}
