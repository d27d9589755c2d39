"""Rectangles that could be analysed: on an image, inside it, on a known side."""

from dataclasses import dataclass, replace
from typing import Final

from dicom_node.dynamic import count_at, is_dynamic, slice_spacing
from dicom_node.errors import StudyHeldError
from dicom_node.findings import Carrier, Laterality, Roi
from dicom_node.images import MrImage
from dicom_node.kinds import (
    OF_ORIGINALS,
    UNMARKABLE,
    Catalogue,
    ImageKind,
    is_gradient_echo,
)
from dicom_node.phases import same_scan
from dicom_node.planes import (
    along_normal,
    is_placed,
    off_axis,
    same_grid,
    to_patient,
)
from dicom_node.study import Reason

MIN_SIDE_PX: Final = 4.0
MIN_INSIDE: Final = 0.95
"""Part of a rectangle that must lie inside its image; the rest is cut off."""

MIDLINE_MM: Final = 20.0
"""Nearer than this to the midline, a position does not tell the side."""

SIDES: Final = {Laterality.LEFT: "left", Laterality.RIGHT: "right"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rectangle that could be analysed; `key` when a person singled out its slice."""

    roi: Roi
    marked: MrImage
    laterality: Laterality
    derived: bool
    notes: tuple[str, ...]
    key: bool = False

    @property
    def area_mm2(self) -> float:
        """Area of the rectangle on the patient's scale, in square millimetres."""
        between_rows, between_columns = self.marked.spacing or (1.0, 1.0)
        width = (self.roi.x1 - self.roi.x0) * between_columns
        return width * (self.roi.y1 - self.roi.y0) * between_rows


@dataclass(frozen=True, slots=True)
class Ground:
    """What marks are judged on: the study's images, and those singled out as key."""

    study: Catalogue
    key_slices: tuple[MrImage, ...] = ()


def judge(roi: Roi, ground: Ground) -> Candidate:
    """Take a rectangle as a candidate.

    Raises:
        StudyHeldError: It cannot be used; the detail says why, and what to do.
    """
    marked = ground.study.index.get((roi.sop_instance_uid, roi.frame))
    if marked is None:
        raise StudyHeldError(
            Reason.ROI_IMAGE_MISSING,
            f"A rectangle refers to image {roi.sop_instance_uid} (frame {roi.frame}), "
            "which is not among the study's MR images: send it, or mark one of them.",
        )
    _demand_dynamic(marked, ground.study)
    if roi.carrier is not Carrier.MANUAL:
        _demand_no_rival(marked, ground.study)
    if marked.spacing is None:
        raise StudyHeldError(
            Reason.QUALITY,
            f"{name_of(marked)} states no pixel spacing, so no size: mark an image "
            "that does.",
        )
    clipped, notes = _clip(roi, marked)
    laterality, derived, note = _side(clipped, marked)
    if roi.by_position:
        placed = (
            f"Its carrier ({roi.carrier}) names no image; it was placed on "
            f"{name_of(marked)} by its position in the patient."
        )
        notes = (*notes, placed)
    key = any(is_same_slice(marked, one, ground.study) for one in ground.key_slices)
    return Candidate(clipped, marked, laterality, derived, (*notes, note), key)


def is_same_slice(one: MrImage, other: MrImage, study: Catalogue) -> bool:
    """Say whether two images show one slice, perhaps in different phases."""
    if one == other:
        return True
    if not (is_placed(one) and is_placed(other) and same_grid(one, other)):
        return False
    apart = abs(along_normal(one, other))
    shifted = off_axis(one, other) > min(one.spacing or (0.0,)) / 2
    return not shifted and apart <= slice_spacing(one, study.images) / 2


def _demand_dynamic(marked: MrImage, study: Catalogue) -> None:
    """Refuse a mark on what is no slice of a dynamic series.

    Raises:
        StudyHeldError: `no_dce_phase`.
    """
    found = study.kind(marked)
    if found in UNMARKABLE:
        raise _no_phase(
            f"A rectangle lies on {found} ({name_of(marked)}); "
            "it is needed on an original slice or a subtraction."
        )
    if not is_gradient_echo(marked):
        raise _no_phase(
            f"A rectangle lies on {name_of(marked)}, which is no phase of a dynamic "
            "series; it is needed on one of the phases."
        )
    phases = count_at(marked, study)
    if found in OF_ORIGINALS and phases <= 1:
        raise _no_phase(
            f"A rectangle lies on {found} ({name_of(marked)}); the phases that it was "
            "made of are not in the study: send them too, or mark one of them."
        )
    if phases <= 1 and is_dynamic(study):
        raise _no_phase(
            f"A rectangle lies on {name_of(marked)}, beside the dynamic series of "
            "the study; it is needed on one of its phases."
        )


def _demand_no_rival(marked: MrImage, study: Catalogue) -> None:
    """Refuse to take a slice for the only phase when others could be its phases.

    Some exporters call later phases DERIVED and do not say how they were made, or give
    each phase a frame of reference of its own. Then nothing proves that they belong
    together, and nothing that the marked one is not before contrast agent.

    Raises:
        StudyHeldError: `phase_ambiguous`.
    """
    if study.kind(marked) is not ImageKind.ORIGINAL or count_at(marked, study) > 1:
        return
    rivals = [one for one in study.images if _could_be_phase(one, marked, study)]
    if rivals:
        raise StudyHeldError(
            Reason.PHASE_AMBIGUOUS,
            f"A rectangle lies on {name_of(marked)}; {len(rivals)} other image(s) at "
            f"its position could be its phases, {name_of(rivals[0])} for one, but are "
            "called derived or have another frame of reference. Send the original "
            "phases, or say which one is meant: `sentinode roi set`.",
        )


def _could_be_phase(one: MrImage, marked: MrImage, study: Catalogue) -> bool:
    if one.series_uid == marked.series_uid:
        return False
    if study.kind(one) is ImageKind.PROCESSED:
        return is_same_slice(marked, one, study)
    if study.kind(one) is not ImageKind.ORIGINAL or not same_scan(marked, one):
        return False
    alike = replace(one, frame_of_reference_uid=marked.frame_of_reference_uid)
    return alike != one and is_same_slice(marked, alike, study)


def _no_phase(detail: str) -> StudyHeldError:
    return StudyHeldError(Reason.NO_DCE_PHASE, detail)


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
            f"which is {marked.columns} x {marked.rows} pixels: draw it inside, or on "
            "the image that it belongs to.",
        )
    if min(width, height) < MIN_SIDE_PX:
        raise StudyHeldError(
            Reason.QUALITY,
            f"A rectangle of {width:.1f} x {height:.1f} pixels on {name_of(marked)} "
            f"has a side below {MIN_SIDE_PX:.0f} pixels: draw it around the lesion.",
        )
    if inside == roi:
        return roi, ()
    return inside, ("What lay outside the image was cut off.",)


