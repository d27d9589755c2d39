"""`sentinode reconcile`: do files, database and archives say the same?"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node.completion import QuietPeriods
from dicom_node.db import now
from dicom_node.errors import NodeError, StateError
from dicom_node.intake import Intake
from dicom_node.settings import patient_secret
from worker import archive, mending, reconciliation, survey
from worker.cli import signed
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json, print_table
from worker.mending import Workshop
from worker.reconciliation import Code, Finding
from worker.survey import Ground

SHOWN = 50
"""Findings that a table shows; `--json` has them all."""


@click.command("reconcile")
@click.option("--repair", is_flag=True, help="Mend what is found; asks first.")
@click.option("--digests", is_flag=True, help="Read each file and compare its SHA-256.")
@click.option("--pacs/--no-pacs", default=True, help="Ask the archives too [--pacs].")
@click.option("--dry-run", is_flag=True, help="Change nothing: the default.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def command(  # noqa: PLR0913 - one argument for each option
    site: Site,
    *,
    repair: bool,
    digests: bool,
    pacs: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Compare the three ledgers of a live system: files, database, archives.

    Without --repair nothing is changed. With it, rows are rebuilt from files, studies
    whose images are lost are held until they are sent again, lost documents are
    written anew, what an archive lost is sent again, orphans are removed and what
    stands still is moved on. Exit code 1 when something is wrong and not repaired.

    Example: sentinode reconcile --digests
    """
    if repair and dry_run:
        raise click.UsageError("give either --repair or --dry-run")
    if site.spool.is_shared:
        raise StateError(
            "the files of this installation are in an object store; `reconcile` "
            "compares files of a folder only, and would take what is not here for lost"
        )
    ground = Ground(site.spool, site.settings, now(), digests)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found = _survey(site, ground, progress)
        lost, unasked = _archives(site, progress) if pacs else ([], {})
    found += lost
    repaired: list[Finding] = []
    if repair and found:
        if not yes:
            _print(found, [], err=True)
            click.confirm(f"Repair {len(found)} findings?", abort=True, err=True)
        repaired = _repair(site, ground, found)
    _report(found, repaired, unasked, as_json=as_json)
    if len(repaired) < len(found):
        raise SystemExit(1)


def _survey(site: Site, ground: Ground, progress: Progress) -> list[Finding]:
    bar = progress.add_task("Looking", total=len(survey.CHECKS))
    found: list[Finding] = []
    with site.reading() as session:
        for title, check in survey.CHECKS:
            progress.update(bar, description=f"Looking at {title}")
            found += check(session, ground)
            progress.advance(bar)
    return found


def _archives(site: Site, progress: Progress) -> tuple[list[Finding], dict[str, str]]:
    """Return what archives have lost, and why an archive could not be asked."""
    found: list[Finding] = []
    unasked = {}
    for destination, peer in archive.to_ask(site.settings):
        with site.reading() as session:
            sent = archive.taken(session, destination, now())
        if not sent:
            continue
        bar = progress.add_task(f"Asking {peer}", total=len(sent))
        try:
            for missing in archive.lost(site.settings, peer, sent):
                found += missing
                progress.advance(bar)
        except NodeError as error:
            unasked[str(peer)] = str(error)
        with site.writing.begin() as session:
            signed.queried(session, site, "reconcile", peer, f"{len(sent)} studies")
    return found, unasked


def _repair(site: Site, ground: Ground, found: Sequence[Finding]) -> list[Finding]:
    settings = site.settings
    intake = Intake(
        spool=site.spool,
        secret=patient_secret(settings),
        min_free_bytes=settings.min_free_bytes,
        max_instance_bytes=settings.max_instance_bytes,
    )
    shop = Workshop(
        sessions=site.writing,
        ground=replace(ground, at=now()),
        intake=intake,
        quiet=QuietPeriods(settings.quiet_period, settings.quiet_periods),
        trail=site.trail,
        by=operator(),
        clock=now,
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Repairing", total=len(found))
        done = []
        for one in mending.mend(shop, found):
            done.append(one)
            progress.advance(bar)
    return done


def _report(
    found: Sequence[Finding],
    repaired: Sequence[Finding],
    unasked: dict[str, str],
    *,
    as_json: bool,
) -> None:
    if as_json:
        mended = set(repaired)
        print_json(
            {
                "findings": [
                    asdict(one) | {"repaired": one in mended} for one in found
                ],
                "counts": reconciliation.counts(found),
                "repaired": len(repaired),
                "left": len(found) - len(repaired),
                "archives_not_asked": unasked,
            }
        )
        return
    if found:
        _print(found, repaired)
    for peer, why in unasked.items():
        click.echo(f"{peer} was not asked: {why}", err=True)
    left = len(found) - len(repaired)
    click.echo(f"{len(found)} findings, {len(repaired)} repaired, {left} left")


def _print(
    found: Sequence[Finding], repaired: Sequence[Finding], *, err: bool = False
) -> None:
    mended = set(repaired)
    rows = [
        (
            one.code,
            one.study_uid,
            one.subject,
            one.detail,
            "yes" if one in mended else "",
        )
        for one in found[:SHOWN]
    ]
    columns = ("what", "study", "of", "detail", "repaired")
    print_table("Findings", columns, rows, err=err)
    counts = reconciliation.counts(found)
    rows_of_counts = [(Code(code).value, count) for code, count in counts.items()]
    print_table("Counts", ("what", "count"), rows_of_counts, err=err)
