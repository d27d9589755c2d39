"""What can still be done for a study whose images were purged.

The slice of each newest result is kept, so what follows from a known rectangle still
can be computed: stage II after a dissection, a new version on demand. What needs
another slice, a new rectangle above all, needs the images again.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pydicom import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from dicom_node import roi
from dicom_node.attributes import text
from dicom_node.errors import StudyHeldError
from dicom_node.findings import Laterality, Selection, SlndResult
from dicom_node.phases import phase_index, phase_name
from dicom_node.placement import AS_MARKED
from dicom_node.study import Reason
from worker.case import PriorResult

SEND_AGAIN: Final = "send the whole study again from the PACS"
DRAWN_IN_SPACE: Final = frozenset(
    {Comprehensive3DSRStorage, RTStructureSetStorage, SegmentationStorage}
)
"""What may carry a rectangle that cannot be read without the images."""


def selections(
    priors: Mapping[Laterality, PriorResult],
    slnd: Mapping[Laterality, SlndResult],
    late: Sequence[Dataset],
    phase: str,
) -> tuple[Selection, ...]:
    """Return the kept slices of the cases that need a new version.

    Args:
        priors: The newest result of each side.
        slnd: The dissection results that count now.
        late: The documents that came after the purge.
        phase: The DCE phase that the model was trained on.

    Returns:
        One selection for each side with another dissection result than its newest
        version, or that is to be computed or written anew; none when all stand.

    Raises:
        StudyHeldError: `images_purged`: the images are needed.
    """
    due = {
        side: prior
        for side, prior in sorted(priors.items())
        if prior.stale or prior.rewrite or prior.slnd != slnd.get(side)
    }
    if not due:
        _hold_what_came_late(priors, late)
    return tuple(_kept(side, prior, phase) for side, prior in due.items())


def _hold_what_came_late(
    priors: Mapping[Laterality, PriorResult], late: Sequence[Dataset]
) -> None:
    if not priors:
        raise StudyHeldError(
            Reason.IMAGES_PURGED,
            f"The images were purged before there was a result; {SEND_AGAIN}.",
        )
    marks = [text(ds, "SOPInstanceUID") for ds in late if _may_mark(ds)]
    if marks:
        raise StudyHeldError(
            Reason.IMAGES_PURGED,
            f"After the images were purged came a mark, in document {marks[0]}. It "
            f"cannot be looked at without them; {SEND_AGAIN}. The earlier result "
            "stands until then.",
        )


def _may_mark(document: Dataset) -> bool:
    """Say whether a document holds a rectangle, as far as it can be read by itself."""
    reading = roi.read_rois([document])
    in_space = text(document, "SOPClassUID") in DRAWN_IN_SPACE
    return bool(reading.rois) or (in_space and bool(reading.refused))


def _kept(side: Laterality, prior: PriorResult, phase: str) -> Selection:
    if prior.kept is None:
        raise StudyHeldError(
            Reason.IMAGES_PURGED,
            f"Side {side}: the images were purged, and the analysed slice is not "
            f"among what was kept (missing, damaged, or released); {SEND_AGAIN}.",
        )
    wanted = phase_name(phase_index(phase))
    if prior.stale and prior.kept.phase not in {wanted, AS_MARKED}:
        raise StudyHeldError(
            Reason.IMAGES_PURGED,
            f"Side {side}: the model needs {wanted}, and the slice that was kept is "
            f"{prior.kept.phase}; {SEND_AGAIN}.",
        )
    return prior.kept
