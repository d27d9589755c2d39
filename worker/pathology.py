"""What pathology and the clinic say of a case: labels and variables, as of any time.

Labels never depend on what a model said. Where no sentinel node or no axilla was
looked at, the label is unknown, never negative. Everything is append-only: what was
known at a time is found again. Callers own the transaction.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.findings import Laterality, Slnd, Stage, deposit_result
from dicom_node.study import StudyUid
from worker.clinical import Variable
from worker.tables import ClinicalRow, LabelRow, LabelValue, SlndRow

Side = tuple[StudyUid, Laterality]
UNKNOWN: Final = LabelValue.UNKNOWN


@dataclass(frozen=True, slots=True)
class Label:
    """A label with where it comes from; `event` names its row."""

    value: LabelValue
    performed_on: date | None
    source: str
    recorded_at: datetime
    event: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of one side, to be recorded: a label of the NSLN, variables.

    A variable that maps to None takes back what was said before.
    """

    nsln: Label | None = None
    clinical: Mapping[Variable, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pathology:
    """What is known of one side of a study."""

    sln: Label | None = None
    nsln: Label | None = None
    clinical: Mapping[Variable, str] = field(default_factory=dict)


NOTHING: Final = Pathology()


def known(
    session: Session,
    *,
    itc_is_positive: bool,
    as_of: datetime | None = None,
    study_uid: StudyUid | None = None,
) -> dict[Side, Pathology]:
    """Return what was known at a time of every side of which anything was said.

    Args:
        session: A session that reads.
        itc_is_positive: The site's rule for isolated tumour cells; it holds for what
            was recorded under another rule too.
        as_of: Until when; None is now.
        study_uid: Of one study only.
    """
    sln = _sln(session, itc_is_positive, as_of, study_uid)
    nsln: dict[Side, Label] = {}
    for row in _rows(session, LabelRow, as_of, study_uid):
        if row.target is Stage.NSLN:
            side = (StudyUid(row.study_uid), row.laterality)
            nsln[side] = _label(row)
    clinical: dict[Side, dict[Variable, str | None]] = defaultdict(dict)
    for one in _rows(session, ClinicalRow, as_of, study_uid):
        side = (StudyUid(one.study_uid), one.laterality)
        clinical[side][Variable(one.variable)] = one.value
    return {
        side: Pathology(sln.get(side), nsln.get(side), _said(clinical.get(side, {})))
        for side in {*sln, *nsln, *clinical}
    }


def _said(values: Mapping[Variable, str | None]) -> dict[Variable, str]:
    return {name: value for name, value in values.items() if value is not None}


R = TypeVar("R", LabelRow, ClinicalRow, SlndRow)


def _rows(
    session: Session, table: type[R], as_of: datetime | None, study_uid: str | None
) -> list[R]:
    """Return the rows until a time, oldest first."""
    query = select(table).order_by(*table.__table__.primary_key)
    if as_of is not None:
        query = query.where(table.recorded_at <= as_of)
    if study_uid is not None:
        query = query.where(table.study_uid == study_uid)
    return list(session.scalars(query))


def _label(row: LabelRow) -> Label:
    event = f"label_event {row.label_id}"
    return Label(row.value, row.performed_on, row.source, row.recorded_at, event)


def _sln(
    session: Session,
    itc_is_positive: bool,  # noqa: FBT001 - passed on by `known`
    as_of: datetime | None,
    study_uid: str | None,
) -> dict[Side, Label]:
    found = {}
    for row in _rows(session, SlndRow, as_of, study_uid):
        result = row.result
        if row.deposit is not None and result is not Slnd.WITHDRAWN:
            result = deposit_result(row.deposit, itc_is_positive=itc_is_positive)
        value = UNKNOWN if result is Slnd.WITHDRAWN else LabelValue(result.value)
        found[StudyUid(row.study_uid), row.laterality] = Label(
            value, row.performed_on, row.source, row.recorded_at, f"slnd {row.slnd_id}"
        )
    return found


def changes(now: Pathology, said: Statement) -> dict[str, str]:
    """Say what recording a statement would change, by name of label or variable.

    Returns:
        `recorded`, `corrected`, `withdrawn` or `unchanged` for each thing said.
    """
    found = {}
    if said.nsln is not None:
        before = now.nsln
        same = before is not None and _same(before, said.nsln)
        was = before.value.value if before is not None else None
        found["nsln"] = "unchanged" if same else _label_change(was)
    for variable, value in said.clinical.items():
        found[variable.value] = _change(now.clinical.get(variable), value)
    return found


def _same(before: Label, said: Label) -> bool:
    """Say whether a label is recorded already; less detail is no correction."""
    days = {None, before.performed_on}
    return before.value is said.value and said.performed_on in days


def _label_change(before: str | None) -> str:
    return "recorded" if before is None else "corrected"


def _change(before: str | None, after: str | None) -> str:
    if before == after:
        return "unchanged"
    if before is None:
        return "recorded"
    return "withdrawn" if after is None else "corrected"


def contradicts(now: Pathology, said: Statement) -> bool:
    """Say whether a statement has the opposite of the NSLN label that counts."""
    if now.nsln is None or said.nsln is None:
        return False
    return UNKNOWN not in (values := {now.nsln.value, said.nsln.value}) and (
        len(values) > 1
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """Who records, from what source, when."""

    by: str
    source: str
    at: datetime


def record(session: Session, side: Side, said: Statement, entry: Entry) -> None:
    """Append what a statement changes; the same again appends nothing."""
    uid, laterality = side
    # The rule for the SLN is of no consequence for what is written here.
    found = known(session, itc_is_positive=False, study_uid=uid)
    now = found.get(side, NOTHING)
    to_do = {name for name, what in changes(now, said).items() if what != "unchanged"}
    if said.nsln is not None and "nsln" in to_do:
        session.add(
            LabelRow(
                study_uid=uid,
                laterality=laterality,
                target=Stage.NSLN,
                value=said.nsln.value,
                performed_on=said.nsln.performed_on,
                source=entry.source,
                recorded_at=entry.at,
                recorded_by=entry.by,
            )
        )
    session.add_all(
        ClinicalRow(
            study_uid=uid,
            laterality=laterality,
            variable=variable.value,
            value=value,
            source=entry.source,
            recorded_at=entry.at,
            recorded_by=entry.by,
        )
        for variable, value in said.clinical.items()
        if variable.value in to_do
    )
    session.flush()
