"""Which images are phases of one dynamic series, and in which order.

Vendors agree on little: phases may be series or lie within one, may share every
description, and may carry no time. What phases do share is geometry and protocol.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final

import numpy as np

from dicom_node.errors import StudyHeldError
from dicom_node.images import MrImage
from dicom_node.study import Reason

PROJECTION_WORDS: Final = frozenset(
    {"MIP", "MINIP", "MPR", "PROJECTION", "REFORMATTED", "RADIAL", "THICK"}
)
SUBTRACTION_WORDS: Final = frozenset({"SUB", "SUBTRACT", "SUBTRACTION"})
DERIVED_WORDS: Final = frozenset(
    {"ADC", "DERIVED", "FA", "KTRANS", "PEI", "TRACEW", "TTP", "WI", "WO"}
)
DESCRIPTION_WORDS: Final = frozenset({"ADC", "MIP", "MPR", "SUB", "SUBTRACTION"})
"""Words that say the same in a series description; "WO" there means "without"."""

SAME_DIRECTION: Final = 1e-3
SAME_SPACING_MM: Final = 1e-3
SAME_PARAMETER: Final = 0.02
"""Relative difference up to which two timing parameters are one protocol."""

PHASE_PATTERN: Final = re.compile(r"pre(?:-contrast)?|post(?:-contrast)?[ -]([1-9]\d?)")


class ImageKind(StrEnum):
    """What an image is to the choice of a slice."""

    ORIGINAL = "an original image"
    SUBTRACTION = "a subtraction"
    PROJECTION = "a projection or reformat"
    DERIVED = "a derived map"


def kind(image: MrImage) -> ImageKind:
    """Say what an image is, from ImageType and the series description."""
    said = _words(image.image_type)
    said |= _words([image.description]) & DESCRIPTION_WORDS
    if said & PROJECTION_WORDS:
        return ImageKind.PROJECTION
    if said & SUBTRACTION_WORDS:
        return ImageKind.SUBTRACTION
    return ImageKind.DERIVED if said & DERIVED_WORDS else ImageKind.ORIGINAL


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[A-Z0-9]+", text.upper())}


def is_gradient_echo(image: MrImage) -> bool:
    """Say whether an image may be of a dynamic series, which is a gradient echo.

    An image that names no sequence may.
    """
    said = set(image.scanning_sequence)
    return not said or ("GR" in said and "EP" not in said)


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


def phases_at(image: MrImage, images: Sequence[MrImage]) -> tuple[MrImage, ...]:
    """Return the phases at the position of an image, in the order of acquisition.

    A phase has the frame of reference, matrix, orientation and spacing of the image
    and its protocol, and a slice within half a slice spacing of it. A subtraction
    has phases too: those of the series on the same grid that has most of them.

    Returns:
        Original images; just the image itself when it stands alone.

    Raises:
        StudyHeldError: `phase_ambiguous` when no attribute tells the order.
    """
    reach = slice_spacing(image, images) / 2
    here = [
        (distance, other)
        for other in images
        if kind(other) is ImageKind.ORIGINAL and is_gradient_echo(other)
        if (distance := _distance(image, other)) is not None
        if distance <= reach
    ]
    if kind(image) is ImageKind.ORIGINAL:
        here = [(distance, one) for distance, one in here if _same_scan(image, one)]
        return _in_order(_nearest(here)) or (image,)
    scans: list[tuple[MrImage, ...]] = []
    for _, first in here:
        if not any(first in scan for scan in scans):
            members = [(d, one) for d, one in here if _same_scan(first, one)]
            scans.append(_in_order(_nearest(members)))
    return max(scans, key=len, default=())


def before_contrast(image: MrImage, images: Sequence[MrImage]) -> MrImage | None:
    """Return the first phase at the position of an image, None where it is that one."""
    first = phases_at(image, images)[:1]
    return first[0] if first and first[0] != image else None


def slice_spacing(image: MrImage, images: Sequence[MrImage]) -> float:
    """Return the distance between slices of the image's series, in mm."""
    offsets = sorted(
        _along_normal(image, other)
        for other in images
        if other.series_uid == image.series_uid and _same_grid(image, other)
    )
    steps = [b - a for a, b in itertools.pairwise(offsets)]
    steps = [step for step in steps if step > SAME_SPACING_MM]
    return min(steps, default=image.thickness or 1.0)


