"""A CSV file of labels and clinical variables as lines; errors quote nothing of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from dicom_node.db import now
from dicom_node.findings import Laterality, SlndResult
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid, is_valid_uid
from worker import clinical
from worker import slnd as rules
from worker.cli.context import Site
from worker.cli.slnd_file import NO, YES, LineError, line_of
from worker.clinical import Variable
from worker.pathology import Label, Statement
from worker.slnd import PatientKeys
from worker.tables import LabelValue

REQUIRED: Final = ("patient_id", "side")
LABELS: Final = ("nsln", "alnd", "alnd_on", "sln", "deposit", "performed_on")
OPTIONAL: Final = (
    *("study_uid", "issuer", "source", "correction"),
    *LABELS,
    *(variable.value for variable in Variable),
)
VALUES: Final = {
    **dict.fromkeys(("1", "positive"), LabelValue.POSITIVE),
    **dict.fromkeys(("0", "negative"), LabelValue.NEGATIVE),
    "unknown": LabelValue.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line that can be read; `sln` goes the way of `sentinode slnd`."""

    number: int
    patient: PatientKeys
    study_uid: StudyUid | None
    side: Laterality
    source: str
    correction: bool
    said: Statement
    sln: SlndResult | None

    @property
    def day(self) -> date | None:
        """The day of an operation, by which a study is found."""
        days = (self.sln and self.sln.performed_on, self.said.nsln)
        return days[0] or (days[1].performed_on if days[1] else None)


def read(site: Site, number: int, row: dict[str, str], source: str) -> Line:
    """Read one line.

    Raises:
        LineError: A field is missing, or is not what its column holds.
        SlndRefusedError: The deposit contradicts the SLN result.
    """
    if None in row or None in row.values():
        raise LineError("it has more or fewer fields than line 1")
    cells = {name: value.strip() for name, value in row.items()}
    if not cells["patient_id"]:
        raise LineError("patient_id is empty")
    uid = cells.get("study_uid", "")
    if uid and not is_valid_uid(uid):
        raise LineError("study_uid is not a UID")
    if cells["side"].upper() not in {"L", "R"}:
        raise LineError("side is neither L nor R")
    said = cells.get("source") or source
    if not said:
        raise LineError("it names no source, and --source is not given")
    if cells.get("correction", "").casefold() not in YES | NO:
        raise LineError("correction is neither yes nor no")
    statement = Statement(_nsln(cells, said), _variables(cells))
    sln = _sln(site, number, cells, said)
    if sln is None and statement.nsln is None and not statement.clinical:
        raise LineError("it says nothing: every label and variable is empty")
    secret = patient_secret(site.settings)
    return Line(
        number=number,
        patient=rules.keys_of(secret, cells["patient_id"], [cells.get("issuer", "")]),
        study_uid=StudyUid(uid) if uid else None,
        side=Laterality(cells["side"].upper()),
        source=said,
        correction=cells.get("correction", "").casefold() in YES,
        said=statement,
        sln=sln,
    )


def _nsln(cells: Mapping[str, str], source: str) -> Label | None:
    """Return the NSLN label; without axillary dissection nobody can know it."""
    text, done = cells.get("nsln", "").casefold(), cells.get("alnd", "").casefold()
    if text and text not in VALUES:
        raise LineError("nsln is none of positive, negative, unknown")
    if done not in YES | NO:
        raise LineError("alnd is neither yes nor no")
    if not text and not done:
        return None
    value = VALUES.get(text, LabelValue.UNKNOWN)
    if done in NO and done and value is not LabelValue.UNKNOWN:
        raise LineError("nsln has a result, and alnd says that there was no dissection")
    day = _day(cells, "alnd_on")
    return Label(value, day, source, now())


def _variables(cells: Mapping[str, str]) -> dict[Variable, str | None]:
    """Return the variables with a value; the word unknown takes one back."""
    found = {}
    for variable in Variable:
        text = cells.get(variable.value, "")
        if not text:
            continue
        try:
            found[variable] = clinical.canonical(variable, text)
        except ValueError as error:
            raise LineError(str(error)) from None
    return found


def _sln(
    site: Site, number: int, cells: Mapping[str, str], source: str
) -> SlndResult | None:
    """Return the SLN result by the rules of `sentinode slnd import`."""
    if not cells.get("sln"):
        return None
    wanted = ("patient_id", "side", "deposit", "performed_on", "issuer", "study_uid")
    row = {name: cells[name] for name in wanted if name in cells}
    said = {"1": "positive", "0": "negative"}.get(cells["sln"], cells["sln"])
    return line_of(site, number, row | {"result": said}, source).slnd


def _day(cells: Mapping[str, str], name: str) -> date | None:
    text = cells.get(name, "")
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        raise LineError(f"{name} is not a day, YYYY-MM-DD") from None
    if day is not None and day > rules.newest_day(now()):
        raise LineError(f"{name} lies in the future")
    return day
