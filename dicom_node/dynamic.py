"""The dynamic series that a slice belongs to: phases x slices, and what is missing.

    images on the grid -> one protocol -> slices by position -> phases by order

A phase may be a series or lie within one. Which image is of which phase is told by
whatever attribute gives each slice of a phase the same value.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dicom_node.errors import StudyHeldError
from dicom_node.images import MrImage
from dicom_node.kinds import OF_ORIGINALS, Catalogue, same_timing
from dicom_node.phases import (
    TEMPORAL_POSITION,
    Ordered,
    in_order,
    phase_name,
    same_scan,
)
from dicom_node.planes import SAME_SPACING_MM, along_normal, height, off_axis, same_grid
from dicom_node.study import Reason

Label: TypeAlias = Callable[[MrImage], object]

HERE: Final = 0.0
"""Offset of the slice that is asked about."""

NOTHING: Final = "nothing"
MIN_STEP_MM: Final = 0.1
"""Nearer than this two slices are one slice, measured twice."""

SLAB_GAP_MM: Final = 20.0
"""Farther apart than this, slices do not belong to one slab."""

MAX_NAMED: Final = 4
"""Positions that a sentence names one by one."""

LABELS: Final[tuple[Label, ...]] = (
    lambda image: image.series_uid,
    lambda image: image.temporal_position,
    lambda image: image.acquisition_number,
    lambda image: image.acquired,
    lambda image: image.trigger_time,
    lambda image: (image.series_uid, image.acquisition_number),
    lambda image: (image.series_uid, image.temporal_position),
)
"""What all slices of one phase may share, and no two phases."""


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The phases at the position of a slice, in order; None where one lacks it.

    `told_by` names what told the order. `gaps` has a sentence for each phase or
    position that is missing; `copies` are repeats of a time point, left out.
    """

    phases: tuple[MrImage | None, ...]
    told_by: str
    gaps: tuple[str, ...] = ()
    copies: tuple[MrImage, ...] = ()

    @property
    def present(self) -> tuple[MrImage, ...]:
        """The phases that hold the slice."""
        return tuple(one for one in self.phases if one is not None)

    @property
    def is_numbered(self) -> bool:
        """Whether the numbers of the phases leave no room for one between them."""
        positions = [one.temporal_position for one in self.present]
        if self.told_by == TEMPORAL_POSITION:
            return positions == list(range(1, len(positions) + 1))
        numbers = [one.acquisition_number for one in self.present]
        first = numbers[0] if numbers else None
        return first is not None and numbers == list(range(first, first + len(numbers)))


def find(marked: MrImage, study: Catalogue) -> Dynamic:
    """Return the phases at the position of a slice, and what they lack.

    A phase has the frame of reference, matrix, orientation and spacing of the slice
    and its protocol. A subtraction has phases too: those it could be made of.

    Returns:
        Just the slice itself when it stands alone; no phase for a subtraction of
        nothing that is there.

    Raises:
        StudyHeldError: `phase_ambiguous` when no attribute tells the order.
    """
    orders = {at: in_order(one) for at, one in _slices(marked, study).items()}
    here = orders.get(HERE, Ordered((), NOTHING))
    full = max(orders.values(), key=lambda order: len(order.images), default=here)
    unstated = _unstated(full)
    if all(len(order.images) == len(full.images) for order in orders.values()):
        return Dynamic(here.images, here.told_by, unstated, here.copies)
    label = _label(orders.values(), len(full.images))
    if label is None:
        whole = len(here.images) == len(full.images)
        phases = here.images if whole else ()
        gaps = (*unstated, _nameless(orders.values(), len(full.images)))
        return Dynamic(phases, here.told_by, gaps, here.copies)
    names = [label(one) for one in full.images]
    by_name = {label(one): one for one in here.images}
    gaps = (*unstated, *_lacking(orders, full, label))
    return Dynamic(
        tuple(by_name.get(name) for name in names), full.told_by, gaps, here.copies
    )


def before_contrast(image: MrImage, study: Catalogue) -> MrImage | None:
    """Return the first phase at the position of an image, None where it is that one.

    None, too, where the first phase lacks the position.
    """
    first = next(iter(find(image, study).phases), None)
    return None if first == image else first


def count_at(marked: MrImage, study: Catalogue) -> int:
    """Return how many phases the position of a slice has, whatever their order."""
    return len(_slices(marked, study).get(HERE, ()))


def slice_spacing(image: MrImage, images: Sequence[MrImage]) -> float:
    """Return the distance between slices of the image's series, in mm."""
    series = [
        one
        for one in images
        if one.series_uid == image.series_uid and same_grid(image, one)
    ]
    return _step(series, image)


def is_dynamic(study: Catalogue) -> bool:
    """Say whether a study holds a dynamic series of more than one phase."""
    series: dict[str, list[MrImage]] = defaultdict(list)
    for image in study.originals:
        series[image.series_uid].append(image)
    middles = [
        sorted(members, key=lambda one: along_normal(members[0], one))[
            len(members) // 2
        ]
        for members in series.values()
    ]
    return any(count_at(middle, study) > 1 for middle in middles)


