"""What a reader of a cohort should know of how a case came by its label."""

from datetime import date, datetime
from typing import Final

from dicom_node.errors import SettingsError
from dicom_node.findings import Roi

ROI_AFTER_LABEL: Final = "roi_after_label"
"""Whoever drew the rectangle may have known the result."""


def flags_of(roi: Roi, performed_on: str | date | datetime | None) -> str:
    """Return the flags of a case, joined by blanks.

    Args:
        roi: The rectangle; without a time of its own nothing can be said.
        performed_on: When the label was known: a day, or a moment.

    Raises:
        SettingsError: The text is not a day.
    """
    if roi.marked_at is None or not performed_on:
        return ""
    if isinstance(performed_on, datetime):
        return ROI_AFTER_LABEL if roi.marked_at > performed_on else ""
    try:
        day = (
            date.fromisoformat(performed_on)
            if isinstance(performed_on, str)
            else performed_on
        )
    except ValueError:
        raise SettingsError("performed_on is not a day, YYYY-MM-DD") from None
    return ROI_AFTER_LABEL if roi.marked_at.date() > day else ""
