"""What a segmentation says of its frames: where they lie, whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import Dataset

from dicom_node.attributes import number, numbers
from dicom_node.errors import UnreadableObjectError
from dicom_node.geometry import Plane
from dicom_node.roi import seg_frames
from dicom_node.roi.seg_frames import Layout
from dicom_node.roi.study_images import StudyImages, named

MAX_SEGMENTS: Final = 256


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A segmentation whose claims agree with each other.

    `segments` are the descriptions by number; `frames` the groups of each frame.
    """

    document: Dataset
    size: Layout
    shared: Dataset
    frames: Sequence[Dataset]
    segments: Mapping[int, Dataset]
    images: StudyImages

    def group(self, frame: int, keyword: str) -> Dataset:
        """Return a functional group of a frame (from 0), an empty one if missing."""
        for groups in (self.frames[frame], self.shared):
            items: Sequence[Dataset] = groups.get(keyword) or ()
            if items:
                return items[0]
        return Dataset()

    def plane(self, frame: int) -> Plane | None:
        """Return where a frame lies in the patient."""
        measures = self.group(frame, "PixelMeasuresSequence")
        orientation = self.group(frame, "PlaneOrientationSequence")
        position = self.group(frame, "PlanePositionSequence")
        at = numbers(position, "ImagePositionPatient", 3)
        along = numbers(orientation, "ImageOrientationPatient", 6)
        spacing = numbers(measures, "PixelSpacing", 2)
        if at is None or along is None or spacing is None or min(spacing) <= 0:
            return None
        if not np.cross(along[:3], along[3:]).any():
            return None
        return Plane(at, along, spacing)

    def references(self, frame: int) -> list[Dataset]:
        """Return the images that a frame was derived from."""
        derivations = [
            item
            for groups in (self.frames[frame], self.shared)
            for item in groups.get("DerivationImageSequence") or ()
        ]
        return [
            image
            for item in derivations
            for image in item.get("SourceImageSequence") or ()
        ]

    def sources(self) -> list[Dataset]:
        """Return the study's images that the whole segmentation refers to."""
        return [
            instance
            for series in self.document.get("ReferencedSeriesSequence") or ()
            for instance in series.get("ReferencedInstanceSequence") or ()
            if named(instance)[0] in self.images.by_uid
        ]


def segmentation(document: Dataset, images: StudyImages) -> Segmentation:
    """Return what a segmentation claims of itself, checked.

    Raises:
        UnreadableObjectError: They do not.
    """
    size = seg_frames.layout(document)
    shared = document.get("SharedFunctionalGroupsSequence") or ()
    frames = document.get("PerFrameFunctionalGroupsSequence") or ()
    if len(frames) != size.frames:
        raise UnreadableObjectError(
            f"it claims {size.frames} frames and describes {len(frames)}"
        )
    numbered = {
        number(item, "SegmentNumber"): item
        for item in document.get("SegmentSequence") or ()
    }
    segments = {key: item for key, item in numbered.items() if key}
    if not 1 <= len(segments) <= MAX_SEGMENTS:
        raise UnreadableObjectError(
            f"it describes {len(segments)} segments, not 1-{MAX_SEGMENTS}"
        )
    return Segmentation(
        document, size, shared[0] if shared else Dataset(), frames, segments, images
    )
