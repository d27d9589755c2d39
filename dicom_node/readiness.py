"""Does a study that still receives hold all that the model needs? Headers alone."""

from collections import Counter
from collections.abc import Sequence

from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.images import MrImage, StudyObjects
from dicom_node.phases import ImageKind, is_gradient_echo, kind, phases_at
from dicom_node.roi.reading import RoiReading
from dicom_node.selection import AS_MARKED, select


def is_ready(objects: StudyObjects, reading: RoiReading, phase: str) -> bool:
    """Say whether each marked side could be analysed now as well as ever.

    Nothing unreadable, every rectangle on the model's own phase, and every phase of
    the dynamic series with as many slices as the others.

    Args:
        objects: What is there of the study.
        reading: The rectangles of its documents.
        phase: The DCE phase that the model was trained on.
    """
    try:
        chosen = select(objects, reading, phase)
    except (StudyHeldError, StudyIgnoredError):
        return False
    by_name = {(one.sop_instance_uid, one.frame): one for one in objects.images}
    return not objects.unreadable and all(
        one.phase != AS_MARKED
        and _is_gap_free(by_name[one.sop_instance_uid, one.frame], objects.images)
        for one in chosen
    )


def _is_gap_free(analysed: MrImage, images: Sequence[MrImage]) -> bool:
    """Say whether every phase at a position has as many slices as the others."""
    slices = [one for one in images if _is_like(one, analysed)]
    at_position = phases_at(analysed, images)
    counts = Counter(one.series_uid for one in slices)
    if len({one.series_uid for one in at_position}) == len(at_position):
        return len({counts[one.series_uid] for one in at_position}) == 1
    return len(slices) % len(at_position) == 0


def _is_like(image: MrImage, analysed: MrImage) -> bool:
    return (
        kind(image) is ImageKind.ORIGINAL
        and is_gradient_echo(image)
        and (image.rows, image.columns) == (analysed.rows, analysed.columns)
    )