STATE: Final = "State it: `sentinode roi set --sop UID --box X0 Y0 X1 Y1 --side L|R`."


def _side(roi: Roi, marked: MrImage) -> tuple[Laterality, bool, str]:
    """Return the side, whether it was derived, and a sentence on how.

    Raises:
        StudyHeldError: `laterality_unknown`.
    """
    if roi.laterality is not None:
        return roi.laterality, False, f"The {SIDES[roi.laterality]} side was stated."
    x = _patient_x(roi, marked)
    if x is None or abs(x) < MIDLINE_MM:
        if marked.laterality is None:
            where = "its position is unknown" if x is None else "it is near the midline"
            raise StudyHeldError(
                Reason.LATERALITY_UNKNOWN,
                f"The header of {name_of(marked)} names no side, and {where}. {STATE}",
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
            f"the rectangle's position (x = {x:+.0f} mm) {SIDES[seen]}. {STATE}",
        )
    return seen, False, _header_side(seen)


def _header_side(side: Laterality) -> str:
    return f"The image's header names the {SIDES[side]} side."


def _patient_x(roi: Roi, marked: MrImage) -> float | None:
    """Return the x of the rectangle's centre in mm; positive is the patient's left."""
    if not is_placed(marked):
        return None
    centre = ((roi.x0 + roi.x1) / 2, (roi.y0 + roi.y1) / 2)
    return float(to_patient(marked, [centre])[0, 0])


def name_of(image: MrImage) -> str:
    """Return how sentences for people name an image, without a patient's data."""
    series = "" if image.series_number is None else f", series {image.series_number}"
    frame = "" if image.frame == 1 else f", frame {image.frame}"
    return f"image {image.sop_instance_uid}{series}{frame}"
