"""Which phases of a dynamic series show one position, and in which order.

Vendors agree on little: phases may be series or lie within one, may share every
description, and may carry no time. What phases do share is geometry and protocol.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias

from dicom_node.errors import StudyHeldError
from dicom_node.images import MrImage
from dicom_node.kinds import same_timing
from dicom_node.study import Reason

PHASE_PATTERN: Final = re.compile(r"pre(?:-contrast)?|post(?:-contrast)?[ -]([1-9]\d?)")

BEFORE_WORDS: Final = frozenset({"before", "mask", "nativ", "native", "pre"})
AFTER_WORDS: Final = frozenset({"after", "delayed", "post"})
PHASE_WORDS: Final = (
    BEFORE_WORDS
    | AFTER_WORDS
    | {
        *("c", "ce", "contrast", "delay", "dyn", "early", "fifth", "first", "fourth"),
        *("gad", "gado", "gd", "km", "late", "min", "mph", "nach", "nd", "o", "pass"),
        *("ph", "phase", "rd", "sec", "second", "sixth", "st", "th", "third", "vor"),
        *("w", "with", "without", "wo"),
    }
)
"""What tells phases of one protocol apart in their descriptions, beside numbers."""

MAX_SPAN_S: Final = 12 * 3600
"""Phases follow within minutes: times further apart passed midnight undated."""


def phase_index(phase: str) -> int:
    """Return the place of a named phase: 0 is before contrast, 1 the first after.

    Args:
        phase: "pre", "pre-contrast", "post-N" or "post-contrast N".

    Raises:
        ValueError: The name has another form.
    """
    match = PHASE_PATTERN.fullmatch(phase)
    if match is None:
        raise ValueError(f"{phase!r} names no phase such as 'post-contrast 1'")
    return int(match[1] or 0)


def phase_name(index: int) -> str:
    """Return the name of the phase at a place, as reports print it."""
    return f"post-contrast {index}" if index else "pre-contrast"


def same_scan(one: MrImage, other: MrImage) -> bool:
    """Say whether two images come of one protocol: same timing, type and name.

    The first value of ImageType is left out: one phase may have been compressed.
    """
    if one.image_type[1:] != other.image_type[1:] or not same_timing(one, other):
        return False
    if one.sequence_name and one.sequence_name == other.sequence_name:
        return True
    return _plain(one.description) == _plain(other.description)


@lru_cache(maxsize=1024)
def _plain(description: str) -> str:
    """Strip what tells phases apart: numbers, and words for before and after."""
    return "".join(one for one in _words(description) if one not in PHASE_WORDS)


def _words(description: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", description.lower())


def demand_beginning(phases: Sequence[MrImage]) -> None:
    """Refuse phases in order of which the first cannot be the one before contrast.

    Raises:
        StudyHeldError: `phase_ambiguous`: a later temporal position comes first, or
            descriptions call the first "post" or a later one "pre".
    """
    first = phases[0].temporal_position or 1
    if first > 1 and len({one.temporal_position for one in phases}) > 1:
        raise StudyHeldError(
            Reason.PHASE_AMBIGUOUS,
            f"The dynamic series begins at temporal position {first}; what came "
            "before is not in the study: send it too.",
        )
    said = [set(_words(one.description)) for one in phases]
    if all(one == said[0] for one in said):
        return
    before = [bool(one & BEFORE_WORDS) and not one & AFTER_WORDS for one in said]
    after = bool(said[0] & AFTER_WORDS) and not said[0] & BEFORE_WORDS
    if after or any(before[1:]):
        raise StudyHeldError(
            Reason.PHASE_AMBIGUOUS,
            "By their descriptions the first of the phases is not the only one before "
            "contrast, so their places do not tell which phase is which; send the "
            "whole dynamic series, or mark the phase to analyse alone.",
        )


@dataclass(frozen=True, slots=True)
class Ordered:
    """Images of one position in the order of acquisition, and what told it.

    `copies` are further images of a time point that is there already.
    """

    images: tuple[MrImage, ...]
    told_by: str
    copies: tuple[MrImage, ...] = ()


Clue: TypeAlias = Callable[[MrImage], float | None]

TEMPORAL_POSITION: Final = "temporal position"
ACQUISITION_NUMBER: Final = "acquisition number"
SERIES_NUMBER: Final = "series number"
CLUES: Final[tuple[tuple[str, Clue], ...]] = (
    (TEMPORAL_POSITION, lambda image: image.temporal_position),
    ("acquisition date and time", lambda image: image.acquired),
    ("acquisition time", lambda image: image.clock),
    ("trigger time", lambda image: image.trigger_time),
    (ACQUISITION_NUMBER, lambda image: image.acquisition_number),
    (SERIES_NUMBER, lambda image: image.series_number),
)
"""What tells the order of phases, the most direct first."""

CLOCKS: Final = frozenset({"acquisition date and time", "acquisition time"})
TIME_POINTS: Final = frozenset({TEMPORAL_POSITION, *CLOCKS, "trigger time"})
"""Clues of which equal values mean one point in time, if others differ."""

PAIR: Final = 2


def in_order(images: Sequence[MrImage]) -> Ordered:
    """Order the images of one position as they were acquired.

    The first clue that gives each image another value decides, unless it runs against
    a more direct one. Of two images that share every statement about time, the one
    of the higher series number is a copy.

    Raises:
        StudyHeldError: `phase_ambiguous` when no clue tells, or clues contradict.
    """
    if len(images) <= 1:
        return Ordered(tuple(images), "being the only one")
    partial: list[Clue] = []
    for name, clue in CLUES:
        if name == SERIES_NUMBER and (copies := _copies(images)):
            return replace(
                in_order([one for one in images if one not in copies]), copies=copies
            )
        values = _values(images, name, clue)
        ordered = tuple(sorted(images, key=lambda one: clue(one) or 0.0))
        if len(set(values)) == len(images) and _agree(partial, ordered):
            return Ordered(ordered, name)
        if name in TIME_POINTS and len(set(values)) > 1:
            partial.append(clue)
    raise StudyHeldError(
        Reason.PHASE_AMBIGUOUS,
        f"{len(images)} images at the marked position could be phases, and neither "
        "temporal position, time nor number tells their order. Ask the sender for the "
        "original series, with their temporal positions or acquisition times.",
    )


def _values(images: Iterable[MrImage], name: str, clue: Clue) -> list[float]:
    """Return a clue of every image; nothing when it cannot be relied on."""
    values = [clue(one) for one in images]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return []
    if name in CLOCKS and max(known) - min(known) > MAX_SPAN_S:
        return []
    return known


def _agree(clues: Sequence[Clue], ordered: Sequence[MrImage]) -> bool:
    """Say whether clues with equal values never run against an order."""
    values = [[clue(one) or 0.0 for one in ordered] for clue in clues]
    return all(each == sorted(each) for each in values)


def _copies(images: Sequence[MrImage]) -> tuple[MrImage, ...]:
    """Return images of a time point that another image of a lower series shows.

    Pairs only, and few: a clock that most images share (GE may write the start of the
    scan into every phase) is too coarse to tell copies from phases.
    """
    points: dict[tuple[object, ...], list[MrImage]] = defaultdict(list)
    for one in sorted(images, key=lambda one: one.series_number or 0):
        points[_point(one)].append(one)
    dated = all(_is_dated(one) for one in images)
    pairs = all(len(members) <= PAIR for members in points.values())
    if not dated or not pairs or len(points) <= len(images) / PAIR:
        return ()
    return tuple(one for members in points.values() for one in members[1:])


def _point(image: MrImage) -> tuple[object, ...]:
    return (
        *(image.temporal_position, image.acquired, image.clock, image.trigger_time),
        image.acquisition_number,
    )


def _is_dated(image: MrImage) -> bool:
    times = (image.temporal_position, image.clock, image.trigger_time)
    return any(one is not None for one in times)
