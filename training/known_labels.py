"""What pathology says of the cases in service, and since when it is known."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.findings import Laterality, Stage
from worker import pathology
from worker.tables import CaseRow, LabelValue


class Label(NamedTuple):
    """0 or 1, and when it was entered."""

    value: int
    known_at: datetime


Side = tuple[str, Laterality]
"""Study and side: one case."""


def known(
    session: Session, stage: Stage, *, itc_is_positive: bool
) -> dict[Side, Label]:
    """Return the labels of analysed cases; one without a label is not in it.

    Stage II is asked of SLN-positive cases only.
    """
    analysed = {
        (row.study_uid, row.laterality)
        for row in session.execute(select(CaseRow.study_uid, CaseRow.laterality))
    }
    found: dict[Side, Label] = {}
    for side, said in pathology.known(session, itc_is_positive=itc_is_positive).items():
        positive = said.sln is not None and said.sln.value is LabelValue.POSITIVE
        label = said.sln if stage is Stage.SLN else (said.nsln if positive else None)
        if side in analysed and label and label.value is not LabelValue.UNKNOWN:
            value = int(label.value is LabelValue.POSITIVE)
            found[str(side[0]), side[1]] = Label(value, label.recorded_at)
    return found
