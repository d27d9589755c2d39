"""Segmentations (PS3.3 C.8.20), one lesion for each segment.

The rectangle is the box around the segment on the slice where it covers most, one for
each of its parts there that lie far from the others: derived
from another shape, so not exact. The image is the one that the frame was derived
from; a frame that names none lies on an image by its position in the patient.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.attributes import moment, number, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Carrier, Roi
from dicom_node.roi import seg_frames
from dicom_node.roi.anatomy import names_anatomy
from dicom_node.roi.masks import APART_MM, Extent, WholeBox, boxes_of_parts, extents
from dicom_node.roi.reading import MAX_NAME, Found, RoiReading
from dicom_node.roi.seg_frames import LABELMAP
from dicom_node.roi.segmentation import Segmentation, segmentation
from dicom_node.roi.shapes import (
    Box,
    NotARectangleError,
    Points,
    Slice,
    largest,
    rectangle,
)
from dicom_node.roi.study_images import (
    NotPlacedError,
    Place,
    StudyImages,
    Target,
    named,
)
from dicom_node.study import SopInstanceUid, is_valid_uid

WHOLE: Final = 0.1
"""Pixels by which an edge may miss a whole one: positions are written rounded."""


def read(document: Dataset, images: StudyImages) -> RoiReading:
    """Read the rectangles of a segmentation, one for each part of each segment."""
    found = Found(f"segmentation {text(document, 'SOPInstanceUID')}")
    try:
        one = segmentation(document, images)
        covered = _covered(one)
        chosen = {
            segment: _largest_frame(one, frames)
            for segment, frames in covered.items()
            if segment in one.segments and not names_anatomy(one.segments[segment])
        }
        parts = _parts(one, chosen)
    except UnreadableObjectError as error:
        found.refuse(str(error))
        return found.reading()
    for segment, boxes in sorted(parts.items()):
        for box in boxes:
            _read_part(one, segment, (chosen[segment], box), found)
    for other in sorted(one.segments.keys() - chosen.keys()):
        what = "a body part, not a lesion" if other in covered else "empty"
        found.refuse(f"segment {other} is {what}")
    return found.reading()


def _labelled(one: Segmentation) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """Yield each frame (from 0) with the number of its segment in every pixel."""
    for frame, stored in enumerate(seg_frames.frames(one.document, one.size)):
        if one.size.kind == LABELMAP:
            yield frame, stored
            continue
        item = one.group(frame, "SegmentIdentificationSequence")
        segment = number(item, "ReferencedSegmentNumber") or 0
        yield frame, (stored >= one.size.threshold) * np.int32(segment)


def _covered(one: Segmentation) -> Mapping[int, dict[int, Extent]]:
    """Return what each segment covers on each frame, where it covers any."""
    covered: dict[int, dict[int, Extent]] = {}
    for frame, labels in _labelled(one):
        for segment, extent in extents(labels).items():
            covered.setdefault(segment, {})[frame] = extent
    return covered


def _largest_frame(one: Segmentation, frames: Mapping[int, Extent]) -> int:
    slices = [
        Slice(frame, extent.pixels, _height(one, frame))
        for frame, extent in frames.items()
    ]
    return largest(slices).number


def _parts(
    one: Segmentation, chosen: Mapping[int, int]
) -> Mapping[int, Sequence[WholeBox]]:
    """Return the boxes around the parts of each segment on its chosen frame.

    A segment may hold lesions far from each other, even on both sides; one box around
    them all would be a lesion that nobody drew.
    """
    parts: dict[int, Sequence[WholeBox]] = {}
    for frame, labels in _labelled(one):
        plane = one.plane(frame)
        spacing = min(plane.spacing) if plane else 1.0
        for segment in [key for key, at in chosen.items() if at == frame]:
            parts[segment] = boxes_of_parts(labels == segment, APART_MM / spacing)
    return parts


def _read_part(
    one: Segmentation, segment: int, where: tuple[int, WholeBox], found: Found
) -> None:
    """Add the box of a part of a segment on a frame, or say why it has no place."""
    try:
        found.add(_roi(one, segment, where), str(segment))
    except NotARectangleError as error:
        found.refuse(f"segment {segment}: {error}")
    except NotPlacedError as error:
        found.refuse(f"segment {segment} has no place on its largest slice: {error}")


def _roi(one: Segmentation, segment: int, where: tuple[int, WholeBox]) -> Roi:
    target, box, by_position = _place(one, *where)
    said = one.segments[segment]
    document = one.document
    tracking_uid = text(said, "TrackingUID")
    label = text(said, "SegmentLabel") or text(said, "SegmentDescription")
    return Roi(
        *target,
        *box,
        carrier=Carrier.SEG,
        carrier_sop_instance_uid=SopInstanceUid(text(document, "SOPInstanceUID")),
        author=text(document, "ContentCreatorName")[:MAX_NAME] or None,
        label=label[:MAX_NAME] or None,
        tracking_uid=tracking_uid if is_valid_uid(tracking_uid) else None,
        marked_at=moment(document, "ContentDate", "ContentTime"),
        exact=False,
        by_position=by_position,
    )


def _height(one: Segmentation, frame: int) -> float:
    plane = one.plane(frame)
    return float(frame) if plane is None else float(plane.normal @ plane.position)


def _place(one: Segmentation, frame: int, whole: WholeBox) -> tuple[Target, Box, bool]:
    """Return the image of a frame, the box in its pixels, and whether by position.

    Raises:
        NotPlacedError: No image of the study is where the frame is.
        NotARectangleError: The grids of frame and image are turned to each other.
    """
    references = one.references(frame)
    plane = one.plane(frame)
    known = [image for image in references if named(image)[0] in one.images.by_uid]
    if references and not known:
        uid, frames = named(references[0])
        return (uid, frames[0] if frames else 1), _real(whole), False
    if plane is None:
        return _place_by_grid(one, known), _real(whole), False
    x0, y0, x1, y1 = whole
    corners = plane.to_patient([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    place = _place_corners(one, corners, known)
    box = _to_whole(rectangle(place.points.ravel().tolist()))
    return (place.image.sop_instance_uid, place.image.frame), box, place.by_position


def _place_corners(
    one: Segmentation, corners: Points, known: Sequence[Dataset]
) -> Place:
    """Put a box on an image of its frame, else of its document, else by position."""
    frame_of_reference = text(one.document, "FrameOfReferenceUID")
    try:
        return one.images.place(corners, frame_of_reference, known or one.sources())
    except NotPlacedError:
        if known:
            raise
        return one.images.place(corners, frame_of_reference)


def _place_by_grid(one: Segmentation, known: Sequence[Dataset]) -> Target:
    """Return the one image that a frame without a position names."""
    targets = {target for item in known for target in one.images.targets(item)}
    if len(targets) != 1:
        raise NotPlacedError(
            "its frame states no position and names no single image of the study"
        )
    (uid, frame) = targets.pop()
    grids = {(i.rows, i.columns) for i in one.images.by_uid[uid] if i.frame == frame}
    if grids != {(one.size.rows, one.size.columns)}:
        raise NotPlacedError(
            f"its frame states no position and has another size than image {uid}"
        )
    return uid, frame


def _real(whole: WholeBox) -> Box:
    x0, y0, x1, y1 = whole
    return float(x0), float(y0), float(x1), float(y1)


def _to_whole(box: Box) -> Box:
    """Widen a box to whole pixels of the image, but for what rounding left over."""
    x0, y0 = np.floor(np.array(box[:2]) + WHOLE).tolist()
    x1, y1 = np.ceil(np.array(box[2:]) - WHOLE).tolist()
    return (x0, y0, x1, y1)
