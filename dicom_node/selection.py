"""Which slice of a study is analysed, and why: the rules, free of any side effect.

rectangles -> on an image? inside it? which side? -> the largest of each side
           -> the same position on the phase that the model was trained on
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from dicom_node.candidates import SIDES, Candidate, by_side, name_of
from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.findings import Selection
from dicom_node.images import MrImage, StudyObjects
from dicom_node.phases import (
    ImageKind,
    is_gradient_echo,
    kind,
    phase_index,
    phase_name,
    phases_at,
)
from dicom_node.roi.reading import RoiReading
from dicom_node.study import Reason

AS_MARKED: Final = "as marked"
"""The phase when the study holds no other than the one that carries the mark."""

BREAST_WORDS: Final = (
    "BREAST", "MAMM", "MAMA", "BRUST", "SEIN", "BORST", "SENO", "PIERS", "MAM\u00c1",
)  # fmt: skip
OTHER_REGIONS: Final = (
    "ABDOMEN", "ANKLE", "BRAIN", "CARDIAC", "ELBOW", "EXTREMITY", "FOOT", "HAND",
    "HEAD", "HEART", "HIP", "KIDNEY", "KNEE", "LIVER", "NECK", "ORBIT", "PANCREAS",
    "PELVIS", "PROSTATE", "SELLA", "SHOULDER", "SKULL", "SPINE", "UTERUS", "WRIST",
)  # fmt: skip


def select(
    objects: StudyObjects, reading: RoiReading, phase: str = "post-contrast 1"
) -> tuple[Selection, ...]:
    """Choose the slice to analyse on each marked side of a study.

    Args:
        objects: The study.
        reading: The rectangles of its documents.
        phase: The DCE phase that the model was trained on.

    Returns:
        One choice for each side with a rectangle, left before right.

    Raises:
        StudyIgnoredError: Not breast MR.
        StudyHeldError: No rectangle, or none that can be used without a guess.
    """
    _require_breast_mr(objects)
    unread = tuple(f"Not readable: {one}." for one in objects.unreadable)
    if not reading.rois:
        raise StudyHeldError(Reason.NO_ROI, " ".join((*_no_roi(reading), *unread)))
    index = {(one.sop_instance_uid, one.frame): one for one in objects.images}
    try:
        sides, problems = by_side(reading.rois, index)
    except StudyHeldError as held:
        detail = " ".join((held.detail, *unread))
        raise StudyHeldError(held.reason, detail) from None
    ruled_out = tuple(f"Ruled out: {one}." for one in reading.refused)
    ruled_out += tuple(f"Ruled out: {one.detail}" for one in problems) + unread
    chosen = []
    for side in sorted(sides):
        selection = _choose(sides[side], objects.images, phase_index(phase))
        chosen.append(replace(selection, why=selection.why + ruled_out))
    return tuple(chosen)


def _require_breast_mr(objects: StudyObjects) -> None:
    if not objects.images and objects.unreadable:
        raise StudyHeldError(
            Reason.UNREADABLE,
            f"No image could be read: {'; '.join(objects.unreadable)}.",
        )
    if not objects.images:
        raise StudyIgnoredError(
            Reason.NOT_BREAST_MR, "The study holds no MR image that could be analysed."
        )
    parts = {image.body_part for image in objects.images} - {""}
    said = {image.study_description.upper() for image in objects.images}
    said |= {image.description.upper() for image in objects.images}
    if any(word in text for text in parts | said for word in BREAST_WORDS):
        return
    named = [word for word in OTHER_REGIONS if any(word in p for p in parts or said)]
    if named:
        raise StudyIgnoredError(
            Reason.NOT_BREAST_MR,
            f"Body part and descriptions name {named[0].lower()}, and no breast.",
        )


def _no_roi(reading: RoiReading) -> tuple[str, ...]:
    wanted = (
        "No rectangle was found; one in a presentation state or a structured report "
        "(closed polyline in pixels) is needed."
    )
    return (wanted, *(f"Ruled out: {one}." for one in reading.refused))


def _choose(
    candidates: Sequence[Candidate], images: Sequence[MrImage], wanted: int
) -> Selection:
    best, reason = _largest(candidates)
    analysed, phase, moved = _move(best.marked, images, wanted)
    return Selection(
        roi=best.roi,
        sop_instance_uid=analysed.sop_instance_uid,
        frame=analysed.frame,
        path=analysed.path,
        phase=phase,
        laterality=best.laterality,
        laterality_derived=best.derived,
        area_mm2=best.area_mm2,
        candidates=len(candidates),
        why=(reason, *best.notes, moved),
    )


def _largest(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Return the rectangle of the largest area; of equals the middle slice's."""
    top = max(one.area_mm2 for one in candidates)
    equal = [one for one in candidates if np.isclose(one.area_mm2, top, rtol=1e-6)]
    heights = [_height(one.marked) for one in equal]
    middle = (min(heights) + max(heights)) / 2
    best = min(
        equal,
        key=lambda one: (
            abs(_height(one.marked) - middle),
            one.marked.sop_instance_uid,
            one.roi.box,
        ),
    )
    what = f"{best.area_mm2:.0f} mm\u00b2 on {name_of(best.marked)}"
    side = SIDES[best.laterality]
    if len(candidates) == 1:
        return best, f"1 rectangle on the {side} side, {what}."
    count = f"{len(candidates)} rectangles on the {side} side"
    if len(equal) > 1:
        return best, f"{count}; {len(equal)} of equal size, the middle one: {what}."
    second = sorted(one.area_mm2 for one in candidates)[-2]
    return best, (
        f"{count}; the one of {what} was larger than the next of {second:.0f} mm\u00b2."
    )


