"""`sentinode pathology`: labels and clinical variables, for training alone.

Every line is checked before the first is recorded, and all are recorded together.
Errors name lines, never a patient.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Laterality
from dicom_node.study import StudyUid
from worker import outcomes, pathology, roles
from worker import slnd as rules
from worker.cli.context import Site, operator, site_options
from worker.cli.pathology_file import OPTIONAL, REQUIRED, Line, read
from worker.cli.printing import json_option, print_json, print_table
from worker.cli.slnd_file import LineError, reader_of, text_of
from worker.pathology import NOTHING, Entry, Label
from worker.slnd import Provenance, Wanted

REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a line would change, or has changed, or why it is refused."""

    line: int
    study_uid: str | None
    side: str | None
    outcome: str
    changes: dict[str, str] = field(default_factory=dict)
    detail: str = ""


@click.group("pathology")
def command() -> None:
    """Labels and clinical variables for training; research use only."""


@command.command("import")
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
    """Record labels and variables of a CSV file; imported again, it changes nothing.

    Columns: patient_id, side (L, R); nsln (positive, negative, unknown), alnd (yes,
    no), alnd_on; sln, deposit, performed_on as in `sentinode slnd import`; size_cm,
    age, menopause, histology, grade, subtype, birads, mri_aln, neoadjuvant,
    surgical_size_cm, surgical_grade; study_uid, issuer, source, correction. An empty
    cell says nothing, the word unknown takes back what was said.

    Example: sentinode pathology import cohort.csv --source "tumour board" --dry-run
    """
    with site.reading() as session:
        checked = list(_checked(session, site, file, source))
    said = [outcome for _, outcome in checked]
    refused = [one for one in said if one.outcome == REFUSED]
    if not as_json or not (yes or dry_run):
        _show(said, err=not dry_run)
    if dry_run or (refused and not skip_refused):
        if as_json:
            print_json(_document(said, recorded=False))
        if not dry_run:
            raise StateError(
                f"{len(refused)} of {len(said)} line(s) are refused, so nothing was "
                "recorded: correct them, or give --skip-refused"
            )
        return
    if not yes:
        click.confirm("Record this?", abort=True, err=True)
    _record(site, [line for line, _ in checked if line is not None])
    if as_json:
        print_json(_document(said, recorded=True))
    else:
        _print_done(said)


def _checked(
    session: Session, site: Site, file: Path, source: str
) -> Iterator[tuple[tuple[Line, StudyUid] | None, Outcome]]:
    """Check every line against what is known and against the lines before it."""
    reader = reader_of(text_of(file), REQUIRED, OPTIONAL)
    seen: dict[tuple[StudyUid, Laterality], int] = {}
    rows = iter(reader)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            why = "cannot be read as CSV, nor what follows"
            yield None, Outcome(reader.line_num, None, None, REFUSED, detail=why)
            return
        number = reader.line_num
        try:
            line = read(site, number, row, source)
            uid = _study(session, site, line)
            _demand_one(seen.setdefault((uid, line.side), number), number)
            changes = _changes(session, site, line, uid)
        except (StateError, NotFoundError, LineError) as error:
            yield None, Outcome(number, None, None, REFUSED, detail=str(error))
        else:
            what = _summary(changes)
            yield (line, uid), Outcome(number, uid, line.side, what, changes)


def _demand_one(earlier: int, number: int) -> None:
    if earlier != number:
        raise LineError(f"line {earlier} is of the same case: make them one")


def _summary(changes: dict[str, str]) -> str:
    """Say in one word what a line changes."""
    for what in ("corrected", "withdrawn", "recorded"):
        if what in changes.values():
            return what
    return "unchanged"


def _study(session: Session, site: Site, line: Line) -> StudyUid:
    if line.study_uid is not None:
        study = ledger.study(session, line.study_uid)
        if not line.patient.may_be(study):
            raise LineError(f"the patient ID is not that of study {line.study_uid}")
        rules.case_of(session, study, line.side)
        return line.study_uid
    if line.day is not None:
        wanted = Wanted((line.patient,), line.side, line.day)
        return rules.match(session, wanted, site.settings.slnd_window, now())
    return _only_study(session, line)


def _only_study(session: Session, line: Line) -> StudyUid:
    found = [
        study.study_uid
        for study in rules.studies_of(session, [line.patient])
        for case in outcomes.cases(session, study.study_uid)
        if case.laterality is line.side
    ]
    if len(found) != 1:
        raise LineError(
            f"the patient has {len(found)} analysed studies on side {line.side}: give "
            "study_uid, or the day of an operation"
        )
    return found[0]


