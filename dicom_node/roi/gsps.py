"""Rectangles in grayscale and colour softcopy presentation states (PS3.3 C.10.5).

There is no rectangle among the simple graphic types: workstations write a closed
polyline. Coordinates in PIXEL units are (0.0, 0.0) at the outer top-left corner of
the image, which is how an Roi counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pydicom import Dataset

from dicom_node.attributes import moment, reals, text
from dicom_node.findings import Carrier, Roi
from dicom_node.roi.reading import RoiReading
from dicom_node.roi.shapes import NotARectangleError, rectangle
from dicom_node.study import SopInstanceUid, is_valid_uid

Target: TypeAlias = tuple[str, int]
"""An image and its frame, counted from 1."""

SHAPES: Final = {
    "CIRCLE": "a circle",
    "ELLIPSE": "an ellipse",
    "INTERPOLATED": "a curve",
    "POINT": "a point",
}
MAX_LABEL: Final = 64


@dataclass(slots=True)
class _Found:
    rois: list[Roi] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def read(dataset: Dataset) -> RoiReading:
    """Read every rectangle of one presentation state."""
    found = _Found()
    for annotation in dataset.get("GraphicAnnotationSequence") or ():
        targets = tuple(_targets(annotation, dataset))
        for graphic in annotation.get("GraphicObjectSequence") or ():
            _read_graphic(graphic, annotation, (dataset, targets), found)
    return RoiReading(tuple(found.rois), tuple(found.refused))


def _read_graphic(
    graphic: Dataset,
    annotation: Dataset,
    where: tuple[Dataset, tuple[Target, ...]],
    found: _Found,
) -> None:
    dataset, targets = where
    carrier = SopInstanceUid(text(dataset, "SOPInstanceUID"))
    refuse = f"presentation state {carrier}: {{}} is not a rectangle in pixels"
    try:
        box = rectangle(_points(graphic))
    except NotARectangleError as error:
        found.refused.append(refuse.format(error))
        return
    tracking_uid = text(graphic, "TrackingUID")
    label = text(graphic, "TrackingID") or _label(annotation)
    for sop_instance_uid, frame in targets:
        found.rois.append(
            Roi(
                SopInstanceUid(sop_instance_uid),
                frame,
                *box,
                carrier=Carrier.GSPS,
                carrier_sop_instance_uid=carrier,
                author=text(dataset, "ContentCreatorName") or None,
                label=label[:MAX_LABEL] or None,
                tracking_uid=tracking_uid if is_valid_uid(tracking_uid) else None,
                marked_at=moment(
                    dataset, "PresentationCreationDate", "PresentationCreationTime"
                ),
            )
        )
    if not targets:
        found.refused.append(
            f"presentation state {carrier}: a rectangle refers to no image"
        )


def _points(graphic: Dataset) -> tuple[float, ...]:
    """Return x, y, x, y ... of a polyline in pixels.

    Raises:
        NotARectangleError: Another graphic type, or units of the display.
    """
    kind = text(graphic, "GraphicType")
    if kind != "POLYLINE":
        raise NotARectangleError(SHAPES.get(kind, "an unknown graphic"))
    units = text(graphic, "GraphicAnnotationUnits")
    if units != "PIXEL":
        raise NotARectangleError(f"a polyline in units of {units or 'no kind'}")
    return reals(graphic, "GraphicData")


def _targets(annotation: Dataset, dataset: Dataset) -> Iterator[Target]:
    """Yield the images of an annotation; without any, all that the state refers to."""
    references = annotation.get("ReferencedImageSequence") or [
        image
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    for reference in references:
        sop_instance_uid = text(reference, "ReferencedSOPInstanceUID")
        for frame in frames_of(reference):
            yield sop_instance_uid, frame


def frames_of(reference: Dataset) -> tuple[int, ...]:
    """Return the frames that a reference names, counted from 1; else the first."""
    named = reals(reference, "ReferencedFrameNumber")
    return tuple(int(one) for one in named) or (1,)


def _label(annotation: Dataset) -> str:
    for item in annotation.get("TextObjectSequence") or ():
        written = text(item, "UnformattedTextValue")
        if written:
            return written
    return ""
