"""The quality gate: what must be true of a crop before any number is recorded.

Each check names itself, its value and its limit in a sentence for a person, who may
overrule it. The limits were set on real breast MRI and on phantoms, with a margin of
at least two between what must pass and what must not; README says which.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.images import MrImage
from worker.manifest import FeatureGate, SizeRange

MIN_LEVELS: Final = 10
"""Grey levels of a crop; marked lesions have 68 and more, air 5 to 10."""

MIN_SPREAD: Final = 0.05
"""p1-p99.5 of the crop as part of the image's; lesions 0.57 and more, air 0.02."""

MAX_SATURATED: Final = 0.05
"""Share of pixels at the crop's maximum; lesions up to 0.011."""

MIN_SIGNAL: Final = 0.35
"""p90 of the crop as part of the image's p95; lesions 1.1 and more, air 0.07."""

MIN_ENHANCEMENT: Final = 0.05
"""Gain of the mean over the image before contrast; marked parts 0.10 and more."""

BRIGHT_SHARE: Final = 0.25
"""Part of a crop that a small lesion in a wide rectangle fills at least."""

MIN_SPACING_MM, MAX_SPACING_MM = 0.1, 5.0
WINDOW: Final = (1.0, 99.5)
TINY: Final = 1e-6
BEFORE_WORDS: Final = frozenset(
    {"nativ", "native", "noncontrast", "pre", "precontrast", "unenhanced"}
)
AFTER_WORDS: Final = frozenset({"dyn", "dynamic", "post", "postcontrast"})

Pixels = NDArray[np.float32]


class Check(StrEnum):
    """What is looked at; stable names, they stand in reports."""

    CONSTANT = "constant"
    SATURATED = "saturated"
    SIGNAL = "signal"
    CONTRAST = "contrast"
    SIZE = "size"
    ORIENTATION = "orientation"
    SPACING = "spacing"
    FEATURES = "features"


@dataclass(frozen=True, slots=True)
class Fault:
    """A check that failed, and the sentence that says by how much."""

    check: Check
    said: str

    def __str__(self) -> str:
        return f"{self.check}: {self.said}"


@dataclass(frozen=True, slots=True)
class Marked:
    """What the gate sees of one side: the analysed image and the marked part of it.

    `sides_mm` are width and height of the rectangle. `image` and `before` are whole
    images (rows, columns), `crop` and `crop_before` their marked parts; what is before
    contrast agent is None where the study has none at the position.
    """

    header: MrImage
    sides_mm: tuple[float, float]
    image: Pixels
    crop: Pixels
    before: Pixels | None = None
    crop_before: Pixels | None = None


def judge(
    marked: Marked, *, after_contrast: bool, sizes: SizeRange | None
) -> tuple[Fault, ...]:
    """Return every fault of a marked image that shows without the network.

    Args:
        marked: One side.
        after_contrast: The model wants an image after contrast agent.
        sizes: The sides that the model learned from, when it says so.
    """
    found = [*_geometry(marked.header), *judge_size(marked.sides_mm, sizes)]
    flat = _constant(marked)
    found += flat or [*_saturated(marked.crop), *_signal(marked)]
    if after_contrast and not flat:
        found += _contrast(marked)
    return tuple(found)


def distance(
    features: NDArray[np.float64],
    mean: NDArray[np.float64],
    whitening: NDArray[np.float64],
) -> float:
    """Return the Mahalanobis distance of features (n,), 1 for a typical case.

    Args:
        features: Of one crop.
        mean: Of the training crops, (n,).
        whitening: Inverse square root of their covariance, (n, n).
    """
    away = whitening @ (features - mean)
    return float(np.sqrt(np.mean(away * away)))


def judge_size(
    sides: tuple[float, float], sizes: SizeRange | None
) -> tuple[Fault, ...]:
    """Say whether a rectangle's sides (mm) are like those of training.

    Args:
        sides: Width and height.
        sizes: The model's range; None lets everything pass.
    """
    if sizes is None:
        return ()
    low, high = sizes.limits
    if all(low <= side <= high for side in sides):
        return ()
    return (
        Fault(
            Check.SIZE,
            f"the rectangle is {sides[0]:.1f} x {sides[1]:.1f} mm, the model is for "
            f"sides of {low:.1f}-{high:.1f} mm",
        ),
    )


