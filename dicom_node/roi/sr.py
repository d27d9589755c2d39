"""Rectangles in structured reports: SCOORD polylines on an image (TID 1500 and others).

Coordinates are (0.0, 0.0) at the outer top-left corner of the image, as in presentation
states (PS3.3 C.18.6). A viewer may hang the same SCOORD under each measurement of a
region; it counts once. Who observed, and the tracking identifiers, stand beside the
SCOORD or above it, before or after.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset

from dicom_node.attributes import moment, reals, text
from dicom_node.findings import Carrier, Roi
from dicom_node.roi.gsps import frames_of
from dicom_node.roi.reading import RoiReading
from dicom_node.roi.shapes import NotARectangleError, rectangle
from dicom_node.study import SopInstanceUid, is_valid_uid

PERSON_OBSERVER_NAME: Final = "121008"
TRACKING_IDENTIFIER: Final = "112039"
TRACKING_UID: Final = "112040"
SHORT_LABEL: Final = "125309"
SHAPES: Final = {
    "CIRCLE": "a circle",
    "ELLIPSE": "an ellipse",
    "MULTIPOINT": "a set of points",
    "POINT": "a point",
}


@dataclass(frozen=True, slots=True)
class _Context:
    """What the items around a region say of it; inner items win."""

    author: str | None = None
    label: str | None = None
    tracking_uid: str | None = None

    def within(self, items: Sequence[Dataset]) -> "_Context":
        said = {_concept(item): _said(item) for item in items}
        tracking_uid = said.get(TRACKING_UID)
        if tracking_uid is not None and not is_valid_uid(tracking_uid):
            tracking_uid = None
        label = said.get(SHORT_LABEL) or said.get(TRACKING_IDENTIFIER)
        return _Context(
            author=said.get(PERSON_OBSERVER_NAME) or self.author,
            label=label or self.label,
            tracking_uid=tracking_uid or self.tracking_uid,
        )


@dataclass(slots=True)
class _Found:
    root: Dataset
    rois: dict[tuple[object, ...], Roi] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)

    @property
    def carrier(self) -> SopInstanceUid:
        return SopInstanceUid(text(self.root, "SOPInstanceUID"))

    def refuse(self, what: str) -> None:
        self.refused[f"structured report {self.carrier}: {what}"] = None


def read(dataset: Dataset) -> RoiReading:
    """Read every rectangle of one structured report of any template."""
    found = _Found(dataset)
    _walk(dataset, _Context(), found)
    return RoiReading(tuple(found.rois.values()), tuple(found.refused))


def _walk(item: Dataset, context: _Context, found: _Found) -> None:
    items = item.get("ContentSequence") or ()
    context = context.within(items)
    kind = text(item, "ValueType")
    if kind == "SCOORD":
        _read_region(item, context, found)
    elif kind == "SCOORD3D":
        found.refuse("a region in patient coordinates is not read yet")
    else:
        for child in items:
            _walk(child, context, found)


def _read_region(item: Dataset, context: _Context, found: _Found) -> None:
    try:
        box = rectangle(_points(item))
    except NotARectangleError as error:
        found.refuse(f"{error} is not a rectangle")
        return
    targets = tuple(_targets(item, found.root))
    if not targets:
        found.refuse("a rectangle refers to no image")
    for sop_instance_uid, frame in targets:
        roi = Roi(
            SopInstanceUid(sop_instance_uid),
            frame,
            *box,
            carrier=Carrier.SR,
            carrier_sop_instance_uid=found.carrier,
            author=context.author,
            label=context.label,
            tracking_uid=context.tracking_uid,
            marked_at=moment(found.root, "ContentDate", "ContentTime"),
        )
        place = tuple(round(edge, 2) for edge in box)
        key = (roi.sop_instance_uid, frame, place, roi.tracking_uid)
        found.rois.setdefault(key, roi)


def _points(item: Dataset) -> tuple[float, ...]:
    """Return x, y, x, y ... of a polyline.

    Raises:
        NotARectangleError: Another graphic type.
    """
    kind = text(item, "GraphicType")
    if kind != "POLYLINE":
        raise NotARectangleError(SHAPES.get(kind, "an unknown graphic"))
    return reals(item, "GraphicData")


def _targets(item: Dataset, root: Dataset) -> Iterator[tuple[str, int]]:
    """Yield the images that a region was drawn on, given by value or by reference."""
    for child in item.get("ContentSequence") or ():
        image = _resolve(child, root)
        if text(image, "ValueType") != "IMAGE":
            continue
        for reference in image.get("ReferencedSOPSequence") or ():
            sop_instance_uid = text(reference, "ReferencedSOPInstanceUID")
            for frame in frames_of(reference):
                yield sop_instance_uid, frame


def _resolve(item: Dataset, root: Dataset) -> Dataset:
    """Follow a by-reference relationship (PS3.3 C.17.3.2.5) from the root."""
    steps = [int(one) for one in reals(item, "ReferencedContentItemIdentifier")]
    if not steps:
        return item
    target = root
    for step in steps[1:]:
        items = target.get("ContentSequence") or ()
        if not 1 <= step <= len(items):
            return item
        target = items[step - 1]
    return target


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or ()
    return text(names[0], "CodeValue") if names else ""


def _said(item: Dataset) -> str | None:
    said = text(item, "PersonName") or text(item, "TextValue") or text(item, "UID")
    return said or None