def _slices(marked: MrImage, study: Catalogue) -> dict[float, list[MrImage]]:
    """Return the possible phases of a slice and of its neighbours, by offset in mm.

    Offsets count along the normal from the slice, which is at 0.0 (`HERE`). Slices
    beyond a wide gap, like those of the other breast, are another slab.
    """
    members = [one for one in study.originals if _on_grid(marked, one)]
    if study.kind(marked) in OF_ORIGINALS:
        members = _source(marked, members)
    else:
        members = [one for one in members if same_scan(marked, one)]
    reach = _step(members, marked) / 2 + SAME_SPACING_MM
    offsets = sorted((along_normal(marked, one), n) for n, one in enumerate(members))
    clusters: list[list[tuple[float, MrImage]]] = []
    for offset, n in offsets:
        if not clusters or offset - clusters[-1][0][0] > reach:
            clusters.append([])
        clusters[-1].append((offset, members[n]))
    found = {}
    for cluster in clusters:
        at = min((offset for offset, _ in cluster), key=abs)
        at = HERE if abs(at) <= reach and HERE not in found else at
        found[at] = _nearest(cluster, at)
    return {at: found[at] for at in _slab(found)}


def _on_grid(marked: MrImage, other: MrImage) -> bool:
    if not same_grid(marked, other):
        return False
    if marked.position is None or other.position is None or marked.spacing is None:
        return marked == other
    return off_axis(marked, other) <= min(marked.spacing) / 2


def _source(marked: MrImage, members: Sequence[MrImage]) -> list[MrImage]:
    """Return the scan that a subtraction was made of: the one of most phases.

    Raises:
        StudyHeldError: `phase_ambiguous` when two scans fit equally.
    """
    scans: list[list[MrImage]] = []
    for one in members:
        home = next((scan for scan in scans if same_scan(scan[0], one)), None)
        if home is None:
            scans.append([one])
        else:
            home.append(one)
    if not scans:
        return []

    def fit(scan: Sequence[MrImage]) -> tuple[bool, int, int]:
        shared = set(scan[0].image_type) & set(marked.image_type)
        return same_timing(marked, scan[0]), len(shared), len(scan)

    scans.sort(key=fit, reverse=True)
    if len(scans) > 1 and fit(scans[0]) == fit(scans[1]):
        raise StudyHeldError(
            Reason.PHASE_AMBIGUOUS,
            f"The subtraction {marked.sop_instance_uid} could be made of two dynamic "
            "series on its grid; mark the lesion on one of their phases.",
        )
    return scans[0]


def _step(members: Sequence[MrImage], marked: MrImage) -> float:
    """Return the most frequent distance between neighbours of one series, in mm."""
    series: dict[str, list[float]] = defaultdict(list)
    for one in members:
        series[one.series_uid].append(along_normal(marked, one))
    steps: Counter[float] = Counter()
    for offsets in series.values():
        offsets.sort()
        between = (b - a for a, b in itertools.pairwise(offsets))
        steps.update(round(step, 2) for step in between if step > MIN_STEP_MM)
    if not steps:
        return abs(marked.thickness or 0.0) or 1.0
    return max(steps, key=lambda step: (steps[step], -step))


def _nearest(cluster: Sequence[tuple[float, MrImage]], at: float) -> list[MrImage]:
    """Keep the slices of each series that lie nearest; there may be many in time."""
    series: dict[str, list[tuple[float, MrImage]]] = defaultdict(list)
    for offset, image in cluster:
        series[image.series_uid].append((abs(offset - at), image))
    kept = []
    for members in series.values():
        least = min(distance for distance, _ in members)
        kept += [one for distance, one in members if distance - least <= MIN_STEP_MM]
    return kept


def _slab(offsets: Iterable[float]) -> list[float]:
    """Return the offsets that no wide gap parts from 0.0."""
    slab: list[float] = []
    for offset in sorted(offsets):
        if slab and offset - slab[-1] > SLAB_GAP_MM:
            if HERE in slab:
                break
            slab = []
        slab.append(offset)
    return slab


def _label(orders: Iterable[Ordered], phases: int) -> Label | None:
    """Return what tells the phase of an image wherever it lies."""
    slices = [order.images for order in orders]
    for label in LABELS:
        found = {label(one) for images in slices for one in images}
        apart = all(
            len({label(one) for one in images}) == len(images) for images in slices
        )
        if len(found) == phases and apart:
            return label
    return None


def _unstated(full: Ordered) -> tuple[str, ...]:
    """Say which phases the header announces that no slice has."""
    stated = max((one.temporal_positions or 0 for one in full.images), default=0)
    if stated > len(full.images):
        there = len(full.images)
        return (f"The header states {stated} temporal positions; {there} are there.",)
    if full.told_by != TEMPORAL_POSITION:
        return ()
    known = [one.temporal_position or 0 for one in full.images]
    missing = sorted(set(range(known[0], known[-1])) - set(known))
    return tuple(f"Temporal position {one} is missing." for one in missing)


def _lacking(
    orders: Mapping[float, Ordered], full: Ordered, label: Label
) -> Iterator[str]:
    """Name the slices that each phase lacks."""
    for n, phase in enumerate(full.images):
        lacking = [
            order.images[0]
            for order in orders.values()
            if label(phase) not in {label(one) for one in order.images}
        ]
        if lacking:
            series = phase.series_number
            where = "" if series is None else f", series {series}"
            yield (
                f"Phase {n + 1} of {len(full.images)} ({phase_name(n)}{where}) lacks "
                f"{len(lacking)} of {len(orders)} slices: {_positions(lacking)}."
            )


def _positions(images: Sequence[MrImage]) -> str:
    named = [f"{height(one):+.1f} mm" for one in images[:MAX_NAMED]]
    more = len(images) - len(named)
    return "at " + ", ".join(named) + (f" and {more} more" if more else "")


def _nameless(orders: Iterable[Ordered], phases: int) -> str:
    short = [order.images[0] for order in orders if len(order.images) < phases]
    return (
        f"{len(short)} slices have fewer than the {phases} phases of the others "
        f"({_positions(short)}), and nothing tells which phase is missing there."
    )
