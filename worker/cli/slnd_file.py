"""A CSV file of dissection results as lines; its errors quote nothing of it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, TypeVar

from dicom_node.db import now
from dicom_node.errors import PermanentError
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid, is_valid_uid
from worker import slnd as rules
from worker.cli.context import Site
from worker.slnd import PatientKeys

REQUIRED: Final = ("patient_id", "side", "result")
OPTIONAL: Final = (
    *("study_uid", "issuer", "deposit", "performed_on", "source", "correction"),
)
DELIMITERS: Final = ",;\t"
MAX_BYTES: Final = 10_000_000
YES: Final = frozenset({"yes", "true", "1"})
NO: Final = frozenset({"", "no", "false", "0"})

E = TypeVar("E", Slnd, Laterality, Deposit)


class LineError(PermanentError):
    """A line that cannot be recorded; the text quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line that can be read."""

    number: int
    patient: PatientKeys
    study_uid: StudyUid | None
    side: Laterality
    slnd: SlndResult
    correction: bool


def text_of(file: Path) -> str:
    """Read a file in UTF-8, or as spreadsheets in Western Europe write it."""
    content = file.read_bytes()
    if len(content) > MAX_BYTES:
        raise LineError(f"the file is larger than {MAX_BYTES} bytes; nothing was read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def reader_of(
    text: str, required: Sequence[str] = REQUIRED, optional: Sequence[str] = OPTIONAL
) -> "csv.DictReader[str]":
    """Return the lines of a file whose columns are all known.

    Raises:
        LineError: A column is missing, unknown or there twice.
    """
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or []]
    except csv.Error:
        raise LineError("line 1 cannot be read as CSV; nothing was recorded") from None
    missing = [name for name in required if name not in columns]
    odd = [
        number
        for number, name in enumerate(columns, start=1)
        if name not in {*required, *optional} or columns.index(name) != number - 1
    ]
    if missing or odd:
        said = [f"column {name} is missing" for name in missing]
        said += [f"column number {number} is unknown or double" for number in odd]
        raise LineError(
            f"line 1: {'; '.join(said)}. Known: {', '.join((*required, *optional))}"
        )
    reader.fieldnames = columns
    return reader


def line_of(site: Site, number: int, row: dict[str, str], source: str) -> Line:
    """Read one line.

    Raises:
        LineError: A field is missing, or is not what its column holds.
        SlndRefusedError: The deposit contradicts the result.
    """
    if None in row or None in row.values():
        raise LineError("it has more or fewer fields than line 1")
    cells = {name: value.strip() for name, value in row.items()}
    if not cells["patient_id"]:
        raise LineError("patient_id is empty")
    result = _one_of(cells, "result", Slnd)
    side = _one_of(cells, "side", Laterality)
    deposit = _one_of(cells, "deposit", Deposit)
    if result is None or side is None:
        raise LineError("side and result must be given")
    rules.demand_consistent(
        result, deposit, itc_is_positive=site.settings.itc_is_positive
    )
    said = cells.get("source") or source
    if not said:
        raise LineError("it names no source, and --source is not given")
    secret = patient_secret(site.settings)
    return Line(
        number=number,
        patient=rules.keys_of(secret, cells["patient_id"], [cells.get("issuer", "")]),
        study_uid=_uid(cells.get("study_uid", "")),
        side=side,
        slnd=SlndResult(result, deposit, _day(cells), said, now()),
        correction=_yes(cells.get("correction", "")),
    )


def _one_of(cells: dict[str, str], name: str, kind: type[E]) -> E | None:
    text = cells.get(name, "")
    known = {one.value.casefold(): one for one in kind}
    if text and text.casefold() not in known:
        allowed = ", ".join(one.value for one in kind)
        raise LineError(f"{name} is none of {allowed}")
    return known.get(text.casefold())


def _uid(text: str) -> StudyUid | None:
    if text and not is_valid_uid(text):
        raise LineError("study_uid is not a UID")
    return StudyUid(text) if text else None


def _day(cells: dict[str, str]) -> date | None:
    text = cells.get("performed_on", "")
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        raise LineError("performed_on is not a day, YYYY-MM-DD") from None
    if day is not None and day > rules.newest_day(now()):
        raise LineError("performed_on lies in the future")
    return day


def _yes(text: str) -> bool:
    if text.casefold() not in YES | NO:
        raise LineError("correction is neither yes nor no")
    return text.casefold() in YES
