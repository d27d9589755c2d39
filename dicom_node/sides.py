"""One side of a study: which of its marks is analysed, and on which image.

whose marks count? -> the largest -> do other readers agree? -> the wanted phase
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dicom_node import conflicts, dynamic, placement
from dicom_node.candidates import SIDES, Candidate, name_of
from dicom_node.conflicts import ReaderPolicy, Resolution
from dicom_node.errors import StudyHeldError
from dicom_node.explanation import Mark, Side, Stop, Verdict
from dicom_node.findings import Carrier, Roi, Selection
from dicom_node.images import MrImage
from dicom_node.placement import Target
from dicom_node.planes import height
from dicom_node.study import Reason


@dataclass(frozen=True, slots=True)
class Work:
    """What every side is decided with.

    `homes` names the study that each document came in.
    """

    target: Target
    readers: ReaderPolicy
    accepted: frozenset[Reason]
    homes: Mapping[str, str]


def decide(
    candidates: Sequence[Candidate], work: Work
) -> tuple[Side, tuple[Mark, ...]]:
    """Choose the slice of one side, or say why a person must."""
    standing, outdone = conflicts.prefer(candidates)
    best, reason = _largest(standing)
    resolution = conflicts.resolve(
        best, standing, work.readers, work.target.study.images
    )
    said = (reason, *(f"{why} {_not_counted(ones)}" for why, ones in outdone.items()))
    side = _place(resolution, (len(candidates), said), work)
    marks = [mark_of(one, *_verdict(one, resolution, side)) for one in standing]
    marks += [
        mark_of(one, Verdict.OUTDONE, why)
        for why, ones in outdone.items()
        for one in ones
    ]
    return side, tuple(marks)


def _not_counted(outdone: Sequence[Candidate]) -> str:
    many = len(outdone)
    return f"{many} other {'mark does' if many == 1 else 'marks do'} not."


def mark_of(candidate: Candidate, verdict: Verdict, why: str) -> Mark:
    """Return a candidate as a mark, with what became of it."""
    return Mark(
        candidate.roi,
        verdict,
        why,
        candidate.marked,
        candidate.laterality,
        candidate.area_mm2,
    )


def _verdict(one: Candidate, resolution: Resolution, side: Side) -> tuple[Verdict, str]:
    """Say what became of a mark that counted on its side."""
    stop = side.stop
    if stop is not None and (one is resolution.winner or one in resolution.contested):
        return Verdict.UNDECIDED, stop.detail
    if one is resolution.winner:
        return Verdict.WON, side.selection.why[0] if side.selection else ""
    if one in resolution.merged:
        return Verdict.MERGED, "Its reader and the winner's agree on the lesion."
    best = resolution.winner
    return Verdict.OUTDONE, (
        f"{one.area_mm2:.0f} mm\u00b2 is no larger than the "
        f"{best.area_mm2:.0f} mm\u00b2 on {name_of(best.marked)}."
    )


def _place(
    resolution: Resolution, told: tuple[int, tuple[str, ...]], work: Work
) -> Side:
    """Move the winning mark to the wanted phase, unless something forbids it."""
    best = resolution.winner
    side = Side(best.laterality)
    try:
        found = dynamic.find(best.marked, work.target.study)
        side = replace(
            side, phases=found.phases, told_by=found.told_by, gaps=found.gaps
        )
        _demand_agreement(resolution)
        analysed, phase, moved = placement.move(best.marked, found, work.target)
        waived = placement.demand_no_gap(found, work.accepted)
    except StudyHeldError as error:
        return replace(side, stop=Stop(error.reason, error.detail))
    count, reasons = told
    home = work.homes.get(best.roi.carrier_sop_instance_uid or "")
    selection = Selection(
        roi=resolution.roi,
        sop_instance_uid=analysed.sop_instance_uid,
        frame=analysed.frame,
        path=analysed.path,
        phase=phase,
        laterality=best.laterality,
        laterality_derived=best.derived,
        area_mm2=_area_mm2(resolution),
        candidates=count,
        why=(
            *reasons,
            *resolution.why,
            *best.notes,
            *_from_afar(home, best.marked),
            *_by_hand(best.roi),
            *moved,
            *waived,
        ),
    )
    return replace(side, selection=selection)


def _demand_agreement(resolution: Resolution) -> None:
    """Refuse a choice between readers that only a person may make.

    Raises:
        StudyHeldError: `roi_conflict`.
    """
    if resolution.conflict is not None:
        raise StudyHeldError(Reason.ROI_CONFLICT, resolution.conflict)


def _area_mm2(resolution: Resolution) -> float:
    return replace(resolution.winner, roi=resolution.roi).area_mm2


def _by_hand(roi: Roi) -> tuple[str, ...]:
    """Say who set a rectangle that no workstation drew."""
    if roi.carrier is not Carrier.MANUAL:
        return ()
    return (f"The rectangle was set by hand, by {roi.author}.",)


def _from_afar(home: str | None, marked: MrImage) -> tuple[str, ...]:
    if not home or home == marked.study_uid:
        return ()
    return (f"The mark came in another study, {home}, and names an image of this one.",)


def _largest(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Return the rectangle of the largest area; of equals the middle slice's."""
    top = max(one.area_mm2 for one in candidates)
    equal = [one for one in candidates if np.isclose(one.area_mm2, top, rtol=1e-6)]
    heights = [height(one.marked) for one in equal]
    middle = (min(heights) + max(heights)) / 2
    best = min(
        equal,
        key=lambda one: (
            abs(height(one.marked) - middle),
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
