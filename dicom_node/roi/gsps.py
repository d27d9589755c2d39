"""Rectangles in grayscale and colour softcopy presentation states (PS3.3 C.10.5).

There is no rectangle among the simple graphic types: workstations write a closed
polyline, or a compound graphic, which stands there a second time as a simple one.
Coordinates in PIXEL units are (0.0, 0.0) at the outer top-left corner of the image,
which is how an Roi counts; those in DISPLAY units are fractions of the displayed area.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import Dataset

from dicom_node.attributes import moment, number, numbers, real, text
from dicom_node.findings import Carrier, Roi
from dicom_node.roi.reading import MAX_NAME, Found, RoiReading
from dicom_node.roi.shapes import (
    DRAW,
    Box,
    NotARectangleError,
    Points,
    coordinates,
    rectangle,
)
from dicom_node.roi.study_images import NotPlacedError, StudyImages, Target, named
from dicom_node.study import SopInstanceUid, is_valid_uid

SHAPES: Final = {
    "ARROW": "an arrow",
    "AXIS": "an axis",
    "CIRCLE": "a circle",
    "CROSSHAIR": "a crosshair",
    "CUTLINE": "a line",
    "ELLIPSE": "an ellipse",
    "INFINITELINE": "a line",
    "INTERPOLATED": "a curve",
    "MULTILINE": "a set of lines",
    "POINT": "a point",
    "RANGELINE": "a line",
    "RULER": "a ruler",
}
RECTANGLE: Final = "RECTANGLE"
PLANAR: Final = 2
HALF_TURN: Final = 180.0
ANGLE_TOLERANCE: Final = 0.01
FRACTION_SLACK: Final = 0.01


@dataclass(frozen=True, slots=True)
class _Annotation:
    """One annotation of a presentation state, with the frames that it stands on."""

    state: Dataset
    item: Dataset
    targets: tuple[Target, ...]
    found: Found


def read(document: Dataset, images: StudyImages) -> RoiReading:
    """Read every rectangle of one presentation state."""
    found = Found(f"presentation state {text(document, 'SOPInstanceUID')}")
    for item in document.get("GraphicAnnotationSequence") or ():
        targets = tuple(_targets(item, document, images, found))
        _read_annotation(_Annotation(document, item, targets, found))
    return found.reading()


def _read_annotation(annotation: _Annotation) -> None:
    drawn: set[int] = set()
    for graphic in annotation.item.get("CompoundGraphicSequence") or ():
        kind = text(graphic, "CompoundGraphicType")
        is_read = _read_graphic(graphic, annotation, is_compound=True)
        instance = number(graphic, "CompoundGraphicInstanceID")
        if instance is not None and (is_read or kind != RECTANGLE):
            drawn.add(instance)
    for graphic in annotation.item.get("GraphicObjectSequence") or ():
        if number(graphic, "CompoundGraphicInstanceID") not in drawn:
            _read_graphic(graphic, annotation, is_compound=False)


def _read_graphic(
    graphic: Dataset, annotation: _Annotation, *, is_compound: bool
) -> bool:
    """Say whether a graphic is a rectangle, and add it to what was found."""
    corners = _compound_corners if is_compound else _corners
    units = "CompoundGraphicUnits" if is_compound else "GraphicAnnotationUnits"
    try:
        points = corners(graphic)
        boxes = {
            target: _box(points, text(graphic, units), target, annotation.state)
            for target in annotation.targets
        }
    except NotARectangleError as error:
        annotation.found.refuse(f"{error} is not a rectangle in pixels; {DRAW}")
        return False
    except NotPlacedError as error:
        annotation.found.refuse(str(error))
        return False
    for target, box in boxes.items():
        annotation.found.add(_roi(graphic, annotation, target, box))
    return True


def _roi(graphic: Dataset, annotation: _Annotation, target: Target, box: Box) -> Roi:
    state = annotation.state
    tracking_uid = text(graphic, "TrackingUID")
    label = text(graphic, "TrackingID") or _label(annotation.item)
    return Roi(
        *target,
        *box,
        carrier=Carrier.GSPS,
        carrier_sop_instance_uid=SopInstanceUid(text(state, "SOPInstanceUID")),
        author=text(state, "ContentCreatorName")[:MAX_NAME] or None,
        label=label[:MAX_NAME] or None,
        tracking_uid=tracking_uid if is_valid_uid(tracking_uid) else None,
        marked_at=moment(state, "PresentationCreationDate", "PresentationCreationTime"),
    )


def _corners(graphic: Dataset) -> Points:
    """Return the points (n, 2) of a polyline, in its own units.

    Raises:
        NotARectangleError: Another graphic type.
    """
    kind = text(graphic, "GraphicType")
    if kind != "POLYLINE":
        raise NotARectangleError(SHAPES.get(kind, "an unknown graphic"))
    return _pairs(graphic, "GraphicData")


def _compound_corners(graphic: Dataset) -> Points:
    """Return the four corners of a compound rectangle, in its own units.

    It is written as its top left and bottom right corner, and may be turned.

    Raises:
        NotARectangleError: Another graphic, or turned by other than half turns.
    """
    kind = text(graphic, "CompoundGraphicType")
    if kind != RECTANGLE:
        raise NotARectangleError(SHAPES.get(kind, "an unknown compound graphic"))
    points = _pairs(graphic, "GraphicData")
    if len(points) != PLANAR:
        raise NotARectangleError(f"a compound rectangle of {len(points)} points")
    angle = (real(graphic, "RotationAngle") or 0.0) % (2 * HALF_TURN)
    is_turned = ANGLE_TOLERANCE < angle < 2 * HALF_TURN - ANGLE_TOLERANCE
    if is_turned:
        centre = numbers(graphic, "RotationPoint", PLANAR)
        if abs(angle - HALF_TURN) > ANGLE_TOLERANCE or centre is None:
            raise NotARectangleError(f"a figure turned by {angle:g} degrees")
        points = 2 * np.array(centre) - points
    (x0, y0), (x1, y1) = points
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _pairs(graphic: Dataset, keyword: str) -> Points:
    dimensions = number(graphic, "GraphicDimensions")
    values = coordinates(graphic, keyword)
    if len(values) % PLANAR or dimensions not in {None, PLANAR}:
        raise NotARectangleError("a line with half a point")
    return values.reshape(-1, PLANAR)


def _box(points: Points, units: str, target: Target, state: Dataset) -> Box:
    """Return the rectangle in pixels of one image.

    Raises:
        NotARectangleError: Another figure, or units that mean no pixel of an image.
        NotPlacedError: The displayed area does not tell which pixels are meant.
    """
    if units == "DISPLAY":
        points = _displayed(points, target, state)
    elif units != "PIXEL":
        raise NotARectangleError(f"a figure in units of {units or 'no kind'}")
    return rectangle(points.ravel().tolist())


def _displayed(points: Points, target: Target, state: Dataset) -> Points:
    """Turn fractions of the displayed area into pixels.

    The area is given by pixel numbers that count from 1, both ends included.

    Raises:
        NotPlacedError: No such area, the image is shown flipped or turned, or the
            points are no fractions.
    """
    if points.min() < -FRACTION_SLACK or points.max() > 1 + FRACTION_SLACK:
        raise NotPlacedError(
            "a figure is in units of DISPLAY and is no fraction of the displayed area; "
            "save it in units of PIXEL"
        )
    turned = (real(state, "ImageRotation") or 0.0) % (2 * HALF_TURN) != 0
    if turned or text(state, "ImageHorizontalFlip") == "Y":
        raise NotPlacedError(
            "a figure is in units of DISPLAY on an image that is shown flipped or "
            "turned; save it in units of PIXEL"
        )
    area = _area(target, state)
    first = numbers(area, "DisplayedAreaTopLeftHandCorner", PLANAR)
    last = numbers(area, "DisplayedAreaBottomRightHandCorner", PLANAR)
    if first is None or last is None or first[0] > last[0] or first[1] > last[1]:
        raise NotPlacedError(
            "a figure is in units of DISPLAY and the displayed area is missing or "
            "damaged; save it in units of PIXEL"
        )
    if 0.0 in first:
        raise NotPlacedError(
            "a figure is in units of DISPLAY and the displayed area counts pixels from "
            "0 instead of 1, so it may be a pixel off; save it in units of PIXEL"
        )
    origin = np.array(first) - 1
    pixels: Points = origin + points * (np.array(last) - origin)
    return pixels


def _area(target: Target, state: Dataset) -> Dataset:
    """Return the displayed area of an image, an empty one when there is none."""
    uid, frame = target
    areas: Sequence[Dataset] = state.get("DisplayedAreaSelectionSequence") or ()
    for area in areas:
        references = area.get("ReferencedImageSequence") or ()
        for reference in references:
            shown, frames = named(reference)
            if shown == uid and (not frames or frame in frames):
                return area
        if not references:
            return area
    return Dataset()


def _targets(
    item: Dataset, state: Dataset, images: StudyImages, found: Found
) -> Iterator[Target]:
    """Yield the frames of an annotation; without any, all that the state refers to."""
    references = item.get("ReferencedImageSequence") or [
        image
        for series in state.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    if not references:
        found.refuse("an annotation refers to no image; draw it again on one")
    for reference in references:
        try:
            yield from images.targets(reference)
        except NotPlacedError as error:
            found.refuse(str(error))


def _label(annotation: Dataset) -> str:
    for item in annotation.get("TextObjectSequence") or ():
        written = text(item, "UnformattedTextValue")
        if written:
            return written
    return ""