def _changes(session: Session, site: Site, line: Line, uid: StudyUid) -> dict[str, str]:
    current = pathology.known(
        session, itc_is_positive=site.settings.itc_is_positive, study_uid=uid
    ).get((uid, line.side), NOTHING)
    _demand_correction(session, line, uid, current)
    _demand_order(session, line, uid)
    changes = pathology.changes(current, line.said)
    if line.sln is not None:
        study = ledger.study(session, uid)
        changes["sln"] = rules.assess(session, study, line.side, line.sln).value
    return changes


def _demand_correction(
    session: Session, line: Line, uid: StudyUid, current: pathology.Pathology
) -> None:
    opposite = pathology.contradicts(current, line.said) or (
        line.sln is not None
        and rules.contradicts(session, uid, line.side, line.sln.result)
    )
    if opposite and not line.correction:
        raise LineError(
            "it is the opposite of what is recorded; say yes in the column correction"
        )


def _demand_order(session: Session, line: Line, uid: StudyUid) -> None:
    """Refuse an axillary dissection before the MRI that shall predict it."""
    day: date | None = line.said.nsln.performed_on if line.said.nsln else None
    case = rules.case_of(session, ledger.study(session, uid), line.side)
    if day and case.studied_on and day < case.studied_on:
        raise LineError("alnd_on is before the MRI of the study")


def _record(site: Site, lines: Sequence[tuple[Line, StudyUid]]) -> None:
    """Record all lines in one transaction; it locks studies in one order always."""
    at = now()
    with site.writing.begin() as session:
        for line, uid in sorted(lines, key=lambda pair: (pair[1], pair[0].number)):
            ledger.lock(session, uid)
            if line.sln is not None:
                how = Provenance(operator(), line.correction)
                rules.record(session, uid, line.side, line.sln, how)
            entry = Entry(operator(), line.source, at)
            pathology.record(session, (uid, line.side), line.said, entry)


def _show(outcomes_: Sequence[Outcome], *, err: bool) -> None:
    print_table(
        "Labels and clinical variables to record - RESEARCH USE ONLY",
        ("line", "study", "side", "would be", "what", "why"),
        [
            (one.line, one.study_uid, one.side, one.outcome, _told(one), one.detail)
            for one in outcomes_
        ],
        err=err,
    )


def _told(one: Outcome) -> str:
    return ", ".join(f"{name} {what}" for name, what in one.changes.items())


def _print_done(outcomes_: Sequence[Outcome]) -> None:
    for one in outcomes_:
        click.echo(f"line {one.line}: {one.outcome}: {one.detail or _told(one)}")


def _document(outcomes_: Sequence[Outcome], *, recorded: bool) -> dict[str, Any]:
    return {
        "recorded": recorded,
        "lines": [
            {
                "line": one.line,
                "study_uid": one.study_uid,
                "laterality": one.side,
                "outcome": one.outcome,
                "changes": one.changes,
                "detail": one.detail or None,
            }
            for one in outcomes_
        ],
    }


@command.command("list")
@click.option("--study", "uid", help="Of one study only.")
@json_option
@site_options
def list_known(site: Site, *, uid: str | None, as_json: bool) -> None:
    """List what is known of each side: labels, clinical variables.

    Example: sentinode pathology list --json
    """
    study_uid = StudyUid(uid) if uid else None
    with site.reading() as session:
        if study_uid is not None:
            ledger.study(session, study_uid)
        found = pathology.known(
            session,
            itc_is_positive=site.settings.itc_is_positive,
            study_uid=study_uid,
        )
        patients = {one.study_uid: one.patient_key for one in ledger.studies(session)}
        parts = roles.all_roles(session)
    rows = [
        {
            "study_uid": side[0],
            "laterality": side[1],
            "sln": _label(one.sln),
            "nsln": _label(one.nsln),
            "clinical": {name.value: value for name, value in one.clinical.items()},
            "role": parts[key][0] if (key := patients[side[0]]) in parts else None,
        }
        for side, one in sorted(found.items())
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "Labels and clinical variables",
        ("study", "side", "SLN", "NSLN", "clinical", "role"),
        [
            (
                row["study_uid"],
                row["laterality"],
                one.sln.value if one.sln else None,
                one.nsln.value if one.nsln else None,
                ", ".join(f"{name} {value}" for name, value in one.clinical.items()),
                row["role"],
            )
            for row, (_, one) in zip(rows, sorted(found.items()), strict=True)
        ],
    )


def _label(label: Label | None) -> dict[str, object] | None:
    if label is None:
        return None
    return {
        "value": label.value,
        "performed_on": label.performed_on,
        "source": label.source,
        "recorded_at": label.recorded_at,
    }
