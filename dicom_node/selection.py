"""Which slice of a study is analysed, and why: the rules, free of any side effect.

marks -> on an image? inside it? which side? -> whose marks count on each side?
      -> the largest of each side -> do other readers agree?
      -> the same position on the phase that the model was trained on -> any gaps?
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dicom_node.attributes import text
from dicom_node.candidates import Candidate, Ground, judge
from dicom_node.conflicts import ReaderPolicy
from dicom_node.dynamic import Dynamic
from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.explanation import Explanation, Mark, Side, Stop, Verdict
from dicom_node.findings import Carrier, Laterality, Selection
from dicom_node.images import StudyObjects
from dicom_node.kinds import Catalogue, catalogue
from dicom_node.phases import phase_index
from dicom_node.placement import AS_MARKED, Target
from dicom_node.region import demand_breast_mr
from dicom_node.roi.reading import RoiReading
from dicom_node.sides import Work, decide, mark_of
from dicom_node.study import Reason

DEFAULT_PHASE: Final = "post-contrast 1"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site may decide about the choice of a slice.

    `require_phase` holds a study whose only phase is the marked one; `overlays` says
    that regions in overlay planes count as marks. `phase`, where a site sets it, takes
    the place of the one that the model was trained on.
    """

    require_phase: bool = False
    readers: ReaderPolicy = "hold"
    overlays: bool = False
    phase: str | None = None


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
    phase = rules.phase or phase
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
    work = Work(target, rules.readers, accepted, _studies_of(objects))
    decided = [decide(judged.sides[side], work) for side in sorted(judged.sides)]
    return replace(
        empty,
        marks=(*(one for each in decided for one in each[1]), *judged.ruled_out),
        sides=tuple(_told(side, ruled_out) for side, _ in decided),
        stop=_first_stop([side for side, _ in decided], unread),
    )


def _first_stop(sides: Sequence[Side], unread: Sequence[str]) -> Stop | None:
    """Return what holds the study: the reason of its first side, all that was said."""
    stops = [side.stop for side in sides if side.stop is not None]
    if not stops:
        return None
    details = dict.fromkeys(stop.detail for stop in stops)
    return Stop(stops[0].reason, " ".join((*details, *unread)))


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
        "No rectangle was found; one in a presentation state, structured report, "
        "segmentation or structure set is needed, or `sentinode roi set`."
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
            *(mark_of(one, Verdict.UNDECIDED, why) for one in waiting),
            *self.ruled_out,
        )


def _judge(reading: RoiReading, study: Catalogue) -> _Judged:
    """Sort rectangles by side, and set aside those that cannot be used.

    A study stops when none can be used, or the side of one is unknown: it could be
    the largest of either. Where a person has set one by hand, that person has seen it.
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
    by_hand = any(roi.carrier is Carrier.MANUAL for roi in reading.rois)
    sideless = [one for one in errors if one.reason is Reason.LATERALITY_UNKNOWN]
    stop = None
    if sideless and not (by_hand and sides):
        stop = Stop(Reason.LATERALITY_UNKNOWN, sideless[0].detail)
    elif not sides:
        stop = Stop(errors[0].reason, " ".join(details))
    return _Judged(sides, tuple(ruled_out), details, stop)


def _studies_of(objects: StudyObjects) -> dict[str, str]:
    return {
        text(one, "SOPInstanceUID"): text(one, "StudyInstanceUID")
        for one in objects.documents
    }
