"""Does a study that still receives hold all that the model needs? Headers alone."""

from collections import Counter

from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.images import StudyObjects
from dicom_node.roi.reading import RoiReading
from dicom_node.selection import AS_MARKED, select


def is_ready(objects: StudyObjects, reading: RoiReading, phase: str) -> bool:
    """Say whether each marked side could be analysed now as well as ever.

    Nothing is unreadable, every side has the model's own phase, and the series that
    was marked has as many slices as the one that is analysed.

    Args:
        objects: What is there of the study.
        reading: The rectangles of its documents.
        phase: The DCE phase that the model was trained on.
    """
    try:
        chosen = select(objects, reading, phase)
    except (StudyHeldError, StudyIgnoredError):
        return False
    series = {one.sop_instance_uid: one.series_uid for one in objects.images}
    slices = Counter(one.series_uid for one in objects.images)
    return not objects.unreadable and all(
        one.phase != AS_MARKED
        and slices[series[one.sop_instance_uid]]
        == slices[series[one.roi.sop_instance_uid]]
        for one in chosen
    )
