"""Outlines in RT structure sets (PS3.3 C.8.8.5, C.8.8.6), one lesion for each ROI.

The outlines are flat figures in the patient, slice by slice. The rectangle lies on
the slice where the ROI is largest; groups of outlines far apart there are lesions of
their own. Outlines that another one encloses are holes; a box around the outer ones is
the same with them, so CLOSED_PLANAR_XOR, where holes are outlines of their own, needs
no other rule than CLOSED_PLANAR.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import Dataset

from dicom_node.attributes import moment, number, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Carrier, Roi
from dicom_node.roi.anatomy import is_anatomy
from dicom_node.roi.masks import APART_MM, grouped
from dicom_node.roi.reading import MAX_NAME, Found, RoiReading
from dicom_node.roi.shapes import (
    Box,
    NotARectangleError,
    Points,
    Slice,
    coordinates,
    enclosing,
    follows,
    largest,
    name_of,
    polygon_area,
)
from dicom_node.roi.study_images import NotPlacedError, Place, StudyImages
from dicom_node.study import SopInstanceUid

CLOSED: Final = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR"})
NO_LESION: Final = frozenset(
    {
        "BOLUS", "BRACHY_ACC_SHLD", "BRACHY_CHANNEL", "BRACHY_CHNL_SHLD",
        "BRACHY_SRC_APP", "CONTROL", "EXTERNAL", "FIXATION", "ISOCENTER",
        "REGISTRATION", "SUPPORT",
    }
)  # fmt: skip
"""RT ROI Interpreted Types of things that are no part of the patient, or all of it."""

SPATIAL: Final = 3
MAX_CONTOURS: Final = 5000
MAX_COORDINATES: Final = 64 * 2**20
"""Length of all coordinates together, as they are written."""

MAX_OUTER: Final = 50
"""Separate outlines of one ROI on one slice."""

GRID_MM: Final = 0.1
"""Outlines whose distance along the normal differs by less are on one slice."""


@dataclass(frozen=True, slots=True)
class _Outline:
    """One closed contour: (n, 3) mm, and the images that it names."""

    points: Points
    references: tuple[Dataset, ...]
    area: float


@dataclass(frozen=True, slots=True)
class _Structure:
    """One ROI of a structure set, in what order it came and what is said of it."""

    document: Dataset
    number: int | None
    item: Dataset
    said: Dataset
    observed: Dataset

    @property
    def name(self) -> str:
        """How sentences name it; its own name may be a person's."""
        return f"ROI {'without number' if self.number is None else self.number}"


def read(document: Dataset, images: StudyImages) -> RoiReading:
    """Read one rectangle for each outlined ROI of a structure set."""
    found = Found(f"structure set {text(document, 'SOPInstanceUID')}")
    said = _by_number(document, "StructureSetROISequence", "ROINumber")
    observed = _by_number(document, "RTROIObservationsSequence", "ReferencedROINumber")
    items = document.get("ROIContourSequence") or ()
    _check_size(items, found.what)
    if not items:
        found.refuse("it holds no contours")
    for item in items:
        roi = number(item, "ReferencedROINumber")
        one = _Structure(
            document,
            roi,
            item,
            said.get(roi, Dataset()),
            observed.get(roi, Dataset()),
        )
        try:
            _read_structure(one, images, found)
        except NotARectangleError as error:
            found.refuse(f"{one.name}: {error}")
        except NotPlacedError as error:
            found.refuse(f"{one.name} has no place on its largest slice: {error}")
    return found.reading()


def _check_size(items: Sequence[Dataset], what: str) -> None:
    """Refuse what would take minutes to look through.

    Raises:
        UnreadableObjectError: Too many contours, or too many points.
    """
    contours = [one for item in items for one in item.get("ContourSequence") or ()]
    if len(contours) > MAX_CONTOURS:
        raise UnreadableObjectError(f"{what} holds more than {MAX_CONTOURS} contours")
    data = [one.get_item("ContourData") for one in contours]
    if sum(len(one.value or ()) for one in data if one) > MAX_COORDINATES:
        raise UnreadableObjectError(f"{what} holds too many points to look at")


def _by_number(
    document: Dataset, sequence: str, keyword: str
) -> Mapping[int | None, Dataset]:
    items = document.get(sequence) or ()
    return {number(item, keyword): item for item in items}


def _read_structure(one: _Structure, images: StudyImages, found: Found) -> None:
    kind = text(one.observed, "RTROIInterpretedType")
    if kind in NO_LESION:
        raise NotARectangleError(f"it is of type {kind}, which is no lesion")
    if is_anatomy(text(one.said, "ROIName")):
        raise NotARectangleError("it has the name of a body part, not of a lesion")
    outlines = _outlines(one, found)
    if not outlines:
        return
    slices = _slices(outlines)
    chosen = largest([one for one, _ in slices])
    here = slices[chosen.number][1]
    frame_of_reference = text(one.said, "ReferencedFrameOfReferenceUID")
    places = [
        images.place(outline.points, frame_of_reference, outline.references)
        for outline in here
    ]
    first = places[0]
    if any(place.image is not first.image for place in places):
        raise NotPlacedError("its outlines on one slice lie on different images")
    for box, exact in _boxes(places):
        found.add(_roi(one, first, box, exact=exact), one.name)