def judge_features(away: float | None, gate: FeatureGate | None) -> tuple[Fault, ...]:
    """Say whether a crop is too far from what the network learned from.

    Args:
        away: The crop's `distance`; None when it was not measured.
        gate: The model's limit; None or switched off lets everything pass.
    """
    if gate is None or not gate.enabled or gate.limit is None or away is None:
        return ()
    if math.isfinite(away) and away <= gate.limit:
        return ()
    return (
        Fault(
            Check.FEATURES,
            f"the crop is {away:.2f} away from what the network learned from, "
            f"the limit is {gate.limit:.2f}",
        ),
    )


def _geometry(header: MrImage) -> list[Fault]:
    found = []
    if header.orientation is None:
        found.append(
            Fault(
                Check.ORIENTATION,
                "the image states no orientation of two unit vectors at a right angle",
            )
        )
    spacing = header.spacing or (0.0, 0.0)
    if not all(MIN_SPACING_MM <= one <= MAX_SPACING_MM for one in spacing):
        said = " x ".join(f"{one:g}" for one in spacing)
        found.append(
            Fault(
                Check.SPACING,
                f"the pixels are {said} mm, not within {MIN_SPACING_MM:g}-"
                f"{MAX_SPACING_MM:g} mm",
            )
        )
    return found


def _spread(values: Pixels) -> float:
    low, high = np.percentile(values, WINDOW)
    return float(high - low)


def _constant(marked: Marked) -> list[Fault]:
    levels = len(np.unique(marked.crop))
    if levels < MIN_LEVELS:
        said = f"the marked pixels have {levels} grey levels, at least {MIN_LEVELS}"
        return [Fault(Check.CONSTANT, f"{said} are needed")]
    part = _spread(marked.crop) / max(_spread(marked.image), TINY)
    if part < MIN_SPREAD:
        return [
            Fault(
                Check.CONSTANT,
                f"the marked pixels span {part:.1%} of the image's range, at least "
                f"{MIN_SPREAD:.0%} is needed",
            )
        ]
    return []


def _saturated(crop: Pixels) -> list[Fault]:
    share = float(np.mean(crop == crop.max()))
    if share <= MAX_SATURATED:
        return []
    return [
        Fault(
            Check.SATURATED,
            f"{share:.1%} of the marked pixels are at the same maximum, at most "
            f"{MAX_SATURATED:.0%} may be",
        )
    ]


def _signal(marked: Marked) -> list[Fault]:
    """Tell tissue from air and from suppressed fat, whatever gain and offset."""
    floor, bright = np.percentile(marked.image, (1, 95))
    part = float((np.percentile(marked.crop, 90) - floor) / max(bright - floor, TINY))
    if part >= MIN_SIGNAL:
        return []
    return [
        Fault(
            Check.SIGNAL,
            f"the marked part has {part:.2f} of the image's bright level, at least "
            f"{MIN_SIGNAL:.2f} is needed: it shows air or dark tissue",
        )
    ]


def _contrast(marked: Marked) -> list[Fault]:
    """Compare with the image before contrast agent, or go by what the image says."""
    if marked.before is None or marked.crop_before is None:
        return _named_before(marked.header)
    floor = float(np.percentile(marked.before, 1))
    gain = enhancement(marked.crop, marked.crop_before, floor)
    if gain >= MIN_ENHANCEMENT:
        return []
    return [
        Fault(
            Check.CONTRAST,
            f"the marked part is {gain:+.1%} brighter than before contrast agent, at "
            f"least {MIN_ENHANCEMENT:+.0%} is needed",
        )
    ]


def enhancement(after: Pixels, before: Pixels, floor: float) -> float:
    """Return the relative gain of the mean, or of the brightest quarter's if larger.

    The quarter is chosen by the sum of both images, so that noise does not choose it.

    Args:
        after: Marked part of the image after contrast agent.
        before: The same part before it.
        floor: What no signal looks like.
    """
    total = after.astype(np.float64) + before
    chosen = total >= np.quantile(total, 1 - BRIGHT_SHARE)
    gains = []
    for part in (np.ones_like(chosen), chosen):
        was = float(before[part].mean(dtype=np.float64)) - floor
        is_now = float(after[part].mean(dtype=np.float64)) - floor
        gains.append((is_now - was) / max(was, TINY))
    return max(gains)


def _named_before(header: MrImage) -> list[Fault]:
    said = set(re.findall(r"[a-z]+", header.description.lower()))
    if not said & BEFORE_WORDS or said & AFTER_WORDS:
        return []
    return [
        Fault(
            Check.CONTRAST,
            "the series calls itself one before contrast agent, and no other phase is "
            "there",
        )
    ]


def sentences(faults: Sequence[Fault]) -> str:
    """Join faults to what a person reads."""
    return "; ".join(str(fault) for fault in faults)
