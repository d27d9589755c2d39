"""What the readers of rectangles return."""

from dataclasses import dataclass, field

from dicom_node.findings import Roi


@dataclass(frozen=True, slots=True)
class RoiReading:
    """Rectangles that count, and a sentence for each mark that does not, with why."""

    rois: tuple[Roi, ...] = ()
    refused: tuple[str, ...] = field(default=())
