"""The quality gate in the pipeline: what it looks at, and what follows from a fault."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import StudyHeldError, UnreadableObjectError
from dicom_node.findings import Selection, Stage
from dicom_node.images import MrImage, read_pixels
from dicom_node.phases import phase_index
from dicom_node.study import Reason
from worker import preprocess, quality
from worker.cascade import StageModel, StageScore
from worker.manifest import Manifest
from worker.quality import Check, Fault, Marked

HOW_TO_OVERRULE: Final = (
    "Look at the study; `sentinode studies requeue UID --accept-quality` gives a "
    "result all the same."
)


def sides_mm(selection: Selection, image: MrImage) -> tuple[float, float]:
    """Return width and height of the rectangle in mm, 0 where pixels have no size."""
    x0, y0, x1, y1 = selection.roi.box
    between_rows, between_columns = image.spacing or (0.0, 0.0)
    return (x1 - x0) * between_columns, (y1 - y0) * between_rows


def look(
    selection: Selection,
    header: MrImage,
    before: MrImage | None,
    pixels: NDArray[np.float32],
    manifest: Manifest,
) -> tuple[Fault, ...]:
    """Judge the marked part of an image before a network sees it.

    Args:
        selection: What was chosen.
        header: The analysed image.
        before: The image before contrast agent at the same position, if there is one.
        pixels: The analysed image, (rows, columns).
        manifest: Of the first stage.
    """
    rest = None if before is None else _pixels_of(before, pixels.shape)
    marked = Marked(
        header=header,
        sides_mm=sides_mm(selection, header),
        image=pixels,
        crop=_cut(pixels, selection),
        before=rest,
        crop_before=None if rest is None else _cut(rest, selection),
    )
    return quality.judge(
        marked,
        after_contrast=phase_index(manifest.preprocessing.phase) > 0,
        sizes=manifest.quality.sides if manifest.quality else None,
    )


def _cut(image: NDArray[np.float32], selection: Selection) -> NDArray[np.float32]:
    rows, columns = image.shape
    window = preprocess.pixel_window(selection.roi.box, (rows, columns))
    return image[window.top : window.bottom, window.left : window.right]


def _pixels_of(image: MrImage, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Decode the image to compare with; one that is damaged is as good as none."""
    try:
        pixels = read_pixels(image.path, image.frame)
    except UnreadableObjectError:
        return None
    return pixels if pixels.shape == shape else None


def is_constant(faults: Sequence[Fault]) -> bool:
    """Say whether a crop may hold nothing that could be scored."""
    return any(fault.check is Check.CONSTANT for fault in faults)


def strangeness(
    model: StageModel, scored: StageScore, sides: tuple[float, float]
) -> tuple[Fault, ...]:
    """Judge what the pass that gave the score tells; no second pass is made.

    Args:
        model: The stage that ran.
        scored: Its score.
        sides: Of the rectangle, in mm: stage II has a range of its own.
    """
    limits = model.manifest.quality
    if limits is None:
        return ()
    found: tuple[Fault, ...] = ()
    if model.manifest.stage is Stage.NSLN:
        found = quality.judge_size(sides, limits.sides)
    if model.typical is None:
        return found
    known = model.typical
    away = quality.distance(scored.features, known.mean, known.whitening)
    return (*found, *quality.judge_features(away, limits.features))


def held(details: Sequence[str], waived: frozenset[Reason]) -> StudyHeldError:
    """Return the hold of a study, with what is wrong with each of its sides."""
    how = () if Reason.QUALITY in waived else (HOW_TO_OVERRULE,)
    return StudyHeldError(Reason.QUALITY, " ".join((*details, *how)))


def settle(
    selection: Selection,
    fresh: Sequence[Fault],
    standing: Sequence[Fault],
    *,
    accepted: bool,
) -> Selection:
    """Hold a side for its faults, or write down that they were overruled.

    Args:
        selection: What was chosen for the side.
        fresh: Faults that nobody has settled.
        standing: Faults of an input whose numbers stand already.
        accepted: A person overruled the gate for this study as it stands.

    Returns:
        The selection, with each fault among its reasons.

    Raises:
        StudyHeldError: `quality`, when nothing lets the fresh faults pass.
    """
    if fresh and not accepted:
        raise StudyHeldError(
            Reason.QUALITY,
            f"Side {selection.laterality}, quality gate: {quality.sentences(fresh)}.",
        )
    how = "overruled by a person" if accepted else "not asked again, the numbers stand"
    said = (f"Quality gate, {how}: {fault}." for fault in (*fresh, *standing))
    return replace(selection, why=(*selection.why, *said))
