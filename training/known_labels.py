"""What pathology says of live cases, and since when it is known."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy.orm import Session

from dicom_node.findings import Laterality, Slnd, Stage
from worker import outcomes


class Label(NamedTuple):
    """0 or 1, and when it was entered."""

    value: int
    known_at: datetime


Side = tuple[str, Laterality]
"""Study and side: one case."""


def known(session: Session, stage: Stage) -> dict[Side, Label]:
    """Return the labels that count, by case; a case without one is not in it.

    A withdrawn result is no label. Labels of stage II come with the snapshots only.
    """
    if stage is not Stage.SLN:
        return {}
    return {
        (str(one.study_uid), one.laterality): Label(
            int(one.slnd.result is Slnd.POSITIVE), one.slnd.recorded_at
        )
        for one in outcomes.slnd_history(session)
        if one.counts and one.slnd.result is not Slnd.WITHDRAWN
    }
