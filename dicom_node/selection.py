"""Which slice of a study is analysed, and why: the rules, free of any side effect.

marks -> on an image? inside it? which side? -> whose marks count on each side?
      -> the largest of each side -> do other readers agree?
      -> the same position on the phase that the model was trained on -> any gaps?
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dicom_node import conflicts, dynamic, placement
from dicom_node.attributes import text
from dicom_node.candidates import SIDES, Candidate, Ground, judge, name_of
from dicom_node.conflicts import ReaderPolicy, Resolution
from dicom_node.dynamic import Dynamic
from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.explanation import Explanation, Mark, Side, Stop, Verdict
from dicom_node.findings import Laterality, Selection
from dicom_node.images import MrImage, StudyObjects
from dicom_node.kinds import Catalogue, catalogue
from dicom_node.phases import phase_index
from dicom_node.placement import AS_MARKED, Target
from dicom_node.planes import height
from dicom_node.region import demand_breast_mr
from dicom_node.roi.reading import RoiReading
from dicom_node.study import Reason

DEFAULT_PHASE: Final = "post-contrast 1"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site may decide about the choice of a slice.

    `require_phase` holds a study whose only phase is the marked one.
    """

    require_phase: bool = False
    readers: ReaderPolicy = "hold"


DEFAULT_RULES: Final = Rules()
NOTHING_ACCEPTED: Final[frozenset[Reason]] = frozenset()


def select(
    objects: StudyObjects,
    reading: RoiReading,
    phase: str = DEFAULT_PHASE,
    rules: Rules = DEFAULT_RULES,
    accepted: frozenset[Reason] = NOTHING_ACCEPTED,
) -> tuple[Selection, ...]:
    """Choose the slice to analyse on each marked side of a study.

    Args:
        objects: The study.
        reading: The rectangles of its documents.
        phase: The DCE phase that the model was trained on.
        rules: What the site decided.
        accepted: What a person accepted of this study; only `incomplete` counts here.

    Returns:
        One choice for each side with a rectangle, left before right.

    Raises:
        StudyIgnoredError: Not breast MR.
        StudyHeldError: No rectangle, or none that can be used without a guess.
    """
    found = explain(objects, reading, phase, rules, accepted)
    stop = found.stop
    if stop is not None:
        error = StudyIgnoredError if stop.ignored else StudyHeldError
        raise error(stop.reason, stop.detail)
    return found.chosen


def is_ready(
    objects: StudyObjects,
    reading: RoiReading,
    phase: str = DEFAULT_PHASE,
    rules: Rules = DEFAULT_RULES,
) -> bool:
    """Say whether a study can be analysed before its sender has fallen silent.

    Every marked side has its slice on the wanted phase, without a gap, and the
    numbers of the phases leave no room for one that is still to come before it.
    """
    found = explain(objects, reading, phase, rules)
    return bool(found.chosen) and all(
        side.selection is not None
        and side.selection.phase != AS_MARKED
        and Dynamic(side.phases, side.told_by).is_numbered
        for side in found.sides
    )


def explain(
    objects: StudyObjects,
    reading: RoiReading,
    phase: str = DEFAULT_PHASE,
    rules: Rules = DEFAULT_RULES,
    accepted: frozenset[Reason] = NOTHING_ACCEPTED,
) -> Explanation:
    """Return the whole chain from the marks of a study to its slices.

    Takes what `select` takes, and never raises what that raises: it is in `stop`.
    """
    empty = Explanation(phase, (), reading.refused, reading.key_images)
    unread = tuple(f"Not readable: {one}." for one in objects.unreadable)
    stop = _not_for_us(objects)
    if stop is None and not reading.rois:
        stop = Stop(Reason.NO_ROI, " ".join((*_no_roi(reading), *unread)))
    if stop is not None:
        marks = tuple(Mark(one, Verdict.UNDECIDED, stop.detail) for one in reading.rois)
        return replace(empty, marks=marks, stop=stop)
    study = catalogue(objects.images)
    judged = _judge(reading, study)
    if judged.stop is not None:
        detail = " ".join((judged.stop.detail, *unread))
        return replace(
            empty, marks=judged.marks(), stop=replace(judged.stop, detail=detail)
        )
    ruled_out = tuple(f"Ruled out: {one}." for one in reading.refused)
    ruled_out += tuple(f"Ruled out: {one}" for one in judged.problems) + unread
    target = Target(study, phase_index(phase), rules.require_phase)
    work = _Work(target, rules, accepted, _studies_of(objects))
    decided = [_decide(judged.sides[side], work) for side in sorted(judged.sides)]
    return replace(
        empty,
        marks=(*(one for each in decided for one in each[1]), *judged.ruled_out),
        sides=tuple(_told(side, ruled_out) for side, _ in decided),
        stop=_first_stop(side for side, _ in decided),
    )


