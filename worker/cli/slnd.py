"""`sentinode slnd`: record results of sentinel lymph node dissection."""

import hmac
import sys
from contextlib import suppress
from datetime import datetime
from typing import Final

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import StateError
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.ledger import StudyRecord
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid
from worker import outcomes
from worker.cli.context import (
    Site,
    json_option,
    operator,
    print_json,
    print_table,
    rfc3339,
    site_options,
)
from worker.outcomes import CaseRecord

DEPOSIT_RESULT: Final = {
    Deposit.MACRO: Slnd.POSITIVE,
    Deposit.MICRO: Slnd.POSITIVE,
    Deposit.ITC: Slnd.NEGATIVE,
}
"""A deposit above 0.2 mm is positive; isolated tumour cells, pN0(i+), are not."""


@click.group("slnd")
def command() -> None:
    """Record results of sentinel lymph node dissection (SLND)."""


def _case(session: Session, study: StudyRecord, side: Laterality) -> CaseRecord:
    for case in outcomes.cases(session, study.study_uid):
        if case.laterality is side:
            return case
    raise StateError(
        f"study {study.study_uid} has no analysed case on side {side}; it is "
        f"{study.state}, see `sentinode studies show`"
    )


def _check_patient(
    site: Site, study: StudyRecord, patient_id: str, issuer: str
) -> None:
    """Compare a Patient ID with the study's; both are known here only as a hash."""
    secret = patient_secret(site.settings)
    key = ledger.patient_key(secret, patient_id)
    same = bool(patient_id) and hmac.compare_digest(key, study.patient_key)
    if issuer and study.issuer_key is not None:
        theirs = ledger.issuer_key(secret, issuer, patient_id)
        same = same and theirs == study.issuer_key
    if not same:
        raise StateError(
            f"the patient ID is not that of study {study.study_uid}; nothing was "
            "recorded"
        )


def _check_deposit(result: Slnd, deposit: Deposit | None) -> None:
    if deposit is not None and result is not DEPOSIT_RESULT[deposit]:
        raise click.UsageError(
            f"a deposit of {deposit} is {DEPOSIT_RESULT[deposit]}, not {result}"
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
    yes: bool,
    as_json: bool,
) -> None:
    """Record the SLND result of one side of a study.

    A positive result opens stage II, a negative one ends the case, `withdrawn`
    re-opens it. Nothing is overwritten: a correction is a new record.
    """
    if patient_id == "-" and not yes:
        raise click.UsageError("a patient ID from stdin needs --yes")
    if performed_on and performed_on.date() > now().date():
        raise click.UsageError("the dissection cannot lie in the future")
    if patient_id == "-":
        patient_id = sys.stdin.readline().strip()
    slnd = SlndResult(
        result=Slnd(result),
        deposit=Deposit(deposit) if deposit else None,
        performed_on=performed_on.date() if performed_on else None,
        source=source,
        recorded_at=now(),
    )
    _check_deposit(slnd.result, slnd.deposit)
    with site.reading() as session:
        study = ledger.study(session, StudyUid(uid))
        _check_patient(site, study, patient_id, issuer)
        case = _case(session, study, Laterality(side))
    if not yes:
        _show(case, slnd)
        click.confirm("Record this result?", abort=True, err=True)
    with site.writing.begin() as session:
        # The study's row is locked first. An analysis under way looks for new SLND
        # results when it ends, and a study that still receives will be analysed; one
        # that contradicts itself waits for a person.
        with suppress(StateError):
            ledger.requeue(
                session, study.study_uid, now(), f"SLND {side}: {slnd.result}"
            )
        slnd_id = outcomes.record_slnd(session, uid, case.laterality, slnd, operator())
        state = ledger.study(session, study.study_uid).state
    if as_json:
        print_json(
            {
                "slnd_id": slnd_id,
                "study_uid": uid,
                "laterality": side,
                "result": slnd.result,
                "recorded_at": rfc3339(slnd.recorded_at),
            }
        )
    else:
        click.echo(f"recorded: SLND {slnd.result}, side {side}; the study is {state}")


def _show(case: CaseRecord, slnd: SlndResult) -> None:
    newest = case.newest
    derived = ", derived from the geometry" if newest.laterality_derived else ""
    print_table(
        "RESEARCH USE ONLY, not a diagnosis",
        ("", ""),
        [
            ("study", case.study_uid),
            ("side", f"{case.laterality}{derived}"),
            ("pathway", case.pathway),
            ("SLND so far", newest.slnd.result if newest.slnd else "not recorded"),
            ("SLND new", slnd.result),
        ],
        err=True,
    )
