"""`sentinode studies purge`: remove the images of studies, keep their results."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy.orm import Session

from dicom_node import kept, purge
from dicom_node.audit import Action, Code
from dicom_node.db import now
from dicom_node.purge import Extent
from dicom_node.spool import Spool
from dicom_node.study import StudyUid
from worker import keeping, retention
from worker.cli import signed
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json, print_table, rfc3339
from worker.retention import Store

EVERY = 10_000
"""Studies that one call looks at when none is named."""


@click.command("purge")
@click.argument("uids", nargs=-1, metavar="[UID]...")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Only studies of which nothing came for so long; alone: all of these.",
)
@click.option(
    "--with-kept",
    is_flag=True,
    help="Give up crops and slices of the results too: no replay, no stage II.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def command(  # noqa: PLR0913 - one argument for each option
    site: Site,
    uids: Sequence[str],
    *,
    older_than: float | None,
    with_kept: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove the image files of studies that are analyzed, held, ignored or failed.

    Results, reports, presentation states and structured reports stay, and of each
    newest result the analysed slice and the crop: stage II still works, and the result
    can be replayed. An image that is sent again is stored again.

    Example: sentinode studies purge --older-than 90 --yes
    """
    if not uids and older_than is None:
        raise click.UsageError("name studies, or give --older-than DAYS")
    before = None if older_than is None else now() - timedelta(days=older_than)
    with site.reading() as session:
        found = _extents(session, [StudyUid(uid) for uid in uids], before)
    if not dry_run and not yes and found:
        _print(found, "Images to purge", err=True)
        click.confirm("Remove these files?", abort=True, err=True)
    if not dry_run:

        def sign(session: Session, uid: StudyUid) -> None:
            signed.studies(
                session,
                site,
                "studies purge",
                [uid],
                "with what was kept" if with_kept else "images",
                action=Action.DELETE,
                code=Code.DELETED,
            )

        store = Store(site.writing, site.spool, sign)
        found = [
            retention.purge_study(
                store, one.study_uid, now(), before=before, with_kept=with_kept
            )
            for one in found
        ]
    if as_json:
        print_json([_document(one, dry_run=dry_run) for one in found])
    else:
        _print(found, "Images that would go" if dry_run else "Images purged")


def _extents(
    session: Session, uids: Sequence[StudyUid], before: datetime | None
) -> list[Extent]:
    """Say what would go; a study that is named and may not go is refused."""
    if not uids and before is not None:
        uids = purge.due(session, before, EVERY)
    return [purge.extent(session, uid, before) for uid in uids]


def _document(one: Extent, *, dry_run: bool) -> dict[str, Any]:
    return {
        "study_uid": one.study_uid,
        "state": one.state,
        "files": one.files,
        "bytes": one.bytes,
        "purged": not dry_run,
    }


def _print(found: Sequence[Extent], title: str, *, err: bool = False) -> None:
    rows = [(one.study_uid, one.state, one.files, one.bytes) for one in found]
    print_table(title, ("study_uid", "state", "files", "bytes"), rows, err=err)


def purged_of(session: Session, uid: StudyUid) -> dict[str, Any] | None:
    """Return since when which part of a study is purged, as `show --json` prints it."""
    found = purge.purged(session, uid)
    if found is None:
        return None
    return {"at": rfc3339(found.at), "images": len(found.digests)}


def kept_of(session: Session, spool: Spool, result_id: str) -> dict[str, Any]:
    """Return which files are kept of a case's newest result."""
    record = keeping.of(session, result_id)
    if record is None or record.released_at is not None:
        return {"crop": False, "slice": False}
    crop = record.crop_sha256
    return {
        "crop": crop is not None and kept.has(spool, kept.crop_path(crop)),
        "slice": kept.has(spool, kept.slice_path(record.slice_sha256)),
    }
