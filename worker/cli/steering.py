"""`sentinode studies complete|requeue|hold|ignore`: move a study on, or stop it."""

from collections.abc import Sequence

import click

from dicom_node import holds, ledger
from dicom_node.db import now
from dicom_node.study import Reason, StudyUid
from worker.cli import signed
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json


def _report(uids: Sequence[str], done: str, *, as_json: bool) -> None:
    if as_json:
        print_json([{"study_uid": uid, "done": done} for uid in uids])
    else:
        click.echo("\n".join(f"{uid} {done}" for uid in uids))


@click.command()
@click.argument("uids", nargs=-1, required=True, metavar="UID...")
@json_option
@site_options
def complete(site: Site, uids: Sequence[str], *, as_json: bool) -> None:
    """Complete studies now, without waiting for the quiet period."""
    with site.writing.begin() as session:
        for uid in uids:
            ledger.complete(session, StudyUid(uid), now())
        signed.studies(session, site, "studies complete", uids)
    _report(uids, "completed", as_json=as_json)


@click.command()
@click.argument("uids", nargs=-1, required=True, metavar="UID...")
@click.option(
    "accepted",
    "--accept-quality",
    flag_value=Reason.QUALITY.value,
    multiple=True,
    help="Give a result although the quality gate holds the study.",
)
@click.option(
    "accepted",
    "--accept-incomplete",
    flag_value=Reason.INCOMPLETE.value,
    multiple=True,
    help="Take a study for complete although images are missing.",
)
@json_option
@site_options
def requeue(
    site: Site, uids: Sequence[str], accepted: Sequence[str], *, as_json: bool
) -> None:
    """Analyse held, failed, ignored or analysed studies again.

    An unchanged input keeps its result; use `reprocess` to compute it anew. Of
    objects that contradict one another the first is accepted: look before you do it.

    What is accepted is entered with your name, stands in the report, and ends when
    another object of the study arrives.
    """
    reasons = {Reason(one) for one in accepted}
    with site.writing.begin() as session:
        for uid in map(StudyUid, uids):
            if reasons:
                ledger.accept(session, uid, reasons, operator(), now())
            else:
                ledger.requeue(
                    session, uid, now(), "requeued by hand", resolve_conflicts=True
                )
        said = ", ".join(sorted(f"accepted {reason}" for reason in reasons))
        signed.studies(session, site, "studies requeue", uids, said)
    _report(uids, "queued", as_json=as_json)


why_option = click.option(
    "--why", required=True, metavar="TEXT", help="For the history; no patient data."
)


@click.command()
@click.argument("uids", nargs=-1, required=True, metavar="UID...")
@why_option
@json_option
@site_options
def hold(site: Site, uids: Sequence[str], why: str, *, as_json: bool) -> None:
    """Stop studies: nothing is analysed and nothing is sent until `requeue`.

    New objects are stored and noted, and change nothing. An analysis that runs now is
    dropped.
    """
    with site.writing.begin() as session:
        for uid in map(StudyUid, uids):
            holds.hold(session, uid, why, operator(), now())
        signed.studies(session, site, "studies hold", uids)
    _report(uids, "held", as_json=as_json)


@click.command()
@click.argument("uids", nargs=-1, required=True, metavar="UID...")
@why_option
@json_option
@site_options
def ignore(site: Site, uids: Sequence[str], why: str, *, as_json: bool) -> None:
    """Set studies aside: a phantom, a test, no consent. `requeue` undoes it."""
    with site.writing.begin() as session:
        for uid in map(StudyUid, uids):
            holds.ignore(session, uid, why, operator(), now())
        signed.studies(session, site, "studies ignore", uids)
    _report(uids, "ignored", as_json=as_json)
