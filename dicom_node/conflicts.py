"""What several readers say of one side: whether they agree, and who decides.

    adjudicators, if any -> key slices, if any -> the largest -> compared with the
    other readers' marks of the same lesion

Readers may mark one lesion on neighbouring slices. Such marks are not averaged: their
mean would be a rectangle that nobody drew, on a slice that nobody chose. What is not of
one lesion (see `overlap`) is two lesions, of which the largest wins.

The IoU bounds are this project's proposal, not a standard's.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from dicom_node.candidates import SIDES, Candidate, name_of
from dicom_node.findings import Carrier, Roi
from dicom_node.images import MrImage
from dicom_node.overlap import Overlap, compare
from dicom_node.planes import height

ReaderPolicy: TypeAlias = Literal["hold", "mean"]
"""What a site does with readers who agree but for the edges of their rectangles."""

AGREE: Final = 0.7
"""IoU from which two rectangles on one slice say the same."""

IDENTICAL_PX: Final = 1.0
"""Up to this difference of every edge two rectangles are one: a mask covers whole
pixels, viewers round through millimetres."""


ADJUDICATED: Final = (
    "An adjudicator marked this side, or a person at the site set its rectangle: only "
    "that counts."
)
SINGLED_OUT: Final = (
    "A key image singles out a slice of this side: only a mark on it counts."
)
UNNAMED: Final = "an unnamed reader"
MAX_AUTHOR: Final = 64
"""Length of a component group of a person's name (PS3.5 6.2)."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The mark that stands for a side, what agreed with it, and why.

    `roi` is what to analyse: the winner's rectangle or a mean. `conflict` says why
    no mark may stand without a person; `contested` is the other mark then.
    """

    winner: Candidate
    roi: Roi
    why: tuple[str, ...] = ()
    merged: tuple[Candidate, ...] = ()
    conflict: str | None = None
    contested: tuple[Candidate, ...] = ()


def prefer(
    candidates: Sequence[Candidate],
) -> tuple[list[Candidate], dict[str, list[Candidate]]]:
    """Leave the marks that count on a side: adjudicators', then key slices'.

    Returns:
        What is left, and what is not, by a sentence that says why.
    """
    left, outdone = list(candidates), {}
    for why, counts in ((ADJUDICATED, decides), (SINGLED_OUT, _is_key)):
        kept = [one for one in left if counts(one)]
        if kept and len(kept) < len(left):
            outdone[why] = [one for one in left if not counts(one)]
            left = kept
    return left, outdone


def decides(candidate: Candidate) -> bool:
    """Say whether a mark overrules other readers' marks.

    An adjudicator's does, and one that a person set at the site's own command line,
    knowing of the others.
    """
    return candidate.roi.adjudicator or candidate.roi.carrier is Carrier.MANUAL


def _is_key(candidate: Candidate) -> bool:
    return candidate.key


def resolve(
    winner: Candidate,
    candidates: Sequence[Candidate],
    policy: ReaderPolicy,
    images: Sequence[MrImage],
) -> Resolution:
    """Compare the largest mark of a side with what other readers marked there.

    Of each other reader the mark of the same lesion counts that overlaps most.
    """
    overlaps = [
        overlap
        for reader, marks in _by_reader(candidates).items()
        if reader != reader_of(winner.roi)
        if (overlap := _closest(winner, marks, images)) is not None
    ]
    for overlap in overlaps:
        conflict = _conflict(winner, overlap, policy)
        if conflict:
            return Resolution(
                winner, winner.roi, conflict=conflict, contested=(overlap.other,)
            )
    same = [one for one in overlaps if one.is_one_slice]
    why = tuple(_agreement(winner, one) for one in overlaps)
    merged = tuple(one.other for one in overlaps)
    if policy == "hold" or not same or all(_is_identical(winner, one) for one in same):
        return Resolution(winner, winner.roi, why, merged)
    mean, sentence = _mean(winner, same)
    return Resolution(winner, mean, (*why, sentence), merged)


def reader_of(roi: Roi) -> str:
    """Return who marked, as one key: spelling, case and padding do not matter."""
    return " ".join(_name_parts(roi.author)).casefold()


def _name_parts(author: str | None) -> list[str]:
    """Return family name, given name ... of the first way of writing a name."""
    return [
        part.strip()
        for part in (author or "").partition("=")[0].split("^")
        if part.strip()
    ]


def name_of_reader(roi: Roi) -> str:
    """Return how sentences name a reader."""
    return " ".join(_name_parts(roi.author)) or UNNAMED


def _by_reader(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    readers: dict[str, list[Candidate]] = defaultdict(list)
    for one in candidates:
        readers[reader_of(one.roi)].append(one)
    return readers


def _closest(
    winner: Candidate, marks: Sequence[Candidate], images: Sequence[MrImage]
) -> Overlap | None:
    """Return a reader's mark of the winner's lesion, or None: another lesion."""
    found = [compare(winner, one, images) for one in marks]
    same = [one for one in found if one.is_one_lesion]
    return max(same, key=lambda one: (one.is_one_slice, one.iou), default=None)


def _is_identical(winner: Candidate, overlap: Overlap) -> bool:
    edges = zip(winner.roi.box, overlap.box, strict=True)
    return overlap.is_one_slice and all(abs(a - b) <= IDENTICAL_PX for a, b in edges)


def _conflict(winner: Candidate, overlap: Overlap, policy: ReaderPolicy) -> str | None:
    """Return what a person should know and do, or None when there is no conflict."""
    if _is_identical(winner, overlap):
        return None
    agree = overlap.is_comparable and overlap.iou >= AGREE
    if agree and policy == "mean":
        return None
    what = _what(winner, overlap)
    ask = (
        "Ask the readers for one rectangle, have an adjudicator mark the lesion, or "
        "set it with `sentinode roi set`"
    )
    if agree and overlap.is_one_slice:
        return (
            f"{what}: they agree on the lesion, but not within "
            f"{IDENTICAL_PX:.0f} pixel on every edge. {ask}; with "
            "SENTINODE_READERS=mean the mean is taken."
        )
    return f"{what}: this needs consensus. {ask}."


def _what(winner: Candidate, overlap: Overlap) -> str:
    readers = (
        f"{name_of_reader(winner.roi)} and {name_of_reader(overlap.other.roi)} marked "
        f"the {SIDES[winner.laterality]} side"
    )
    if not overlap.is_comparable:
        return (
            f"{readers} in planes that cannot be compared "
            f"({name_of(winner.marked)} and {name_of(overlap.other.marked)})"
        )
    if overlap.is_one_slice:
        return f"{readers} on one slice with IoU {overlap.iou:.2f}"
    return (
        f"{readers} on slices {overlap.apart_mm:.1f} mm apart "
        f"({height(winner.marked):+.1f} and {height(overlap.other.marked):+.1f} mm) "
        f"with IoU {overlap.iou:.2f}"
    )


def _agreement(winner: Candidate, overlap: Overlap) -> str:
    if _is_identical(winner, overlap):
        detail = f"no edge differs by more than {IDENTICAL_PX:.0f} pixel"
    elif overlap.is_one_slice:
        detail = f"IoU of at least {AGREE} is agreement"
    else:
        detail = "the slice of the larger rectangle is analysed"
    return f"{_what(winner, overlap)}: they agree, {detail}."


def _mean(winner: Candidate, overlaps: Sequence[Overlap]) -> tuple[Roi, str]:
    """Return the coordinate-wise mean of marks on one slice, by all their readers."""
    boxes = [winner.roi.box, *(one.box for one in overlaps)]
    x0, y0, x1, y1 = (float(edge) for edge in np.mean(boxes, axis=0))
    rois = [winner.roi, *(one.other.roi for one in overlaps)]
    mean = replace(
        winner.roi, x0=x0, y0=y0, x1=x1, y1=y1, author=_authors(rois), exact=False
    )
    names = " and ".join(name_of_reader(roi) for roi in rois)
    return mean, f"The mean of the rectangles of {names} is analysed, as the site set."


def _authors(rois: Sequence[Roi]) -> str:
    """Name all readers in the length that a person's name may have."""
    whole = " & ".join(roi.author or UNNAMED for roi in rois)
    if len(whole) <= MAX_AUTHOR:
        return whole
    families = [(_name_parts(roi.author) or [UNNAMED])[0] for roi in rois]
    return " & ".join(families)[:MAX_AUTHOR]
