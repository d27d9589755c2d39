"""`sentinode patient`: take everything of a patient out of the installation."""

import sys
import time
from typing import Any, Final

import click

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import NotFoundError, StateError, StudyStateError
from dicom_node.intake import Intake
from dicom_node.settings import patient_secret
from dicom_node.study import Patient, StudyUid
from worker import patients, scrubbing
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json, print_table
from worker.patients import Belongings, Gone

RETRY_S: Final = 0.5
REMAINS: Final = (
    "backups and exports that were made before",
    "the logs of other hosts, of the system and of a log collector",
    "earlier versions and replicas of objects in an object store",
    "copies in the caches of other hosts, until they were not used for a day",
    "the audit trail, which names the patient by a keyed hash alone",
)


@click.group("patient")
def command() -> None:
    """Take everything of a patient out of the installation."""


@command.command()
@click.option("--patient-id", help="The patient's ID; `-` reads it from stdin.")
@click.option("--issuer", default="", help="Issuer of the patient ID, if it has one.")
@click.option("--patient-key", metavar="KEY", help="As `studies show --json` has it.")
@click.option("--study", metavar="UID", help="Any study of the patient.")
@click.option(
    "--mixed", is_flag=True, help="Studies too that hold objects of another patient."
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait while something is received, analysed or sent [0].",
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def erase(site: Site, **said: Any) -> None:  # noqa: ANN401 - options of many types
    """Remove files, rows, results, pathology and log entries of a patient.

    Name the patient by one of --patient-id, --patient-key and --study; all of the
    patient's studies go. Refused (exit code 4) while something of the patient is being
    received, analysed or sent. What archives took, and what training data, backups and
    exports hold, cannot be taken back here: the output names it. Objects that come
    afterwards are received like any others.

    Example: sentinode patient erase --patient-id - --dry-run
    """
    if (
        sum(said[name] is not None for name in ("patient_id", "patient_key", "study"))
        != 1
    ):
        raise click.UsageError("give one of --patient-id, --patient-key and --study")
    if said["patient_id"] == "-" and not (said["yes"] or said["dry_run"]):
        raise click.UsageError("a patient ID from stdin needs --yes or --dry-run")
    intake = _intake(site)
    with site.reading() as session:
        patient = _patient(session, site, said)
        found = patients.look(session, intake, patient)
    _demand_something(found, mixed=said["mixed"] or said["dry_run"])
    if said["dry_run"]:
        _report(found, None, compacted=False, as_json=said["as_json"])
        return
    if not said["yes"]:
        _print_found(found, err=True)
        click.confirm("Remove all of this for good?", abort=True, err=True)
    gone = _erase(site, intake, found, said["wait"])
    scrubbing.scrub(scrubbing.logs(site.settings.data_dir), found.names)
    compacted = scrubbing.compact(site.engine)
    _report(found, gone, compacted=compacted, as_json=said["as_json"])


def _intake(site: Site) -> Intake:
    settings = site.settings
    return Intake(
        spool=site.spool,
        secret=patient_secret(settings),
        min_free_bytes=settings.min_free_bytes,
        max_instance_bytes=settings.max_instance_bytes,
    )


def _patient(session: Any, site: Site, said: dict[str, Any]) -> Patient:  # noqa: ANN401 - a session and options
    """Return the keys of the patient who was named."""
    if said["study"] is not None:
        study = ledger.study(session, StudyUid(said["study"]))
        return Patient(study.patient_key, study.issuer_key)
    if said["patient_key"] is not None:
        return Patient(said["patient_key"].strip().lower(), None)
    name = said["patient_id"]
    name = (sys.stdin.readline() if name == "-" else name).strip()
    if not name:
        raise click.UsageError("the patient ID is empty")
    secret = patient_secret(site.settings)
    return Patient(
        ledger.patient_key(secret, name),
        ledger.issuer_key(secret, said["issuer"], name),
    )


def _demand_something(found: Belongings, *, mixed: bool) -> None:
    if not (found.studies or found.parked or found.quarantined):
        raise NotFoundError("nothing here is of this patient")
    if found.mixed and not mixed:
        raise StateError(
            f"{', '.join(found.mixed)} hold objects of another patient too, which "
            "would go with them. Look at them with --dry-run, then give --mixed"
        )


def _erase(site: Site, intake: Intake, found: Belongings, wait: float) -> Gone:
    """Erase; while something is in flight, try again until the time is over."""
    deadline = time.monotonic() + wait
    while True:
        try:
            return patients.erase(site.writing, intake, found, site.trail, operator())
        except StudyStateError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)


def _remains(found: Belongings) -> list[str]:
    """Say what cannot be taken back here."""
    sent = [f"{n} documents at {name}" for name, n in sorted(found.archives.items())]
    used = [f"training data {one[:12]}" for one in found.snapshots]
    return [*sent, *used, *REMAINS]


def _report(
    found: Belongings, gone: Gone | None, *, compacted: bool, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "patient_key": found.patient.key,
                "erased": gone is not None,
                "at": now(),
                "studies": [
                    {
                        "study_uid": one.study_uid,
                        "state": one.state,
                        "instances": one.instances,
                        "mixed": one.study_uid in found.mixed,
                    }
                    for one in found.studies
                ],
                "parked": len(found.parked),
                "quarantined": len(found.quarantined),
                "rows": None if gone is None else gone.rows,
                "files": None if gone is None else gone.files,
                "compacted": compacted,
                "archives": found.archives,
                "snapshots": list(found.snapshots),
                "remains": _remains(found),
            }
        )
        return
    if gone is None:
        _print_found(found)
    else:
        click.echo(
            f"{gone.studies} studies: {gone.rows} rows, {gone.files} files removed"
        )
        if not compacted:
            click.echo(
                "deleted rows are overwritten; the database's files were busy or are "
                "large and may hold traces: run `sqlite3 FILE VACUUM` in a quiet hour"
            )
    for one in _remains(found):
        click.echo(f"not removed here: {one}")


def _print_found(found: Belongings, *, err: bool = False) -> None:
    rows = [
        (
            one.study_uid,
            one.state,
            one.instances,
            "yes" if one.study_uid in found.mixed else "",
        )
        for one in found.studies
    ]
    columns = ("study_uid", "state", "instances", "holds another patient")
    print_table("Everything of one patient", columns, rows, err=err)
    click.echo(
        f"{len(found.parked)} results of pathology that wait, {len(found.quarantined)} "
        "objects in quarantine elsewhere",
        err=err,
    )
