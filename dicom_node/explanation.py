"""The whole chain from marks to slices: what was considered, what won, and why."""

from dataclasses import dataclass, field
from enum import StrEnum

from dicom_node.findings import Laterality, Roi, Selection
from dicom_node.images import MrImage
from dicom_node.roi.reading import KeyImage
from dicom_node.study import Reason


class Verdict(StrEnum):
    """What became of a mark."""

    WON = "won"
    MERGED = "merged"
    OUTDONE = "outdone"
    RULED_OUT = "ruled out"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a study, or a side of it, is not analysed; `detail` is for a person."""

    reason: Reason
    detail: str
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle that was considered, and what became of it.

    `marked` is None when its image is not there; `laterality` and `area_mm2` are None
    when the rectangle was ruled out before they were known. `reason` is the code of
    what ruled it out, or keeps it from being decided.
    """

    roi: Roi
    verdict: Verdict
    why: str
    marked: MrImage | None = None
    laterality: Laterality | None = None
    area_mm2: float | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One side: the phases at the marked position, and what was chosen or why not.

    `phases` are in order of acquisition, None where a phase lacks the slice;
    `told_by` names what told the order.
    """

    laterality: Laterality
    phases: tuple[MrImage | None, ...] = ()
    told_by: str = ""
    gaps: tuple[str, ...] = ()
    selection: Selection | None = None
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that led to the slices of a study, or kept it from having any.

    `phase` is the one that was wanted. `stop` is what holds or ignores the study; a
    study with a side that cannot be decided has it too.
    """

    phase: str
    marks: tuple[Mark, ...] = ()
    refused: tuple[str, ...] = ()
    key_images: tuple[KeyImage, ...] = ()
    sides: tuple[Side, ...] = field(default=())
    stop: Stop | None = None

    @property
    def chosen(self) -> tuple[Selection, ...]:
        """What is to be analysed, left before right; nothing when stopped."""
        if self.stop is not None:
            return ()
        return tuple(side.selection for side in self.sides if side.selection)
