"""Rectangles in structured reports: regions on an image or in the patient.

TID 1500 and any other template. Coordinates of a SCOORD are (0.0, 0.0) at the outer
top-left corner of the image, as in presentation states (PS3.3 C.18.6); those of a
SCOORD3D are millimetres of a frame of reference (C.18.9). A viewer may hang the same
region under each measurement of it; it counts once. Who observed, and the tracking
identifiers, stand beside the region or above it, before or after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pydicom import Dataset

from dicom_node.attributes import moment, reals, text
from dicom_node.findings import Carrier, Roi
from dicom_node.roi.reading import MAX_NAME, Found, RoiReading
from dicom_node.roi.shapes import (
    DRAW,
    RECTANGLE_POINTS,
    NotARectangleError,
    Points,
    coordinates,
    name_of,
    rectangle,
)
from dicom_node.roi.study_images import NotPlacedError, StudyImages, named
from dicom_node.study import SopInstanceUid, is_valid_uid

PERSON_OBSERVER_NAME: Final = "121008"
ROLE_IN_PROCEDURE: Final = "121011"
ADJUDICATOR: Final = "C96561"
TRACKING_IDENTIFIER: Final = "112039"
TRACKING_UID: Final = "112040"
SHORT_LABEL: Final = "125309"
SOURCE_IMAGES: Final = frozenset({"111040", "121233", "121324", "260753009"})
"""Concepts of an image beside a region that the region was drawn on."""

SHAPES: Final = {
    "CIRCLE": "a circle",
    "ELLIPSE": "an ellipse",
    "ELLIPSOID": "an ellipsoid",
    "MULTIPOINT": "a set of points",
    "POINT": "a point",
}
PLANAR: Final = 2
SPATIAL: Final = 3

NO_REGIONS: Final = (
    "it holds no coordinates; draw a rectangle on the image, and save it as a "
    "measurement report (TID 1500), a presentation state or a segmentation"
)


@dataclass(frozen=True, slots=True)
class _Context:
    """What the items around a region say of it; inner items win."""

    author: str | None = None
    adjudicator: bool = False
    label: str | None = None
    tracking_uid: str | None = None
    sources: tuple[Dataset, ...] = ()

    def within(self, items: Sequence[Dataset]) -> "_Context":
        said = {_concept(item): _said(item) for item in items}
        tracking_uid = said.get(TRACKING_UID)
        if tracking_uid is not None and not is_valid_uid(tracking_uid):
            tracking_uid = None
        label = _label(said.get(SHORT_LABEL)) or said.get(TRACKING_IDENTIFIER)
        author = said.get(PERSON_OBSERVER_NAME)
        adjudicator = _is_adjudicator(items)
        if author is None:
            adjudicator = adjudicator or self.adjudicator
        return _Context(
            author=(author or self.author or "")[:MAX_NAME] or None,
            adjudicator=adjudicator,
            label=(label or self.label or "")[:MAX_NAME] or None,
            tracking_uid=tracking_uid or self.tracking_uid,
            sources=_sources(items) or self.sources,
        )


@dataclass(slots=True)
class _Report:
    root: Dataset
    images: StudyImages
    found: Found
    regions: int = field(default=0)


def read(document: Dataset, images: StudyImages) -> RoiReading:
    """Read every rectangle of one structured report of any template."""
    found = Found(f"structured report {text(document, 'SOPInstanceUID')}")
    report = _Report(document, images, found)
    _walk(document, _Context(), report)
    if not report.regions:
        found.refuse(NO_REGIONS)
    return found.reading()


def _walk(item: Dataset, context: _Context, report: _Report) -> None:
    items = item.get("ContentSequence") or ()
    context = context.within(items)
    kind = text(item, "ValueType")
    if kind not in {"SCOORD", "SCOORD3D"}:
        for child in items:
            _walk(child, context, report)
        return
    report.regions += 1
    read_region = _read_region if kind == "SCOORD" else _read_spatial_region
    try:
        read_region(item, context, report)
    except NotARectangleError as error:
        report.found.refuse(f"{error} is not a rectangle; {DRAW}")
    except NotPlacedError as error:
        report.found.refuse(f"a rectangle has no place: {error}")


def _read_region(item: Dataset, context: _Context, report: _Report) -> None:
    box = rectangle(_points(item, {"POLYLINE"}, PLANAR).tolist())
    references = _images(item, report.root)
    if not references:
        raise NotPlacedError("it refers to no image; draw it again on one")
    for reference in references:
        for uid, frame in report.images.targets(reference):
            roi = _drafted(Carrier.SR, context, report.root)(uid, frame, *box)
            report.found.add(roi, roi.author, roi.tracking_uid)


def _read_spatial_region(item: Dataset, context: _Context, report: _Report) -> None:
    """Put a region in the patient on the image that it names, else by its position."""
    points = _points(item, {"POLYLINE", "POLYGON"}, SPATIAL).reshape(-1, SPATIAL)
    if len(points) not in RECTANGLE_POINTS:
        raise NotARectangleError(name_of(len(points)))
    frame_of_reference = text(item, "ReferencedFrameOfReferenceUID")
    references = _images(item, report.root)
    if not references:
        references = [one for one in context.sources if _is_known(one, report.images)]
    place = report.images.place(points, frame_of_reference, references)
    box = rectangle(place.points.ravel().tolist())
    draft = _drafted(Carrier.SCOORD3D, context, report.root)
    image = place.image
    roi = draft(
        image.sop_instance_uid, image.frame, *box, by_position=place.by_position
    )
    report.found.add(roi, roi.author, roi.tracking_uid)


def _drafted(carrier: Carrier, context: _Context, root: Dataset) -> "partial[Roi]":
    return partial(
        Roi,
        carrier=carrier,
        carrier_sop_instance_uid=SopInstanceUid(text(root, "SOPInstanceUID")),
        author=context.author,
        label=context.label,
        tracking_uid=context.tracking_uid,
        marked_at=moment(root, "ContentDate", "ContentTime"),
        adjudicator=context.adjudicator,
    )


def _points(item: Dataset, lines: set[str], dimensions: int) -> Points:
    """Return the coordinates of a line, flat.

    Raises:
        NotARectangleError: Another graphic type, or coordinates that cannot be.
    """
    kind = text(item, "GraphicType")
    if kind not in lines:
        raise NotARectangleError(SHAPES.get(kind, "an unknown graphic"))
    values = coordinates(item, "GraphicData")
    if len(values) % dimensions:
        raise NotARectangleError("a line with half a point")
    return values


def _images(item: Dataset, root: Dataset) -> list[Dataset]:
    """Return the references of a region to images, given by value or by reference."""
    items = [_resolve(child, root) for child in item.get("ContentSequence") or ()]
    return [
        reference
        for image in items
        if text(image, "ValueType") == "IMAGE"
        for reference in image.get("ReferencedSOPSequence") or ()
    ]


def _resolve(item: Dataset, root: Dataset) -> Dataset:
    """Follow a by-reference relationship (PS3.3 C.17.3.2.5) from the root, once."""
    steps = [int(one) for one in reals(item, "ReferencedContentItemIdentifier")]
    target = root
    for step in steps[1:]:
        items = target.get("ContentSequence") or ()
        if not 1 <= step <= len(items):
            return item
        target = items[step - 1]
    return target if steps else item


def _sources(items: Sequence[Dataset]) -> tuple[Dataset, ...]:
    return tuple(
        reference
        for item in items
        if text(item, "ValueType") == "IMAGE" and _concept(item) in SOURCE_IMAGES
        for reference in item.get("ReferencedSOPSequence") or ()
    )


def _is_known(reference: Dataset, images: StudyImages) -> bool:
    return named(reference)[0] in images.by_uid


def _is_adjudicator(items: Sequence[Dataset]) -> bool:
    """Look for the role beside the person's name, and under it."""
    below = [
        child
        for item in items
        if _concept(item) == PERSON_OBSERVER_NAME
        for child in item.get("ContentSequence") or ()
    ]
    return any(
        text(code, "CodeValue") == ADJUDICATOR
        for item in (*items, *below)
        if _concept(item) == ROLE_IN_PROCEDURE
        for code in item.get("ConceptCodeSequence") or ()
    )


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or ()
    return text(names[0], "CodeValue") if names else ""


def _said(item: Dataset) -> str | None:
    said = text(item, "PersonName") or text(item, "TextValue") or text(item, "UID")
    return said or None


def _label(written: str | None) -> str | None:
    """Leave out what a viewer fills in with a measured value, like "{surface}"."""
    return None if written and written.startswith("{") else written