def _height(image: MrImage) -> float:
    if image.position is None or image.orientation is None:
        return 0.0
    normal = np.cross(image.orientation[:3], image.orientation[3:])
    return float(normal @ np.array(image.position))


def _move(
    marked: MrImage, images: Sequence[MrImage], wanted: int
) -> tuple[MrImage, str, str]:
    """Return the image of the wanted phase, the phase's name, and a sentence."""
    if not is_gradient_echo(marked):
        raise StudyHeldError(
            Reason.NO_DCE_PHASE,
            f"A rectangle lies on {name_of(marked)}, which is no phase of a dynamic "
            "series.",
        )
    phases = phases_at(marked, images)
    if kind(marked) is not ImageKind.ORIGINAL:
        return _move_from_subtraction(marked, phases, wanted)
    if len(phases) == 1:
        _require_single_phase(marked, images)
        return (
            marked,
            AS_MARKED,
            f"No other phase than {name_of(marked)} is there; used as marked.",
        )
    analysed, phase = _pick(phases, wanted)
    where = f"phase {phases.index(marked) + 1} of {len(phases)} ({name_of(marked)})"
    if analysed == marked:
        return marked, phase, f"It was marked on {where}, which is {phase}."
    return analysed, phase, (
        f"It was marked on {where}; {phase} at the same position, {name_of(analysed)}, "
        "is analysed, since the model was trained on that phase."
    )  # fmt: skip


def _move_from_subtraction(
    marked: MrImage, phases: Sequence[MrImage], wanted: int
) -> tuple[MrImage, str, str]:
    if len(phases) <= 1:
        raise StudyHeldError(
            Reason.NO_DCE_PHASE,
            f"A rectangle lies on a subtraction ({name_of(marked)}); the phases that "
            "it was made of are not in the study.",
        )
    analysed, phase = _pick(phases, wanted)
    return analysed, phase, (
        f"It was marked on a subtraction ({name_of(marked)}); {phase} at the same "
        f"position, {name_of(analysed)}, is analysed."
    )  # fmt: skip


def _pick(phases: Sequence[MrImage], wanted: int) -> tuple[MrImage, str]:
    first = phases[0].temporal_position
    if (
        first is not None
        and first > 1
        and len({p.temporal_position for p in phases}) > 1
    ):
        raise StudyHeldError(
            Reason.PHASE_AMBIGUOUS,
            f"The dynamic series begins at temporal position {first}; what came "
            "before is not in the study.",
        )
    if wanted >= len(phases):
        raise StudyHeldError(
            Reason.NO_DCE_PHASE,
            f"The model needs {phase_name(wanted)}; the study holds {len(phases)} "
            "phases at the marked position.",
        )
    return phases[wanted], phase_name(wanted)


def _require_single_phase(marked: MrImage, images: Sequence[MrImage]) -> None:
    """Refuse a mark beside the dynamic series of a study that has one.

    Raises:
        StudyHeldError: `no_dce_phase`.
    """
    series: dict[str, list[MrImage]] = defaultdict(list)
    for image in images:
        if kind(image) is ImageKind.ORIGINAL and is_gradient_echo(image):
            series[image.series_uid].append(image)
    for members in series.values():
        middle = sorted(members, key=_height)[len(members) // 2]
        if len(phases_at(middle, images)) > 1:
            raise StudyHeldError(
                Reason.NO_DCE_PHASE,
                f"A rectangle lies on {name_of(marked)}, beside the dynamic series of "
                "the study; it is needed on one of its phases.",
            )
