"""What the readers of rectangles return, and how they gather it."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Roi
from dicom_node.study import SopInstanceUid

MAX_MARKS: Final = 1000
"""Rectangles of one document; a reader draws a few."""

MAX_REASONS: Final = 50
"""Sentences on one document; a damaged one may fail in a million places."""

MAX_NAME: Final = 64
"""Characters of a label or an author that are kept."""


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


@dataclass(slots=True)
class Found:
    """What one document, named `what` in sentences, has given so far."""

    what: str
    rois: dict[Hashable, Roi] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)

    def add(self, roi: Roi, *distinct: str | None) -> None:
        """Keep a rectangle, once for each place and each `distinct` beside it.

        Raises:
            UnreadableObjectError: More rectangles than a person draws.
        """
        place = tuple(round(edge, 2) for edge in roi.box)
        key = (roi.sop_instance_uid, roi.frame, place, *distinct)
        self.rois.setdefault(key, roi)
        if len(self.rois) > MAX_MARKS:
            raise UnreadableObjectError(
                f"{self.what} holds more than {MAX_MARKS} rectangles, which are no "
                "marks of a reader"
            )

    def refuse(self, why: str) -> None:
        """Say once why something in the document does not count."""
        if len(self.refused) < MAX_REASONS:
            self.refused[f"{self.what}: {why}"] = None

    def reading(self) -> RoiReading:
        """Return what was found."""
        return RoiReading(tuple(self.rois.values()), tuple(self.refused))
