"""`sentinode import`: DICOM files and media, taken in as if they had been sent."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import track
from sqlalchemy.orm import Session

from dicom_node import media
from dicom_node.audit import Action, Code
from dicom_node.completion import QuietPeriods
from dicom_node.db import now
from dicom_node.deposit import Deposit, OnFirst, depositing
from dicom_node.errors import PermanentError, UnreadableObjectError
from dicom_node.intake import Intake, StoreRefusedError
from dicom_node.settings import patient_secret
from dicom_node.study import StudyUid
from worker.cli import signed
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json, print_table

AE: Final = "IMPORT"


@dataclass(slots=True)
class Taken:
    """What became of the files so far; `refused` has the reason of each."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)


@contextmanager
def way_in(
    site: Site, calling_ae: str, on_first: OnFirst | None = None
) -> Iterator[Deposit]:
    """Open a way into the ledger; the installation must exist."""
    sessions = site.writing
    settings = site.settings
    quiet = QuietPeriods(settings.quiet_period, settings.quiet_periods)
    settings.spool.mkdir(parents=True, exist_ok=True)
    intake = Intake(
        spool=site.spool,
        secret=patient_secret(settings),
        min_free_bytes=settings.min_free_bytes,
        max_instance_bytes=settings.max_instance_bytes,
    )
    with depositing(intake, sessions, quiet, calling_ae, now, on_first) as deposit:
        yield deposit


@click.command("import")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH...",
)
@click.option(
    "--aet",
    default=AE,
    show_default=True,
    help="Sender that the objects are entered under, for quiet period and rules.",
)
@click.option("--dry-run", is_flag=True, help="Read and count; store nothing.")
@json_option
@site_options
def command(
    site: Site, paths: Sequence[Path], aet: str, *, dry_run: bool, as_json: bool
) -> None:
    """Take in DICOM files: named ones, all below folders, or what a DICOMDIR lists.

    They are checked, stored and analysed as if they had been sent. What is here
    already changes nothing, so an import that was cut short is simply repeated. Exit
    code 1 when an object that could be for us was refused.

    Example: sentinode import /media/cdrom
    """
    files = media.find(paths)
    taken = Taken()
    console = Console(stderr=True)
    detail = f"{len(files)} files, as {aet}"

    def sign(session: Session, uid: StudyUid) -> None:
        signed.studies(
            *(session, site, "import", [uid], detail),
            action=Action.CREATE,
            code=Code.IMPORT,
        )

    with way_in(site, aet, sign) as deposit:
        for path in track(files, "Importing", console=console, transient=True):
            _take(path, deposit, taken, dry_run=dry_run)
    document = {
        "files": len(files),
        "counts": dict(taken.counts),
        "refused": taken.refused,
        "studies": sorted(taken.studies),
    }
    if as_json:
        print_json(document)
    else:
        rows = [*taken.counts.items(), ("studies", len(taken.studies))]
        print_table(f"{len(files)} files", ("", "count"), rows)
        for name, why in taken.refused.items():
            click.echo(f"{name}: {why}", err=True)
    if taken.refused:
        raise PermanentError(f"{len(taken.refused)} objects were refused; see above")


def _take(path: Path, deposit: Deposit, taken: Taken, *, dry_run: bool) -> None:
    """Put one file through, and count what became of it."""
    try:
        request = media.read(path, deposit.association.calling_ae)
        if not deposit.takes(request):
            taken.counts["not for us"] += 1
        elif dry_run:
            taken.counts["would be taken in"] += 1
        else:
            uid, outcome = deposit.put(request)
            taken.counts[outcome.value] += 1
            taken.studies.add(uid)
    except UnreadableObjectError:
        taken.counts["not DICOM"] += 1
    except StoreRefusedError as error:
        taken.counts["refused"] += 1
        taken.refused[str(path)] = str(error)