def _roi(one: _Structure, place: Place, box: Box, *, exact: bool) -> Roi:
    label = text(one.said, "ROIName") or text(one.observed, "ROIObservationLabel")
    return Roi(
        place.image.sop_instance_uid,
        place.image.frame,
        *box,
        carrier=Carrier.RTSTRUCT,
        carrier_sop_instance_uid=SopInstanceUid(text(one.document, "SOPInstanceUID")),
        author=text(one.observed, "ROIInterpreter")[:MAX_NAME] or None,
        label=label[:MAX_NAME] or None,
        marked_at=moment(one.document, "StructureSetDate", "StructureSetTime"),
        exact=exact,
        by_position=place.by_position,
    )


def _outlines(one: _Structure, found: Found) -> list[_Outline]:
    outlines = []
    for contour in one.item.get("ContourSequence") or ():
        try:
            outlines.append(_outline(contour))
        except NotARectangleError as error:
            found.refuse(f"{one.name}: {error} encloses nothing")
    if not one.item.get("ContourSequence"):
        found.refuse(f"{one.name}: it has no contour")
    return outlines


def _outline(contour: Dataset) -> _Outline:
    """Return a closed contour.

    Raises:
        NotARectangleError: Another kind, or one that encloses no area.
    """
    kind = text(contour, "ContourGeometricType")
    if kind not in CLOSED:
        name = kind.lower().replace("_", " ") or "nameless"
        raise NotARectangleError(f"a contour of the {name} kind")
    values = coordinates(contour, "ContourData")
    points = values[: len(values) // SPATIAL * SPATIAL].reshape(-1, SPATIAL)
    if len(values) % SPATIAL or len(points) < SPATIAL:
        raise NotARectangleError(name_of(len(points)))
    area = polygon_area(points)
    if area == 0:
        raise NotARectangleError("a line without area")
    references = tuple(contour.get("ContourImageSequence") or ())
    return _Outline(points, references, area)


def _slices(outlines: Sequence[_Outline]) -> list[tuple[Slice, list[_Outline]]]:
    """Group outlines by slice: the largest of all says what "along" means."""
    normal = _normal(max(outlines, key=lambda one: one.area).points)
    groups: list[tuple[float, list[_Outline]]] = []
    heights = [(float((one.points @ normal).mean()), one) for one in outlines]
    for height, outline in sorted(heights, key=lambda pair: pair[0]):
        if not groups or height - groups[-1][0] > GRID_MM:
            groups.append((height, []))
        groups[-1][1].append(outline)
    return [
        (Slice(n, _outer_area(members, normal), height), members)
        for n, (height, members) in enumerate(groups)
    ]


def _normal(points: Points) -> Points:
    """Return the unit vector at a right angle to an outline, always the same side."""
    centred = points - points[0]
    across = np.cross(centred, np.roll(centred, -1, axis=0)).sum(axis=0)
    unit: Points = across / np.linalg.norm(across)
    return unit if unit[np.abs(unit).argmax()] > 0 else -unit


def _outer_area(outlines: Sequence[_Outline], normal: Points) -> float:
    """Sum the areas of the outlines that no larger one encloses.

    Raises:
        NotARectangleError: So many outlines are no lesion.
    """
    axis = int(np.abs(normal).argmax())
    outer: list[tuple[Points, Points]] = []
    area = 0.0
    for outline in sorted(outlines, key=lambda one: -one.area):
        flat = np.delete(outline.points, axis, axis=1)
        low, high = flat.min(axis=0), flat.max(axis=0)
        if any((low >= a).all() and (high <= b).all() for a, b in outer):
            continue
        outer.append((low, high))
        area += outline.area
        if len(outer) > MAX_OUTER:
            raise NotARectangleError(
                f"it has more than {MAX_OUTER} separate outlines on one slice"
            )
    return area


def _boxes(places: Sequence[Place]) -> Iterator[tuple[Box, bool]]:
    """Yield a rectangle for each group of outlines, and whether it was drawn as one.

    Raises:
        NotARectangleError: One has no area.
    """
    spacing = min(places[0].image.spacing or (1.0,))
    boxes = [enclosing(place.points) for place in places]
    for group in grouped(boxes, APART_MM / spacing):
        members = [
            place.points
            for place, box in zip(places, boxes, strict=True)
            if grouped([group, box], 0.0) == [group]
        ]
        yield group, len(members) == 1 and follows(members[0], group)
