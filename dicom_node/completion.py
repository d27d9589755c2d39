"""When is a study complete? The policy alone: no clock, no database.

A study is complete when nothing of it arrived for a quiet period and no association
that carries it is open. What a study was held for may shorten the wait: the object
that a held study lacked makes it due as soon as its association ends. So does what is
there, when the model needs no more (`dicom_node.selection.is_ready`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from dicom_node.study import Reason, StudyState

ROI_CARRIERS: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.88.11",  # Basic Text SR
        "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
        "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
        "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
        "1.2.840.10008.5.1.4.1.1.88.35",  # Extensible SR
        "1.2.840.10008.5.1.4.1.1.11.1",  # Grayscale Softcopy Presentation State
        "1.2.840.10008.5.1.4.1.1.11.2",  # Color Softcopy Presentation State
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
    }
)
"""Storage SOP classes that can carry a reader's rectangle."""

REFERRING: Final = ROI_CARRIERS | {"1.2.840.10008.5.1.4.1.1.88.59"}
"""Storage SOP classes that can refer to images: those, and key object selections."""

IMAGES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    }
)
"""Storage SOP classes of images that a rectangle can lie on."""

LACKS_AN_OBJECT: Final = frozenset(
    {Reason.NO_ROI, Reason.ROI_IMAGE_MISSING, Reason.INCOMPLETE}
)
"""Reasons that the arrival of one more object can end."""

UNANSWERED_PAUSES: Final = (timedelta(seconds=10), timedelta(seconds=30))
"""How long to wait before an archive that did not answer is asked for its counts
again; after one try more than there are pauses the study goes on without them."""

ABANDONED_AFTER: Final = timedelta(hours=1)
"""An association that brought nothing for a study for so long is not waited for.

Some senders keep one association open for days, and a listener that was replaced
under another name never closes its own. What still comes re-opens the study.
"""


@dataclass(frozen=True, slots=True)
class QuietPeriods:
    """How long a study must be quiet, by the AE title that sends it."""

    default: timedelta
    by_ae: Mapping[str, timedelta] = field(default_factory=dict)

    def of(self, calling_ae: str) -> timedelta:
        """Return the quiet period of one calling AE title."""
        return self.by_ae.get(calling_ae, self.default)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the policy looks at when objects arrive for a study."""

    state: StudyState
    reason: Reason | None
    last_received_at: datetime
    quiet_until: datetime

    @property
    def is_urgent(self) -> bool:
        """Say whether the study waits for its association alone."""
        if self.state is StudyState.RECEIVING:
            return self.quiet_until <= self.last_received_at
        return self.state is StudyState.HELD and self.reason in LACKS_AN_OBJECT


def quiet_until(
    standing: Standing, sop_classes: frozenset[str], at: datetime, quiet: timedelta
) -> datetime:
    """Return the time until which a study waits after objects arrived at `at`."""
    if standing.is_urgent and sop_classes & (ROI_CARRIERS | IMAGES):
        return at
    return at + quiet


def is_abandoned(quiet_until_time: datetime, at: datetime) -> bool:
    """Say whether open associations of a study that was quiet so long are ignored."""
    return quiet_until_time + ABANDONED_AFTER <= at
