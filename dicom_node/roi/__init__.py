"""Finding the rectangles that people drew, whatever object carries them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

from pydicom import Dataset

from dicom_node.attributes import number, readable, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Roi
from dicom_node.images import MrImage
from dicom_node.own import is_own
from dicom_node.roi import gsps, sr
from dicom_node.roi.reading import RoiReading
from dicom_node.silence import silence

__all__ = ["RoiReading", "read_rois"]

Reader: TypeAlias = Callable[[Dataset], RoiReading]
Age: TypeAlias = tuple[datetime, int]
Lesion: TypeAlias = tuple[str | None, str]

READERS: Final[dict[str, Reader]] = {"SR": sr.read, "PR": gsps.read}
"""One reader for each Modality of a document."""

NEVER: Final = datetime.min.replace(tzinfo=UTC)


def read_rois(
    documents: Sequence[Dataset], images: Sequence[MrImage] = ()
) -> RoiReading:
    """Read the rectangles that count from the documents of a study.

    A reader may save a mark many times. For each author and lesion (tracking UID,
    else label, else the series of documents) the newest document wins; documents of
    the same second stand side by side. One that another names as its predecessor
    counts no more. Our own reports carry the rectangle that they were given, so they
    are left out.

    Args:
        documents: Everything in the study that may carry a mark.
        images: The study's MR frames; a carrier in patient coordinates needs them.

    Returns:
        Rectangles in the order of the documents, and what was refused and why.
    """
    del images
    with silence():
        return _read_rois([one for one in documents if not is_own(one)])


def _read_rois(documents: Sequence[Dataset]) -> RoiReading:
    replaced = {uid for document in documents for uid in _predecessors(document)}
    marks: list[_Mark] = []
    refused: list[str] = []
    for document in documents:
        uid = text(document, "SOPInstanceUID")
        if uid in replaced:
            refused.append(f"document {uid}: another document replaces it")
            continue
        reading = _read(document)
        refused.extend(reading.refused)
        marks.extend(_mark(roi, document) for roi in reading.rois)
    newest: dict[Lesion, Age] = {}
    for mark in marks:
        newest[mark.lesion] = max(mark.age, newest.get(mark.lesion, mark.age))
    current = tuple(mark.roi for mark in marks if mark.age == newest[mark.lesion])
    outdated = {
        f"document {mark.roi.carrier_sop_instance_uid}: a newer version of its mark "
        "is there"
        for mark in marks
        if mark.age != newest[mark.lesion]
    }
    return RoiReading(current, (*refused, *sorted(outdated)))


@dataclass(frozen=True, slots=True)
class _Mark:
    roi: Roi
    lesion: Lesion
    age: Age


def _mark(roi: Roi, document: Dataset) -> _Mark:
    """Say which lesion of which author a rectangle marks, and when it was saved."""
    series = text(document, "SeriesInstanceUID")
    lesion = (roi.author, roi.tracking_uid or roi.label or series)
    saved = number(document, "InstanceNumber") or 0
    age = (roi.marked_at, 0) if roi.marked_at else (NEVER, saved)
    return _Mark(roi, lesion, age)


def _read(document: Dataset) -> RoiReading:
    uid = text(document, "SOPInstanceUID")
    reader = READERS.get(text(document, "Modality"))
    if reader is None:
        return RoiReading()
    try:
        with readable(f"document {uid}"):
            return reader(document)
    except UnreadableObjectError as error:
        return RoiReading(refused=(str(error),))


def _predecessors(document: Dataset) -> set[str]:
    return {
        text(instance, "ReferencedSOPInstanceUID")
        for study in document.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    }
