"""`sentinode slnd import`: results of many dissections from a CSV file.

Every line is checked before the first is recorded, and all are recorded together.
Errors name lines, never a patient: the file is the only place that names one.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import NotFoundError, PermanentError, StateError
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid, is_valid_uid
from worker import slnd as rules
from worker.cli.context import (
    Site,
    json_option,
    operator,
    print_json,
    print_table,
    site_options,
)
from worker.slnd import Change, PatientKeys, Provenance, Wanted

REQUIRED: Final = ("patient_id", "side", "result")
OPTIONAL: Final = (
    *("study_uid", "issuer", "deposit", "performed_on", "source", "correction"),
)
DELIMITERS: Final = ",;\t"
MAX_BYTES: Final = 10_000_000
REFUSED: Final = "refused"
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a line would change, or has changed, or why it is refused."""

    line: int
    study_uid: str | None
    side: str | None
    result: str | None
    outcome: str
    detail: str = ""


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--source", default="", help="Where lines without a source come from.")
@click.option("--dry-run", is_flag=True, help="Only show what would happen.")
@click.option("--skip-refused", is_flag=True, help="Record the lines that are right.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def import_file(  # noqa: PLR0913 - one argument for each option
    site: Site,
    *,
    file: Path,
    source: str,
    dry_run: bool,
    skip_refused: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Record the results of a CSV file; imported again, it changes nothing.

    Columns: patient_id, side (L, R), result (positive, negative, withdrawn); also
    study_uid, issuer, deposit (macro, micro, itc), performed_on (YYYY-MM-DD), source
    and correction (yes: may replace the opposite result). Without study_uid the
    newest study before performed_on is taken. Comma, semicolon or tab.

    Example: sentinode slnd import results.csv --source "tumour board" --dry-run
    """
    reader = _reader(_text(file))
    with site.reading() as session:
        checked = list(_checked(session, site, reader, source))
    refused = [one for _, one in checked if one.outcome == REFUSED]
    if not as_json or not (yes or dry_run):
        _show([one for _, one in checked], err=not dry_run)
    if refused and not (dry_run or skip_refused):
        if as_json:
            print_json(_document([one for _, one in checked], recorded=False))
        raise StateError(
            f"{len(refused)} of {len(checked)} line(s) are refused, so nothing was "
            "recorded: correct them, or give --skip-refused"
        )
    if dry_run:
        if as_json:
            print_json(_document([one for _, one in checked], recorded=False))
        return
    if not yes:
        click.confirm("Record these results?", abort=True, err=True)
    done = _record(site, [line for line, _ in checked if line is not None])
    said = sorted([*refused, *done], key=lambda one: one.line)
    if as_json:
        print_json(_document(said, recorded=True))
    else:
        _print_done(said)


def _record(site: Site, lines: Sequence[tuple[Line, StudyUid]]) -> list[Outcome]:
    """Record all lines in one transaction; it locks studies in one order always."""
    done = []
    with site.writing.begin() as session:
        for line, uid in sorted(lines, key=lambda pair: (pair[1], pair[0].number)):
            how = Provenance(operator(), line.correction)
            recorded = rules.record(session, uid, line.side, line.slnd, how)
            done.append(_outcome(line, uid, recorded.change))
    return done


def _text(file: Path) -> str:
    """Read a file in UTF-8, or as spreadsheets in Western Europe write it."""
    content = file.read_bytes()
    if len(content) > MAX_BYTES:
        raise LineError(f"the file is larger than {MAX_BYTES} bytes; nothing was read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _reader(text: str) -> "csv.DictReader[str]":
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
    missing = [name for name in REQUIRED if name not in columns]
    odd = [
        number
        for number, name in enumerate(columns, start=1)
        if name not in {*REQUIRED, *OPTIONAL} or columns.index(name) != number - 1
    ]
    if missing or odd:
        said = [f"column {name} is missing" for name in missing]
        said += [f"column number {number} is unknown or double" for number in odd]
        raise LineError(
            f"line 1: {'; '.join(said)}. Known: {', '.join((*REQUIRED, *OPTIONAL))}"
        )
    reader.fieldnames = columns
    return reader


def _checked(
    session: Session, site: Site, reader: "csv.DictReader[str]", source: str
) -> Iterator[tuple[tuple[Line, StudyUid] | None, Outcome]]:
    """Check every line against the ledger and against the lines before it."""
    said: dict[tuple[StudyUid, Laterality], Line] = {}
    rows = iter(reader)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            why = "cannot be read as CSV, nor what follows"
            yield None, Outcome(reader.line_num, None, None, None, REFUSED, why)
            return
        number = reader.line_num
        try:
            line = _line(site, number, row, source)
            uid = _study(session, site, line)
            earlier = said.setdefault((uid, line.side), line)
            _demand_agreement(line, earlier)
            change = rules.assess(
                session, ledger.study(session, uid), line.side, line.slnd
            )
            _demand_correction(session, uid, line)
        except (StateError, NotFoundError, LineError) as error:
            yield None, Outcome(number, None, None, None, REFUSED, str(error))
        else:
            again = earlier is not line
            yield (
                (line, uid),
                _outcome(line, uid, Change.UNCHANGED if again else change),
            )


def _outcome(line: Line, uid: StudyUid, change: Change) -> Outcome:
    return Outcome(line.number, uid, line.side, line.slnd.result, change)


def _line(site: Site, number: int, row: dict[str, str], source: str) -> Line:
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
    if day is not None and day > now().date():
        raise LineError("performed_on lies in the future")
    return day


def _yes(text: str) -> bool:
    if text.casefold() not in YES | NO:
        raise LineError("correction is neither yes nor no")
    return text.casefold() in YES


def _study(session: Session, site: Site, line: Line) -> StudyUid:
    if line.study_uid is not None:
        study = ledger.study(session, line.study_uid)
        if not line.patient.may_be(study):
            raise LineError(f"the patient ID is not that of study {line.study_uid}")
        return line.study_uid
    if line.slnd.performed_on is None and line.slnd.result is not Slnd.WITHDRAWN:
        raise LineError("without study_uid, performed_on must be given")
    wanted = Wanted((line.patient,), line.side, line.slnd.performed_on)
    return rules.match(session, wanted, site.settings.slnd_window, now().date())


def _demand_agreement(line: Line, earlier: Line) -> None:
    mine, theirs = (
        (one.slnd.result, one.slnd.deposit, one.slnd.performed_on)
        for one in (line, earlier)
    )
    if mine != theirs:
        raise LineError(f"it says otherwise than line {earlier.number} of this case")


def _demand_correction(session: Session, uid: StudyUid, line: Line) -> None:
    if line.correction:
        return
    if rules.contradicts(session, uid, line.side, line.slnd.result):
        raise LineError(
            "it is the opposite of what is recorded; say yes in the column correction"
        )


def _show(outcomes: Sequence[Outcome], *, err: bool) -> None:
    print_table(
        "SLND results to record - RESEARCH USE ONLY",
        ("line", "study", "side", "result", "would be", "why"),
        [
            (one.line, one.study_uid, one.side, one.result, one.outcome, one.detail)
            for one in outcomes
        ],
        err=err,
    )


def _print_done(outcomes: Sequence[Outcome]) -> None:
    for one in outcomes:
        detail = f": {one.detail}" if one.detail else ""
        click.echo(f"line {one.line}: {one.outcome}{detail}")


def _document(outcomes: Sequence[Outcome], *, recorded: bool) -> dict[str, Any]:
    return {
        "recorded": recorded,
        "lines": [
            {
                "line": one.line,
                "study_uid": one.study_uid,
                "laterality": one.side,
                "result": one.result,
                "outcome": one.outcome,
                "detail": one.detail or None,
            }
            for one in outcomes
        ],
    }
