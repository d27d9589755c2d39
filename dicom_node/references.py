"""Which images a document refers to, whatever kind of document it is.

Each kind keeps its references elsewhere: an SR in its content and its evidence, a
presentation state, a segmentation and a structure set in sequences of their own. All
of them are items with a Referenced SOP Instance UID (0008,1155), so all are looked
through, within bounds: a file may be nested or repeated without end.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.tag import BaseTag

from dicom_node.attributes import PARSE_ERRORS, VALUE_ERRORS, read_header, text
from dicom_node.completion import IMAGES, REFERRING
from dicom_node.errors import UnreadableObjectError
from dicom_node.own import is_own
from dicom_node.silence import silence
from dicom_node.study import SopInstanceUid, StoredInstance, is_valid_uid

MAX_DEPTH: Final = 64
MAX_ITEMS: Final = 100_000
MAX_REFERENCES: Final = 2000
"""Images of one document that are remembered; a study of them all has one of them."""


def image_references(dataset: Dataset) -> tuple[SopInstanceUid, ...]:
    """Return the MR images that a document refers to, each once, in its order.

    A reference whose SOP class is not stated counts as one to an image.
    """
    found: dict[SopInstanceUid, None] = {}
    with silence():
        for item in _items(dataset):
            uid = text(item, "ReferencedSOPInstanceUID")
            sop_class = text(item, "ReferencedSOPClassUID")
            if is_valid_uid(uid) and (sop_class in IMAGES or not sop_class):
                found[SopInstanceUid(uid)] = None
            if len(found) == MAX_REFERENCES:
                break
    return tuple(found)


def foreign_references(
    stored: Sequence[StoredInstance],
) -> Mapping[SopInstanceUid, tuple[SopInstanceUid, ...]]:
    """Return the images outside a study that its documents refer to.

    Args:
        stored: The objects of one study, with absolute paths. What does not parse,
            and what an installation of Sentinode wrote, refers to nothing.
    """
    known = {one.sop_instance_uid for one in stored}
    found = {}
    for one in stored:
        if one.sop_class_uid not in REFERRING:
            continue
        outside = [uid for uid in _references_of(one) if uid not in known]
        if outside:
            found[one.sop_instance_uid] = tuple(outside)
    return found


def _references_of(stored: StoredInstance) -> tuple[SopInstanceUid, ...]:
    try:
        dataset = read_header(stored.path)
        return () if is_own(dataset) else image_references(dataset)
    except (UnreadableObjectError, FileNotFoundError, *PARSE_ERRORS):
        return ()  # a file that retention took was read before


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the items of all sequences, outer ones first, within the bounds."""
    waiting = deque([(dataset, 0)])
    seen = 0
    while waiting:
        item, depth = waiting.popleft()
        if depth:
            yield item
        if depth == MAX_DEPTH:
            continue
        for child in _children(item):
            seen += 1
            if seen > MAX_ITEMS:
                return
            waiting.append((child, depth + 1))


def _children(item: Dataset) -> Iterator[Dataset]:
    for tag in item.keys():  # noqa: SIM118 - iteration would parse each value
        if not _is_sequence(item, tag):
            continue
        try:
            value = item[tag].value
        except VALUE_ERRORS:
            continue
        yield from (one for one in value or () if isinstance(one, Dataset))


def _is_sequence(item: Dataset, tag: BaseTag) -> bool:
    element: Any = item.get_item(tag)  # raw or not; the stub knows one kind alone
    return (element.VR or _known_vr(tag)) == "SQ"


def _known_vr(tag: BaseTag) -> str:
    """Return the VR of an element that does not state it (Implicit VR)."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
