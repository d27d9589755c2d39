"""Finding the rectangles that people drew, whatever object carries them."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pydicom import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from dicom_node.attributes import readable, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.images import LABEL_MAP_SEGMENTATION, MrImage
from dicom_node.own import is_own
from dicom_node.roi import gsps, key_objects, overlay, rtstruct, seg, sr, versions
from dicom_node.roi.reading import KeyImage, RoiReading
from dicom_node.roi.study_images import StudyImages
from dicom_node.silence import silence

__all__ = ["KeyImage", "RoiReading", "read_rois"]

Reader: TypeAlias = Callable[[Dataset, StudyImages], RoiReading]

READERS: Final[dict[str, Reader]] = {
    BasicTextSRStorage: sr.read,
    EnhancedSRStorage: sr.read,
    ComprehensiveSRStorage: sr.read,
    Comprehensive3DSRStorage: sr.read,
    ExtensibleSRStorage: sr.read,
    KeyObjectSelectionDocumentStorage: key_objects.read,
    GrayscaleSoftcopyPresentationStateStorage: gsps.read,
    ColorSoftcopyPresentationStateStorage: gsps.read,
    SegmentationStorage: seg.read,
    LABEL_MAP_SEGMENTATION: seg.read,
    RTStructureSetStorage: rtstruct.read,
}
"""One reader for each SOP class; Modality is often wrong."""


def read_rois(
    documents: Sequence[Dataset],
    images: Sequence[MrImage] = (),
    *,
    overlays: bool = False,
) -> RoiReading:
    """Read the rectangles that count from the documents of a study.

    A reader may save a mark many times: the newest version of each author and lesion
    counts, and none that another document names as its predecessor. Our own objects
    carry the rectangle that they were given, so they are left out.

    Args:
        documents: Everything in the study that may carry a mark.
        images: The study's MR frames; a carrier in patient coordinates needs them.
        overlays: Read the overlay planes of the images, too, from their files.

    Returns:
        Rectangles in the order of the documents, and what was refused and why.
    """
    with silence():
        reading = _read_rois(
            [one for one in documents if not is_own(one)], StudyImages(tuple(images))
        )
        drawn = overlay.read(images) if overlays else RoiReading()
    return RoiReading(
        reading.rois + drawn.rois,
        reading.refused + drawn.refused,
        reading.key_images,
    )


def _read_rois(documents: Sequence[Dataset], images: StudyImages) -> RoiReading:
    replaced = _replaced(documents)
    marks: list[versions.Mark] = []
    refused: list[str] = []
    key_images: list[KeyImage] = []
    for document in documents:
        uid = text(document, "SOPInstanceUID")
        if uid in replaced:
            refused.append(f"document {uid}: another document replaces it")
            continue
        reading = _read(document, images)
        refused.extend(reading.refused)
        key_images.extend(reading.key_images)
        marks.extend(versions.mark(roi, document) for roi in reading.rois)
    current, outdated = versions.newest(marks)
    return RoiReading(current, (*refused, *outdated), tuple(key_images))


def _replaced(documents: Sequence[Dataset]) -> set[str]:
    """Return the UIDs of replaced documents; a damaged document replaces none."""
    found: set[str] = set()
    for document in documents:
        try:
            with readable("the predecessors"):
                found |= versions.replaced_by(document)
        except UnreadableObjectError:
            continue
    return found


def _read(document: Dataset, images: StudyImages) -> RoiReading:
    uid = text(document, "SOPInstanceUID")
    reader = READERS.get(text(document, "SOPClassUID"))
    if reader is None:
        return RoiReading()
    try:
        with readable(f"document {uid}"):
            return reader(document, images)
    except UnreadableObjectError as error:
        return RoiReading(refused=(str(error),))
