"""What the readers of rectangles return."""

from dataclasses import dataclass, field

from dicom_node.findings import Roi
from dicom_node.study import SopInstanceUid


@dataclass(frozen=True, slots=True)
class KeyImage:
    """A slice that a person singled out, without a rectangle; `frame` counts from 1."""

    sop_instance_uid: SopInstanceUid
    frame: int
    carrier_sop_instance_uid: SopInstanceUid


@dataclass(frozen=True, slots=True)
class RoiReading:
    """Rectangles that count, and a sentence for each mark that does not, with why."""

    rois: tuple[Roi, ...] = ()
    refused: tuple[str, ...] = field(default=())
    key_images: tuple[KeyImage, ...] = field(default=())
