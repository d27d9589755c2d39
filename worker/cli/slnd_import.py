"""`sentinode slnd import`: results of many dissections from a CSV file.

Every line is checked before the first is recorded, and all are recorded together.
Errors name lines, never a patient: the file is the only place that names one.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Laterality, Slnd
from dicom_node.study import StudyUid
from worker import slnd as rules
from worker.cli import signed
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json, print_table
from worker.cli.slnd_file import Line, LineError, line_of, reader_of, text_of
from worker.cli.slnd_record import said_of
from worker.slnd import Change, Provenance, Wanted

REFUSED: Final = "refused"


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
    reader = reader_of(text_of(file))
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
    said = []
    with site.writing.begin() as session:
        for line, uid in sorted(lines, key=lambda pair: (pair[1], pair[0].number)):
            how = Provenance(operator(), line.correction)
            recorded = rules.record(session, uid, line.side, line.slnd, how)
            done.append(_outcome(line, uid, recorded.change))
            said.append((uid, said_of(recorded)))
        for uid, detail in said:
            signed.studies(session, site, "slnd import", [uid], detail)
    return done


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
            line = line_of(site, number, row, source)
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


def _study(session: Session, site: Site, line: Line) -> StudyUid:
    if line.study_uid is not None:
        study = ledger.study(session, line.study_uid)
        if not line.patient.may_be(study):
            raise LineError(f"the patient ID is not that of study {line.study_uid}")
        return line.study_uid
    if line.slnd.performed_on is None and line.slnd.result is not Slnd.WITHDRAWN:
        raise LineError("without study_uid, performed_on must be given")
    wanted = Wanted((line.patient,), line.side, line.slnd.performed_on)
    return rules.match(session, wanted, site.settings.slnd_window, now())


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
