"""Rectangles that could be analysed: on an image, inside it, on a known side."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from dicom_node.errors import StudyHeldError
from dicom_node.findings import Laterality, Roi
from dicom_node.images import MrImage
from dicom_node.phases import ImageKind, kind
from dicom_node.study import Reason, SopInstanceUid

MIN_SIDE_PX: Final = 4.0
MIN_INSIDE: Final = 0.95
"""Part of a rectangle that must lie inside its image; the rest is cut off."""

MIDLINE_MM: Final = 20.0
"""Nearer than this to the midline, a position does not tell the side."""

SIDES: Final = {Laterality.LEFT: "left", Laterality.RIGHT: "right"}

Index: TypeAlias = Mapping[tuple[SopInstanceUid, int], MrImage]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rectangle that could be analysed."""

    roi: Roi
    marked: MrImage
    laterality: Laterality
    derived: bool
    notes: tuple[str, ...]

    @property
    def area_mm2(self) -> float:
        """Area of the rectangle on the patient's scale, in square millimetres."""
        between_rows, between_columns = self.marked.spacing or (1.0, 1.0)
        width = (self.roi.x1 - self.roi.x0) * between_columns
        return width * (self.roi.y1 - self.roi.y0) * between_rows


def by_side(
    rois: Sequence[Roi], index: Index
) -> tuple[dict[Laterality, list[Candidate]], list[StudyHeldError]]:
    """Sort rectangles by side, and set aside those that cannot be used.

    Raises:
        StudyHeldError: None can be used, or the side of one is unknown: it could
            be the largest of either.
    """
    sides: dict[Laterality, list[Candidate]] = defaultdict(list)
    problems: list[StudyHeldError] = []
    for roi in rois:
        try:
            candidate = _candidate(roi, index)
        except StudyHeldError as problem:
            if problem.reason is Reason.LATERALITY_UNKNOWN:
                raise
            problems.append(problem)
        else:
            sides[candidate.laterality].append(candidate)
    if not sides:
        details = dict.fromkeys(problem.detail for problem in problems)
        raise StudyHeldError(problems[0].reason, " ".join(details))
    return sides, problems


def _candidate(roi: Roi, index: Index) -> Candidate:
    marked = index.get((roi.sop_instance_uid, roi.frame))
    if marked is None:
        raise StudyHeldError(
            Reason.ROI_IMAGE_MISSING,
            f"A rectangle refers to image {roi.sop_instance_uid} (frame {roi.frame}), "
            "which is not among the study's MR images.",
        )
    if kind(marked) in {ImageKind.PROJECTION, ImageKind.DERIVED}:
        raise StudyHeldError(
            Reason.NO_DCE_PHASE,
            f"A rectangle lies on {kind(marked)} ({name_of(marked)}); "
            "it is needed on an original slice or a subtraction.",
        )
    if marked.spacing is None:
        raise StudyHeldError(
            Reason.QUALITY, f"{name_of(marked)} states no pixel spacing, so no size."
        )
    clipped, notes = _clip(roi, marked)
    laterality, derived, note = _side(clipped, marked)
    return Candidate(clipped, marked, laterality, derived, (*notes, note))


def _clip(roi: Roi, marked: MrImage) -> tuple[Roi, tuple[str, ...]]:
    """Cut off what little of a rectangle lies outside its image."""
    inside = replace(
        roi,
        x0=max(roi.x0, 0.0),
        y0=max(roi.y0, 0.0),
        x1=min(roi.x1, float(marked.columns)),
        y1=min(roi.y1, float(marked.rows)),
    )
    width, height = inside.x1 - inside.x0, inside.y1 - inside.y0
    whole = (roi.x1 - roi.x0) * (roi.y1 - roi.y0)
    if min(width, height) <= 0 or width * height < MIN_INSIDE * whole:
        raise StudyHeldError(
            Reason.ROI_OUTSIDE_IMAGE,
            f"A rectangle reaches beyond {name_of(marked)}, "
            f"which is {marked.columns} x {marked.rows} pixels.",
        )
    if min(width, height) < MIN_SIDE_PX:
        raise StudyHeldError(
            Reason.QUALITY,
            f"A rectangle of {width:.1f} x {height:.1f} pixels on {name_of(marked)} "
            f"has a side below {MIN_SIDE_PX:.0f} pixels.",
        )
    if inside == roi:
        return roi, ()
    return inside, ("What lay outside the image was cut off.",)


def _side(roi: Roi, marked: MrImage) -> tuple[Laterality, bool, str]:
    """Return the side, whether it was derived, and a sentence on how.

    Raises:
        StudyHeldError: `laterality_unknown`.
    """
    x = _patient_x(roi, marked)
    if x is None or abs(x) < MIDLINE_MM:
        if marked.laterality is None:
            where = "its position is unknown" if x is None else "it is near the midline"
            raise StudyHeldError(
                Reason.LATERALITY_UNKNOWN,
                f"The header of {name_of(marked)} names no side, and {where}.",
            )
        return marked.laterality, False, _header_side(marked.laterality)
    seen = Laterality.LEFT if x > 0 else Laterality.RIGHT
    if marked.laterality is None:
        note = f"The side is derived from the rectangle's position, x = {x:+.0f} mm."
        return seen, True, note
    if marked.laterality is not seen:
        raise StudyHeldError(
            Reason.LATERALITY_UNKNOWN,
            f"The header of {name_of(marked)} says {SIDES[marked.laterality]}, "
            f"the rectangle's position (x = {x:+.0f} mm) {SIDES[seen]}.",
        )
    return seen, False, _header_side(seen)


def _header_side(side: Laterality) -> str:
    return f"The image's header names the {SIDES[side]} side."


def _patient_x(roi: Roi, marked: MrImage) -> float | None:
    """Return the x of the rectangle's centre in mm; positive is the patient's left."""
    if marked.position is None or marked.orientation is None or marked.spacing is None:
        return None
    between_rows, between_columns = marked.spacing
    along_row = ((roi.x0 + roi.x1) / 2 - 0.5) * between_columns
    down_rows = ((roi.y0 + roi.y1) / 2 - 0.5) * between_rows
    return (
        marked.position[0]
        + marked.orientation[0] * along_row
        + marked.orientation[3] * down_rows
    )


def name_of(image: MrImage) -> str:
    """Return how sentences for people name an image, without a patient's data."""
    series = "" if image.series_number is None else f", series {image.series_number}"
    frame = "" if image.frame == 1 else f", frame {image.frame}"
    return f"image {image.sop_instance_uid}{series}{frame}"
