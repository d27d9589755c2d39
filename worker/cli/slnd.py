"""`sentinode slnd`: results of sentinel lymph node dissection, by hand."""

import sys
from datetime import date, datetime
from typing import Any

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import StateError
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.ledger import StudyRecord
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid
from worker import outcomes, parking
from worker import slnd as rules
from worker.cli.context import (
    Site,
    json_option,
    operator,
    print_json,
    print_table,
    rfc3339,
    site_options,
)
from worker.cli.slnd_import import import_file
from worker.parking import ParkedRecord
from worker.slnd import Change, Provenance, Recorded
from worker.tables import ParkedState


@click.group("slnd")
def command() -> None:
    """Record results of sentinel lymph node dissection (SLND)."""


command.add_command(import_file)


def check_patient(site: Site, study: StudyRecord, patient_id: str, issuer: str) -> None:
    """Compare a Patient ID with the study's; both are known here only as a hash.

    Raises:
        StateError: It is another one, or none.
    """
    keys = rules.keys_of(patient_secret(site.settings), patient_id, [issuer])
    if not patient_id.strip() or not keys.may_be(study):
        raise StateError(
            f"the patient ID is not that of study {study.study_uid}; nothing was "
            "recorded"
        )


@command.command("set")
@click.option("--study", "uid", required=True, help="Study Instance UID.")
@click.option("--side", required=True, type=click.Choice(["L", "R"]))
@click.option(
    "--patient-id", required=True, help="Must be the study's; `-` reads it from stdin."
)
@click.option("--issuer", default="", help="Issuer of the patient ID, if it has one.")
@click.option("--result", required=True, type=click.Choice([one.value for one in Slnd]))
@click.option("--deposit", type=click.Choice([one.value for one in Deposit]))
@click.option(
    "--performed-on", type=click.DateTime(["%Y-%m-%d"]), help="Day of the dissection."
)
@click.option("--source", required=True, help="Where the result comes from.")
@click.option(
    "--no-correction", is_flag=True, help="Refuse the opposite of what is recorded."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def set_result(  # noqa: PLR0913 - one argument for each option of the contract
    site: Site,
    *,
    uid: str,
    side: str,
    patient_id: str,
    issuer: str,
    result: str,
    deposit: str | None,
    performed_on: datetime | None,
    source: str,
    no_correction: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Record the SLND result of one side of a study.

    A positive result opens stage II, a negative one ends the case, `withdrawn`
    re-opens it. Nothing is overwritten: a correction is a new record, and `--yes`
    says yes to a correction too. The same result again changes nothing.
    """
    if patient_id == "-" and not yes:
        raise click.UsageError("a patient ID from stdin needs --yes")
    if patient_id == "-":
        patient_id = sys.stdin.readline().strip()
    day = performed_on.date() if performed_on else None
    slnd = _result(site, (result, deposit), day, source)
    with site.reading() as session:
        study = ledger.study(session, StudyUid(uid))
        check_patient(site, study, patient_id, issuer)
        shown = _preview(session, study, Laterality(side), slnd)
    if not yes:
        _show(shown)
        click.confirm("Record this result?", abort=True, err=True)
    how = Provenance(operator(), correction=not no_correction)
    with site.writing.begin() as session:
        recorded = rules.record(session, study.study_uid, Laterality(side), slnd, how)
        state = ledger.study(session, study.study_uid).state
    _print_recorded(recorded, slnd, state, as_json=as_json)


def _result(
    site: Site, said: tuple[str, str | None], day: date | None, source: str
) -> SlndResult:
    """Return what is to be recorded, if it can be so at all."""
    if day is not None and day > now().date():
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


def _preview(
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


def _show(rows: list[tuple[str, object]]) -> None:
    print_table("RESEARCH USE ONLY, not a diagnosis", ("", ""), rows, err=True)


def _print_recorded(
    recorded: Recorded, slnd: SlndResult, state: str, *, as_json: bool
) -> None:
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


@command.command("list")
@click.option("--study", "uid", help="Only this Study Instance UID.")
@click.option("--parked", is_flag=True, help="Only results that wait for a case.")
@json_option
@site_options
def list_results(site: Site, *, uid: str | None, parked: bool, as_json: bool) -> None:
    """List recorded results, and those that came and belong to no case yet.

    A parked result is tried again when a study of the patient is analysed; the rest
    needs `slnd resolve` or `slnd discard`.
    """
    with site.reading() as session:
        if uid is not None:
            ledger.study(session, StudyUid(uid))  # a wrong UID is "not found"
        rows = (
            []
            if parked
            else [_recorded_row(one) for one in outcomes.slnd_history(session, uid)]
        )
        rows += [
            _parked_row(one)
            for one in parking.parked(session, uid, waiting_only=parked)
            if one.state is not ParkedState.RECORDED
        ]
    if as_json:
        print_json(rows)
        return
    columns = (
        *("state", "parked_id", "study_uid", "laterality", "result", "deposit"),
        *("performed_on", "reason", "at", "source"),
    )
    print_table(
        "SLND results - RESEARCH USE ONLY",
        columns,
        [[row[name] for name in columns] for row in rows],
    )


def _recorded_row(one: outcomes.SlndRecord) -> dict[str, Any]:
    slnd = one.slnd
    return {
        "state": "recorded" if one.counts else "superseded",
        "slnd_id": slnd.slnd_id,
        "parked_id": None,
        "study_uid": one.study_uid,
        "laterality": one.laterality,
        "result": slnd.result,
        "deposit": slnd.deposit,
        "performed_on": slnd.performed_on,
        "correction": None,
        "reason": None,
        "detail": None,
        "source": slnd.source,
        "at": rfc3339(slnd.recorded_at),
        "by": one.recorded_by,
    }


def _parked_row(one: ParkedRecord) -> dict[str, Any]:
    came = one.arrived
    return {
        "state": one.state,
        "slnd_id": one.slnd_id,
        "parked_id": one.parked_id,
        "study_uid": None,
        "laterality": came.side,
        "result": came.result,
        "deposit": came.deposit,
        "performed_on": came.performed_on,
        "correction": came.correction,
        "reason": one.reason,
        "detail": one.detail,
        "source": came.source,
        "at": rfc3339(one.received_at),
        "by": one.ended_by,
    }


@command.command("resolve")
@click.argument("parked_id", type=int)
@click.option("--study", "uid", help="Study Instance UID; needed when several fit.")
@click.option("--side", type=click.Choice(["L", "R"]), help="Where it is not known.")
@click.option(
    "--result",
    type=click.Choice([one.value for one in Slnd]),
    help="Where it is not known.",
)
@click.option("--deposit", type=click.Choice([one.value for one in Deposit]))
@click.option(
    "--performed-on", type=click.DateTime(["%Y-%m-%d"]), help="Day of the dissection."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def resolve(  # noqa: PLR0913 - one argument for each option
    site: Site,
    *,
    parked_id: int,
    uid: str | None,
    side: str | None,
    result: str | None,
    deposit: str | None,
    performed_on: datetime | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Record a parked result for a case, as a person decides.

    What the options leave out is as it came. The study must be of the patient that
    the result came with; for another one use `slnd set`, then `slnd discard`.
    """
    with site.reading() as session:
        parked = parking.parked_one(session, parked_id)
        if parked.state is not ParkedState.PARKED:
            raise StateError(f"the result {parked_id} is {parked.state} already")
        came = parked.arrived
        study = _study_of(session, parked, uid)
        chosen = _chosen(parked, side)
        said = (
            result or _known(came.result, "--result"),
            deposit or (None if result else came.deposit),
        )
        day = performed_on.date() if performed_on else came.performed_on
        slnd = _result(site, said, day, came.source)
        shown = _preview(session, study, chosen, slnd)
    if not yes:
        _show(shown)
        click.confirm("Record this result?", abort=True, err=True)
    how = Provenance(operator(), correction=True, message_id=came.message_id)
    with site.writing.begin() as session:
        recorded = rules.record(session, study.study_uid, chosen, slnd, how)
        parking.resolve(session, parked_id, recorded, operator(), now())
        state = ledger.study(session, study.study_uid).state
    _print_recorded(recorded, slnd, state, as_json=as_json)


def _chosen(parked: ParkedRecord, side: str | None) -> Laterality:
    return Laterality(side or _known(parked.arrived.side, "--side"))


def _known(value: str | None, option: str) -> str:
    if value is None:
        raise click.UsageError(f"it came without this: say {option}")
    return value


def _study_of(session: Session, parked: ParkedRecord, uid: str | None) -> StudyRecord:
    """Return the study that a person names, or the only one of the patient."""
    found = rules.studies_of(session, parked.arrived.patients)
    if uid is not None:
        named = ledger.study(session, StudyUid(uid))
        if named.study_uid not in {one.study_uid for one in found}:
            raise StateError(
                f"study {uid} is not of the patient of parked result "
                f"{parked.parked_id}; nothing was recorded"
            )
        return named
    if len(found) != 1:
        raise StateError(
            f"{len(found)} studies are of the patient of parked result "
            f"{parked.parked_id}: say which with --study"
        )
    return found[0]


@command.command("discard")
@click.argument("parked_id", type=int)
@click.option("--yes", is_flag=True, help="Do not ask.")
@site_options
def discard(site: Site, *, parked_id: int, yes: bool) -> None:
    """Do not record a parked result; it stays in the list as discarded."""
    with site.reading() as session:
        parked = parking.parked_one(session, parked_id)
    if not yes:
        _show([(name, value) for name, value in _parked_row(parked).items() if value])
        click.confirm("Discard this result?", abort=True, err=True)
    with site.writing.begin() as session:
        parking.discard(session, parked_id, operator(), now())
        text = f"parked result {parked_id} discarded by {operator()}"
        for study in rules.studies_of(session, parked.arrived.patients):
            ledger.add_event(session, study.study_uid, "slnd", text, now())
    click.echo(f"discarded: parked SLND result {parked_id}")
