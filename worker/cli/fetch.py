"""`sentinode fetch`: studies that an archive has and nobody routes to us."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node import fetch, retrieve
from dicom_node.audit import Action, Code
from dicom_node.errors import NotFoundError, PermanentError
from dicom_node.fetch import Match, Moved, Query
from dicom_node.study import Peer, StudyUid, is_valid_uid
from worker.cli import signed
from worker.cli.context import Site, patient_id_of, site_options
from worker.cli.importing import way_in
from worker.cli.peers import peer_option
from worker.cli.printing import json_option, print_json, print_table

DATES: Final = re.compile(r"(\d{8})?(-(\d{8})?)?")


@click.command("fetch")
@click.option("--study", "uids", multiple=True, metavar="UID", help="Repeat for more.")
@click.option("--accession", default="", help="Number; wildcards as in DICOM.")
@click.option("--patient-id", default="", help="Patient ID; - reads it from stdin.")
@click.option("--date", "dates", default="", metavar="YYYYMMDD[-YYYYMMDD]")
@click.option("--modality", default="MR", show_default=True, help='"" for any.')
@click.option("--get", "by_get", is_flag=True, help="C-GET instead of C-MOVE.")
@peer_option("--from", "peer", help="The archive [SENTINODE_QUERY].")
@click.option("--dry-run", is_flag=True, help="List what matches; fetch nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def command(site: Site, **said: Any) -> None:  # noqa: ANN401 - the options above
    """Find studies at an archive and have them sent to us.

    C-MOVE sends to our AE title, which the archive must know; C-GET needs only that
    it lets us call. Series of images and marks are asked for, nothing else.

    Example: sentinode fetch --date 20260101-20260131 --dry-run
    """
    archive = said["peer"] or site.settings.query
    if archive is None:
        raise click.UsageError("name the archive with --from, or set SENTINODE_QUERY")
    found = _matches(site, archive, _queries(said))
    with site.writing.begin() as session:
        signed.queried(session, site, "fetch list", archive, f"{len(found)} studies")
    _demand_found(archive, said["uids"], found)
    quiet = said["as_json"] and (said["dry_run"] or said["yes"])
    if not quiet:
        rows = [(m.study_uid, m.study_date, m.modalities, m.instances) for m in found]
        columns = ("study", "date", "modalities", "instances")
        print_table(f"At {archive}", columns, rows, err=not said["dry_run"])
    if said["dry_run"] and said["as_json"]:
        print_json([_as_document(one) for one in found])
    if said["dry_run"]:
        return
    if found and not said["yes"]:
        click.confirm(f"Fetch {len(found)} studies?", abort=True, err=True)
    _get(site, archive, found, said)


def _queries(said: dict[str, Any]) -> list[Query]:
    uids, accession, dates = said["uids"], said["accession"], said["dates"]
    patient_id = patient_id_of(said["patient_id"])
    if not (uids or accession or patient_id or dates):
        raise click.UsageError("say what to fetch: --study, --accession, --date ...")
    if not DATES.fullmatch(dates):
        raise click.UsageError(f"{dates} is no date YYYYMMDD and no range of two")
    first, _, last = dates.partition("-")
    if first and last and first > last:
        raise click.UsageError(f"{dates} ends before it begins")
    for uid in uids:
        if not is_valid_uid(uid):
            raise click.UsageError(f"{uid} is no UID; wildcards go with --accession")
    modality = said["modality"]
    return [Query(uid, accession, patient_id, dates, modality) for uid in uids or ("",)]


def _demand_found(archive: Peer, uids: Sequence[str], found: Sequence[Match]) -> None:
    """Refuse to pass over in silence a study that was named.

    Raises:
        NotFoundError: The archive has none of that UID and modality.
    """
    missing = sorted(set(uids) - {one.study_uid for one in found})
    if missing:
        text = f"{archive} has no study {missing[0]} of that modality"
        more = f", nor {len(missing) - 1} others that you named" if missing[1:] else ""
        raise NotFoundError(text + more)


def _get(
    site: Site, archive: Peer, found: Sequence[Match], said: dict[str, Any]
) -> None:
    uids = [one.study_uid for one in found]
    moved = get_studies(site, archive, uids, by_get=said["by_get"])
    if said["as_json"]:
        print_json([_as_document(one) | moved[one.study_uid] for one in found])
    else:
        total = sum(one["completed"] for one in moved.values())
        click.echo(f"{len(moved)} studies, {total} objects")
    failed = sum(one["failed"] for one in moved.values())
    if failed:
        raise PermanentError(f"{failed} objects did not come; look at the archive")


def _matches(site: Site, archive: Peer, queries: Sequence[Query]) -> list[Match]:
    timeout = site.settings.query_timeout.total_seconds()
    found: dict[StudyUid, Match] = {}
    with retrieve.querying(archive, site.settings.caller, timeout) as opened:
        for query in queries:
            for one in fetch.studies(opened, query):
                found.setdefault(one.study_uid, one)
    return list(found.values())


def get_studies(
    site: Site, archive: Peer, uids: Sequence[StudyUid], *, by_get: bool
) -> dict[StudyUid, dict[str, int]]:
    """Fetch studies and show progress; return the counts of each."""
    with site.writing.begin() as session:
        signed.studies(
            session,
            site,
            "fetch",
            uids,
            f"from {archive}",
            action=Action.EXECUTE,
            code=Code.QUERY,
            peer=archive,
        )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"from {archive}", total=len(uids))
        done: dict[StudyUid, dict[str, int]] = {}
        for uid, moved in _fetched(site, archive, uids, by_get=by_get):
            done[uid] = {"completed": moved.completed, "failed": moved.failed}
            progress.advance(bar)
    return done


def _fetched(
    site: Site, archive: Peer, uids: Sequence[StudyUid], *, by_get: bool
) -> Iterator[tuple[StudyUid, Moved]]:
    settings = site.settings
    timeout = settings.answer_timeout.total_seconds()
    if by_get:
        with way_in(site, archive.ae_title) as deposit:
            yield from fetch.get(archive, settings.caller, list(uids), deposit, timeout)
        return
    contexts = [fetch.move_context()]
    with retrieve.querying(archive, settings.caller, timeout, contexts) as opened:
        for uid in uids:
            yield uid, fetch.move(opened, uid, settings.aet)


def _as_document(match: Match) -> dict[str, Any]:
    return {
        "study_uid": match.study_uid,
        "study_date": match.study_date,
        "modalities": match.modalities.split("\\"),
        "instances": match.instances,
    }