def _first_stop(sides: Iterable[Side]) -> Stop | None:
    """Return what holds the study: the reason of its first side, all that was said."""
    stops = [side.stop for side in sides if side.stop is not None]
    if not stops:
        return None
    details = dict.fromkeys(stop.detail for stop in stops)
    return Stop(stops[0].reason, " ".join(details))


def _told(side: Side, ruled_out: tuple[str, ...]) -> Side:
    if side.selection is None:
        return side
    why = side.selection.why + ruled_out
    return replace(side, selection=replace(side.selection, why=why))


def _not_for_us(objects: StudyObjects) -> Stop | None:
    try:
        demand_breast_mr(objects)
    except StudyIgnoredError as error:
        return Stop(error.reason, error.detail, ignored=True)
    except StudyHeldError as error:
        return Stop(error.reason, error.detail)
    return None


def _no_roi(reading: RoiReading) -> Iterable[str]:
    yield (
        "No rectangle was found; one in a presentation state or a structured report "
        "(closed polyline in pixels) is needed."
    )
    for one in reading.key_images:
        yield (
            f"A key image was found ({one.sop_instance_uid}, frame {one.frame}): it "
            "chooses the slice only, and a rectangle on it is needed."
        )
    yield from (f"Ruled out: {one}." for one in reading.refused)


@dataclass(frozen=True, slots=True)
class _Judged:
    """Marks by side, and those that cannot be used."""

    sides: Mapping[Laterality, Sequence[Candidate]]
    ruled_out: tuple[Mark, ...]
    problems: tuple[str, ...]
    stop: Stop | None

    def marks(self) -> tuple[Mark, ...]:
        """Return every mark of a study in which none won."""
        why = "Another mark of the study has to be settled first."
        waiting = [one for side in sorted(self.sides) for one in self.sides[side]]
        return (
            *(_mark(one, Verdict.UNDECIDED, why) for one in waiting),
            *self.ruled_out,
        )


def _judge(reading: RoiReading, study: Catalogue) -> _Judged:
    """Sort rectangles by side, and set aside those that cannot be used.

    A study stops when none can be used, or the side of one is unknown: it could be
    the largest of either.
    """
    keys = ((one.sop_instance_uid, one.frame) for one in reading.key_images)
    ground = Ground(
        study, tuple(study.index[one] for one in keys if one in study.index)
    )
    sides: dict[Laterality, list[Candidate]] = defaultdict(list)
    ruled_out: list[Mark] = []
    errors: list[StudyHeldError] = []
    for roi in reading.rois:
        try:
            candidate = judge(roi, ground)
        except StudyHeldError as error:
            errors.append(error)
            marked = study.index.get((roi.sop_instance_uid, roi.frame))
            ruled_out.append(
                Mark(roi, Verdict.RULED_OUT, error.detail, marked, reason=error.reason)
            )
        else:
            sides[candidate.laterality].append(candidate)
    details = tuple(dict.fromkeys(error.detail for error in errors))
    sideless = [one for one in errors if one.reason is Reason.LATERALITY_UNKNOWN]
    stop = None
    if sideless:
        stop = Stop(Reason.LATERALITY_UNKNOWN, sideless[0].detail)
    elif not sides:
        stop = Stop(errors[0].reason, " ".join(details))
    return _Judged(sides, tuple(ruled_out), details, stop)


@dataclass(frozen=True, slots=True)
class _Work:
    """What every side is decided with.

    `homes` names the study that each document came in.
    """

    target: Target
    rules: Rules
    accepted: frozenset[Reason]
    homes: Mapping[str, str]


def _studies_of(objects: StudyObjects) -> dict[str, str]:
    return {
        text(one, "SOPInstanceUID"): text(one, "StudyInstanceUID")
        for one in objects.documents
    }


def _decide(
    candidates: Sequence[Candidate], work: _Work
) -> tuple[Side, tuple[Mark, ...]]:
    """Choose the slice of one side, or say why a person must."""
    standing, outdone = conflicts.prefer(candidates)
    best, reason = _largest(standing)
    resolution = conflicts.resolve(
        best, standing, work.rules.readers, work.target.study.images
    )
    said = (reason, *(f"{why} {_not_counted(ones)}" for why, ones in outdone.items()))
    side = _place(resolution, (len(candidates), said), work)
    marks = [_mark(one, *_verdict(one, resolution, side)) for one in standing]
    marks += [
        _mark(one, Verdict.OUTDONE, why)
        for why, ones in outdone.items()
        for one in ones
    ]
    return side, tuple(marks)


def _not_counted(outdone: Sequence[Candidate]) -> str:
    many = len(outdone)
    return f"{many} other {'mark does' if many == 1 else 'marks do'} not."


def _mark(candidate: Candidate, verdict: Verdict, why: str) -> Mark:
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
    resolution: Resolution, told: tuple[int, tuple[str, ...]], work: _Work
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
    home = work.homes.get(best.roi.carrier_sop_instance_uid)
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