def _nearest(here: Sequence[tuple[float, MrImage]]) -> list[MrImage]:
    """Keep the slices of each series that lie nearest; there may be many in time."""
    series: dict[str, list[tuple[float, MrImage]]] = defaultdict(list)
    for distance, image in here:
        series[image.series_uid].append((distance, image))
    kept = []
    for members in series.values():
        least = min(distance for distance, _ in members)
        kept += [one for d, one in members if d - least <= SAME_SPACING_MM]
    return kept


def _in_order(images: Sequence[MrImage]) -> tuple[MrImage, ...]:
    if len(images) <= 1:
        return tuple(images)
    for read in ORDER:
        found = {read(image): image for image in images}
        known = {key: one for key, one in found.items() if key is not None}
        if len(known) < len(images):
            continue
        if read in TIMES and max(known) - min(known) > MAX_SPAN_S:
            continue
        return tuple(known[key] for key in sorted(known))
    raise StudyHeldError(
        Reason.PHASE_AMBIGUOUS,
        f"{len(images)} images at the marked position could be phases, and neither "
        "temporal position, time nor number tells their order.",
    )


def _acquired(image: MrImage) -> float | None:
    return image.acquired


def _clock(image: MrImage) -> float | None:
    return image.clock


TIMES: Final = (_acquired, _clock)
ORDER: Final[tuple[Callable[[MrImage], float | None], ...]] = (
    lambda image: image.temporal_position,
    *TIMES,
    lambda image: image.trigger_time,
    lambda image: image.acquisition_number,
    lambda image: image.series_number,
)
"""What tells the order of phases, the most direct first."""

MAX_SPAN_S: Final = 12 * 3600
"""Phases follow within minutes: times further apart passed midnight undated."""


def _distance(image: MrImage, other: MrImage) -> float | None:
    """Return how far apart two slices on one grid are, in mm along the normal."""
    if not _same_grid(image, other):
        return None
    if image.position is None or other.position is None or image.spacing is None:
        return 0.0 if image == other else None
    shift = np.subtract(other.position, image.position)
    through = _along_normal(image, other)
    in_plane = float(np.sqrt(max(0.0, float(shift @ shift) - through**2)))
    return abs(through) if in_plane <= min(image.spacing) / 2 else None


def _along_normal(image: MrImage, other: MrImage) -> float:
    if image.position is None or other.position is None or image.orientation is None:
        return 0.0
    normal = np.cross(image.orientation[:3], image.orientation[3:])
    return float(normal @ np.subtract(other.position, image.position))


def _same_grid(one: MrImage, other: MrImage) -> bool:
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    if one.frame_of_reference_uid != other.frame_of_reference_uid:
        return False
    return _close(one.orientation, other.orientation, SAME_DIRECTION) and _close(
        one.spacing, other.spacing, SAME_SPACING_MM
    )


def _close(
    one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float
) -> bool:
    if one is None or other is None:
        return one is other
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


def _same_scan(one: MrImage, other: MrImage) -> bool:
    """Say whether two images come of one protocol: same timing, type and name."""
    if one.image_type != other.image_type:
        return False
    timing = (
        (one.repetition_time, other.repetition_time),
        (one.echo_time, other.echo_time),
        (one.flip_angle, other.flip_angle),
    )
    for a, b in timing:
        if a is not None and b is not None and abs(a - b) > SAME_PARAMETER * abs(a):
            return False
    if one.sequence_name and one.sequence_name == other.sequence_name:
        return True
    return _plain(one.description) == _plain(other.description)


def _plain(description: str) -> str:
    """Strip what tells phases apart: numbers, and words for before and after."""
    plain = re.sub(r"pre|post|native|contrast|phase|[\W\d_]+", "", description.lower())
    return re.sub(r"ph$", "", plain)
