"""Finding the rectangles that people drew, whatever object carries them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias

from pydicom import Dataset

from dicom_node.attributes import number, readable, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Roi
from dicom_node.own import is_own
from dicom_node.roi import gsps, sr
from dicom_node.roi.reading import RoiReading
from dicom_node.silence import silence

__all__ = ["RoiReading", "read_rois"]

Reader: TypeAlias = Callable[[Dataset], RoiReading]
Age: TypeAlias = tuple[datetime, int, str]

READERS: Final[dict[str, Reader]] = {"SR": sr.read, "PR": gsps.read}
"""One reader for each Modality of a document."""

NEVER: Final = datetime.min.replace(tzinfo=UTC)


def read_rois(documents: Sequence[Dataset]) -> RoiReading:
    """Read the rectangles that count from the documents of a study.

    A reader may save a mark many times. For each author and lesion (tracking UID,
    else label, else the series of documents) the newest document wins; a document
    that another one names as its predecessor counts no more. Our own reports carry
    the rectangle that they were given, so they are left out.

    Returns:
        Rectangles in the order of the documents, and what was refused and why.
    """
    with silence():
        return _read_rois(documents)


def _read_rois(documents: Sequence[Dataset]) -> RoiReading:
    theirs = [document for document in documents if not is_own(document)]
    replaced = {uid for document in theirs for uid in _predecessors(document)}
    newest: dict[tuple[object, ...], tuple[Age, list[Roi]]] = {}
    refused: list[str] = []
    for document in theirs:
        if text(document, "SOPInstanceUID") in replaced:
            continue
        reading = _read(document)
        refused.extend(reading.refused)
        _keep_newest(newest, document, reading.rois)
    rois = [roi for _, kept in newest.values() for roi in kept]
    return RoiReading(tuple(rois), tuple(refused))


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


def _keep_newest(
    newest: dict[tuple[object, ...], tuple[Age, list[Roi]]],
    document: Dataset,
    rois: Sequence[Roi],
) -> None:
    series, uid = text(document, "SeriesInstanceUID"), text(document, "SOPInstanceUID")
    for roi in rois:
        lesion = roi.tracking_uid or roi.label or series
        key = (roi.author, lesion)
        age = (roi.marked_at or NEVER, number(document, "InstanceNumber") or 0, uid)
        kept = newest.get(key)
        if kept is None or age > kept[0]:
            newest[key] = (age, [roi])
        elif age == kept[0]:
            kept[1].append(roi)


def _predecessors(document: Dataset) -> set[str]:
    return {
        text(instance, "ReferencedSOPInstanceUID")
        for study in document.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    }
