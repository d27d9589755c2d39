"""A study as its marks are judged: its objects, and every rectangle on them."""

from collections.abc import Sequence
from dataclasses import replace

from dicom_node import images, roi
from dicom_node.findings import Roi
from dicom_node.images import StudyObjects
from dicom_node.roi import RoiReading
from dicom_node.selection import Rules
from dicom_node.study import StoredInstance


def read_marked(
    stored: Sequence[StoredInstance], manual: Sequence[Roi], rules: Rules
) -> tuple[StudyObjects, RoiReading]:
    """Read the headers of a study, and the rectangles that count on it.

    Args:
        stored: Its instances and the documents of other studies that mark it, with
            absolute paths.
        manual: Rectangles that a person set by hand.
        rules: What the site decided.
    """
    objects = images.read_study(stored)
    reading = roi.read_rois(objects.documents, objects.images, overlays=rules.overlays)
    return objects, replace(reading, rois=(*reading.rois, *manual))
