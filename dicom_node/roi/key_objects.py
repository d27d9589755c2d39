"""Key Object Selection: which slice a person singled out; never a rectangle."""

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset

from dicom_node.attributes import text
from dicom_node.roi.reading import MAX_MARKS, Found, KeyImage, RoiReading
from dicom_node.roi.study_images import NotPlacedError, StudyImages
from dicom_node.study import SopInstanceUid

OF_INTEREST: Final = frozenset(
    {
        "113000",  # Of Interest
        "113002",  # For Referring Provider
        "113003",  # For Surgery
        "113004",  # For Teaching
        "113005",  # For Conference
        "113006",  # For Therapy
        "113007",  # For Patient
        "113008",  # For Peer Review
        "113009",  # For Research
        "113013",  # Best In Set
        "113020",  # For Report Attachment
    }
)
"""Document titles of CID 7010 that single out an image for what it shows.

Rejections, quality issues, manifests and print jobs single out nothing.
"""


def read(document: Dataset, images: StudyImages) -> RoiReading:
    """Read which frames one key object selection points to."""
    carrier = SopInstanceUid(text(document, "SOPInstanceUID"))
    titles = document.get("ConceptNameCodeSequence") or ()
    if not titles or text(titles[0], "CodeValue") not in OF_INTEREST:
        return RoiReading()
    found = Found(f"key object selection {carrier}")
    keys: dict[KeyImage, None] = {}
    for reference in _references(document):
        try:
            for uid, frame in images.targets(reference):
                keys[KeyImage(uid, frame, carrier)] = None
        except NotPlacedError as error:
            found.refuse(str(error))
        if len(keys) > MAX_MARKS:
            found.refuse(f"it selects more than {MAX_MARKS} images, so none stands out")
            return RoiReading(refused=tuple(found.refused))
    return RoiReading(refused=tuple(found.refused), key_images=tuple(keys))


def _references(document: Dataset) -> Iterator[Dataset]:
    for item in document.get("ContentSequence") or ():
        if text(item, "ValueType") == "IMAGE":
            yield from item.get("ReferencedSOPSequence") or ()
