"""Recording one result by hand: what is said, what is shown, what is printed."""

from datetime import date

import click
from sqlalchemy.orm import Session

from dicom_node.db import now
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.ledger import StudyRecord
from worker import outcomes
from worker import slnd as rules
from worker.cli.context import Site
from worker.cli.printing import print_json, print_table, rfc3339
from worker.slnd import Change, Recorded


def result_of(
    site: Site, said: tuple[str, str | None], day: date | None, source: str
) -> SlndResult:
    """Return what is to be recorded, if it can be so at all."""
    if day is not None and day > rules.newest_day(now()):
        raise click.UsageError("the dissection cannot lie in the future")
    result, deposit = said
    slnd = SlndResult(
        result=Slnd(result),
        deposit=Deposit(deposit) if deposit else None,
        performed_on=day,
        source=source,
        recorded_at=now(),
    )
    rules.demand_consistent(
        slnd.result, slnd.deposit, itc_is_positive=site.settings.itc_is_positive
    )
    return slnd


def preview(
    session: Session, study: StudyRecord, side: Laterality, slnd: SlndResult
) -> list[tuple[str, object]]:
    """Return what is shown before the question; refuse what cannot be recorded."""
    case = rules.case_of(session, study, side)
    change = rules.assess(session, study, side, slnd)
    current = outcomes.slnd_results(session, study.study_uid).get(side)
    derived = case.newest.laterality_derived
    return [
        ("study", case.study_uid),
        ("day of the MRI", case.studied_on or "not in its header"),
        ("side", f"{side}{', derived from the geometry' if derived else ''}"),
        ("pathway", case.pathway),
        ("SLND so far", current.result if current else "not recorded"),
        ("SLND new", slnd.result),
        ("deposit", slnd.deposit),
        ("day of the dissection", slnd.performed_on),
        ("this would be", change),
    ]


def show(rows: list[tuple[str, object]]) -> None:
    """Show on stderr what a question is about."""
    print_table("RESEARCH USE ONLY, not a diagnosis", ("", ""), rows, err=True)


def print_recorded(
    recorded: Recorded, slnd: SlndResult, state: str, *, as_json: bool
) -> None:
    """Print what recording a result changed, and where the study stands now."""
    side = recorded.side
    if as_json:
        print_json(
            {
                "slnd_id": recorded.slnd_id,
                "study_uid": recorded.study_uid,
                "laterality": side,
                "result": recorded.result,
                "change": recorded.change,
                "recorded_at": rfc3339(slnd.recorded_at),
            }
        )
    elif recorded.change is Change.UNCHANGED:
        click.echo(
            f"unchanged: SLND {recorded.result}, side {side}, is recorded already; "
            "nothing new was written"
        )
    else:
        before = f", instead of {recorded.before}" if recorded.before else ""
        click.echo(
            f"{recorded.change}: SLND {recorded.result}, side {side}{before}; the "
            f"study is {state}"
        )


def said_of(recorded: Recorded) -> str:
    """Write what recording a result changed, for the audit trail."""
    before = recorded.before or "none"
    return f"side {recorded.side}: {before} to {recorded.result}, {recorded.change}"
