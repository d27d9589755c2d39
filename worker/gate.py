"""The quality gate in the pipeline: what it looks at, and what follows from a fault."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import StudyHeldError, UnreadableObjectError
from dicom_node.findings import Selection
from dicom_node.images import MrImage, read_pixels
from dicom_node.phases import phase_index
from dicom_node.study import Reason
from worker import preprocess, quality
from worker.cascade import StageModel, StageScore
from worker.manifest import Manifest
from worker.quality import Fault, Marked

HOW_TO_OVERRULE: Final = (
    "Look at the study; `sentinode studies requeue UID --accept-quality` gives a "
    "result all the same."
)


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
    x0, y0, x1, y1 = selection.roi.box
    between_rows, between_columns = header.spacing or (0.0, 0.0)
    rest = None if before is None else _pixels_of(before, pixels.shape)
    marked = Marked(
        header=header,
        sides_mm=((x1 - x0) * between_columns, (y1 - y0) * between_rows),
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


def strangeness(model: StageModel, scored: StageScore) -> tuple[Fault, ...]:
    """Judge the features of the pass that gave the score; no second pass is made."""
    known, limit = model.typical, model.manifest.quality
    if known is None or limit is None:
        return ()
    away = quality.distance(scored.features, known.mean, known.whitening)
    return quality.judge_features(away, limit.features)


def held(details: Sequence[str], waived: frozenset[Reason]) -> StudyHeldError:
    """Return the hold of a study, with what is wrong with each of its sides."""
    how = () if Reason.QUALITY in waived else (HOW_TO_OVERRULE,)
    return StudyHeldError(Reason.QUALITY, " ".join((*details, *how)))


def settle(
    selection: Selection, faults: Sequence[Fault], *, accepted: bool, judged: bool
) -> Selection:
    """Hold a side for its faults, or write down that they were overruled.

    Args:
        selection: What was chosen for the side.
        faults: What the gate found.
        accepted: A person overruled the gate for this study as it stands.
        judged: The faults are of an input whose numbers stand already.

    Returns:
        The selection, with each fault among its reasons.

    Raises:
        StudyHeldError: `quality`, when nothing lets the faults pass.
    """
    if not faults:
        return selection
    if not accepted and not judged:
        raise StudyHeldError(
            Reason.QUALITY,
            f"Side {selection.laterality}, quality gate: {quality.sentences(faults)}.",
        )
    how = "overruled by a person" if accepted else "not asked again, the numbers stand"
    said = (f"Quality gate, {how}: {fault}." for fault in faults)
    return replace(selection, why=(*selection.why, *said))
