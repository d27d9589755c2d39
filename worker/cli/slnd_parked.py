"""`sentinode slnd list`, `resolve`, `discard`: what is recorded and what waits."""

from datetime import datetime
from typing import Any

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import StateError
from dicom_node.findings import Deposit, Laterality, Slnd
from dicom_node.ledger import StudyRecord
from dicom_node.study import StudyUid
from worker import outcomes, parking
from worker import slnd as rules
from worker.cli import signed
from worker.cli.context import (
    Site,
    changing,
    dry_run_option,
    operator,
    site_options,
)
from worker.cli.printing import json_option, print_json, print_table, rfc3339
from worker.cli.slnd_record import preview, print_recorded, result_of, said_of, show
from worker.parking import ParkedRecord
from worker.slnd import Provenance
from worker.tables import ParkedState


@click.command("list")
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
        *("performed_on", "reason", "detail", "at", "source"),
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


@click.command("resolve")
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
        slnd = result_of(site, said, day, came.source)
        shown = preview(session, study, chosen, slnd)
    if not yes:
        show(shown)
        click.confirm("Record this result?", abort=True, err=True)
    how = Provenance(operator(), correction=True, message_id=came.message_id)
    with site.writing.begin() as session:
        recorded = rules.record(session, study.study_uid, chosen, slnd, how)
        parking.resolve(session, parked_id, recorded, operator(), now())
        state = ledger.study(session, study.study_uid).state
        signed.thing(
            session,
            site,
            "slnd resolve",
            f"parked {parked_id}",
            said_of(recorded),
            study=study.study_uid,
        )
    print_recorded(recorded, slnd, state, as_json=as_json)


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


@click.command("discard")
@click.argument("parked_id", type=int)
@dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def discard(
    site: Site, *, parked_id: int, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Do not record a parked result; it stays in the list as discarded."""
    with site.reading() as session:
        parked = parking.parked_one(session, parked_id)
    if not yes:
        show([(name, value) for name, value in _parked_row(parked).items() if value])
    if not (yes or dry_run):
        click.confirm("Discard this result?", abort=True, err=True)
    with changing(site, dry_run=dry_run) as session:
        parking.discard(session, parked_id, operator(), now())
        text = f"parked result {parked_id} discarded by {operator()}"
        for study in rules.studies_of(session, parked.arrived.patients):
            ledger.add_event(session, study.study_uid, "slnd", text, now())
        signed.thing(session, site, "slnd discard", f"parked {parked_id}")
    done = "would be discarded" if dry_run else "discarded"
    if as_json:
        print_json({"parked_id": parked_id, "done": done})
    else:
        click.echo(f"{done}: parked SLND result {parked_id}")
