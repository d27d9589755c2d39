"""`sentinode slnd`: results of sentinel lymph node dissection, by hand."""

from datetime import datetime

import click

from dicom_node import ledger
from dicom_node.errors import StateError
from dicom_node.findings import Deposit, Laterality, Slnd
from dicom_node.ledger import StudyRecord
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid
from worker import slnd as rules
from worker.cli import signed
from worker.cli.context import (
    Site,
    operator,
    patient_id_of,
    site_options,
)
from worker.cli.printing import json_option
from worker.cli.slnd_import import import_file
from worker.cli.slnd_parked import discard, list_results, resolve
from worker.cli.slnd_record import preview, print_recorded, result_of, said_of, show
from worker.slnd import Provenance


@click.group("slnd")
def command() -> None:
    """Record results of sentinel lymph node dissection (SLND)."""


for one in (import_file, list_results, resolve, discard):
    command.add_command(one)


def _check_patient(
    site: Site, study: StudyRecord, patient_id: str, issuer: str
) -> None:
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
    patient_id = patient_id_of(patient_id)
    day = performed_on.date() if performed_on else None
    slnd = result_of(site, (result, deposit), day, source)
    with site.reading() as session:
        study = ledger.study(session, StudyUid(uid))
        _check_patient(site, study, patient_id, issuer)
        shown = preview(session, study, Laterality(side), slnd)
    show(shown)  # by --yes too: whoever reads a script's log sees what was meant
    if not yes:
        click.confirm("Record this result?", abort=True, err=True)
    how = Provenance(operator(), correction=not no_correction)
    with site.writing.begin() as session:
        recorded = rules.record(session, study.study_uid, Laterality(side), slnd, how)
        state = ledger.study(session, study.study_uid).state
        signed.studies(session, site, "slnd set", [study.study_uid], said_of(recorded))
    print_recorded(recorded, slnd, state, as_json=as_json)
