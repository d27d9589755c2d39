"""`python -m training cohort`: build, freeze and show data sets."""

import getpass
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dicom_node import db
from dicom_node.db import now
from dicom_node.selection import Rules
from dicom_node.settings import load as load_settings
from dicom_node.settings import patient_secret
from dicom_node.shared_spool import spool_of
from training import description, flowchart, hospital, live, site_key, snapshot
from training.snapshot import Snapshot
from worker.settings import WorkerSettings

FOLDER = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead."
)


@contextmanager
def bar(text: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr; yields what advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


@click.group("cohort")
def cohort() -> None:
    """Data sets: build one from DICOM or the database, freeze it, look at it."""


@cohort.command("build")
@click.option("--dicom", type=EXISTING, required=True, help="Folder of DICOM files.")
@click.option("--table", type=EXISTING, required=True, help="CSV of labels.")
@click.option("--out", type=FOLDER, required=True, help="Snapshot to write.")
@click.option(
    "--key",
    type=click.Choice(["study_uid", "accession", "patient_id"]),
    default="study_uid",
    show_default=True,
    help="Column that joins the table with the studies.",
)
@click.option("--centre", default="", help="Name of the centre, if no column says it.")
@click.option("--external", multiple=True, help="Centre never learnt from; may repeat.")
@click.option("--skip-missing", is_flag=True, help="Exclude rows without images.")
@click.option(
    "--site-key",
    "site_key_file",
    type=FOLDER,
    help="Key file of pseudonyms [default: beside --out].",
)
@click.option("--overlays", is_flag=True, help="Regions in overlay planes are marks.")
def build(  # noqa: PLR0913, PLR0917 - one parameter per option
    dicom: Path,
    table: Path,
    out: Path,
    key: hospital.Key,
    centre: str,
    external: tuple[str, ...],
    skip_missing: bool,  # noqa: FBT001 - a flag of the command line
    site_key_file: Path | None,
    overlays: bool,  # noqa: FBT001 - as above
) -> None:
    """Build a snapshot from a folder of DICOM studies with marks, and a table.

    The slice of each side is chosen as the service would. Columns of the table: the
    key, sln (0, 1, unknown); also laterality, nsln, role, centre, and the clinical
    variables of a cohort. Patient IDs are stored as keyed hashes only.

    Example: python -m training cohort build --dicom pacs --table t.csv --out s1
    """
    _demand_new(out)
    secret = site_key.read_or_create(site_key_file or out.with_name("site.key"))
    paths = hospital.files(dicom)
    with bar("Reading headers", len(paths)) as tick:
        studies, unread = hospital.scan(paths, secret, tick)
    plan = hospital.Plan(
        dicom=dicom,
        table=table,
        secret=secret,
        key=key,
        centre=centre,
        external=external,
        skip_missing=skip_missing,
        rules=Rules(overlays=overlays),
    )
    with bar("Choosing slices", len(studies)) as tick:
        found = hospital.build(plan, studies, unread, tick)
    _freeze(found, out)


@cohort.command("freeze")
@click.option("--cohort", "folder", type=EXISTING, help="A cohort folder.")
@click.option("--data-dir", type=FOLDER, help="An installation [SENTINODE_DATA_DIR].")
@click.option("--database-url", help="Its database, if not in the data folder.")
@click.option("--as-of", type=click.DateTime(), help="State of the database then, UTC.")
@click.option("--centre", help="Name of the centre; default: the sender's AE title.")
@click.option("--external", multiple=True, help="Centre never learnt from; may repeat.")
@click.option("--out", type=FOLDER, required=True, help="Snapshot to write.")
def freeze(  # noqa: PLR0913, PLR0917 - one parameter per option
    folder: Path | None,
    data_dir: Path | None,
    database_url: str | None,
    as_of: datetime | None,
    centre: str | None,
    external: tuple[str, ...],
    out: Path,
) -> None:
    """Freeze a cohort folder, or the analysed cases of an installation.

    Example: python -m training cohort freeze --data-dir /var/lib/sentinode --out s1
    """
    _demand_new(out)
    if folder is not None:
        with bar("Reading slices", snapshot.count(folder)) as tick:
            found = snapshot.load(folder, tick)
        _freeze(found, out)
        return
    settings = load_settings(
        WorkerSettings, data_dir=data_dir, database_url=database_url
    )
    plan = live.Plan(as_of.replace(tzinfo=UTC) if as_of else now(), centre, external)
    with _installation(settings) as site:
        found = _collected(site, plan)
        _freeze(found, out)
        live.enter(site.sessions, found, getpass.getuser(), now())


def of_database(data_dir: Path | None, database_url: str | None) -> Snapshot:
    """Read the cohort of an installation as it is now."""
    settings = load_settings(
        WorkerSettings, data_dir=data_dir, database_url=database_url
    )
    with _installation(settings) as site:
        return _collected(site, live.Plan(now()))


def _collected(site: live.Installation, plan: live.Plan) -> Snapshot:
    with bar("Reading cases", None) as tick:
        return live.collect(site, plan, tick)


@contextmanager
def _installation(settings: WorkerSettings) -> Iterator[live.Installation]:
    engine = db.connect(settings.database)
    db.demand_existing(engine, settings.data_dir)
    try:
        yield live.Installation(
            db.writing(engine),
            spool_of(settings),
            patient_secret(settings),
            settings.itc_is_positive,
        )
    finally:
        engine.dispose()


def _demand_new(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists: a snapshot is never written over")


def _freeze(found: Snapshot, out: Path) -> None:
    frozen = snapshot.freeze(found, out)
    counts = snapshot.reasons(frozen.exclusions)
    left_out = ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
    click.echo(
        f"{out}: {len(frozen)} cases, snapshot {frozen.id}; excluded: {left_out}"
    )


@cohort.command("show")
@click.argument("folder", type=EXISTING)
@json_option
def show(folder: Path, *, as_json: bool) -> None:
    """Show what a snapshot or a cohort folder holds: inclusion, Table 1, verification.

    Example: python -m training cohort show s1
    """
    with bar("Reading", snapshot.count(folder)) as tick:
        found = snapshot.load(folder, tick)
    chart = flowchart.flowchart(found)
    table = description.table_one(found.rows)
    if as_json:
        click.echo(json.dumps(_document(found, chart, table), indent=2))
        return
    click.echo(f"snapshot {found.id}: {found.description}")
    click.echo("\n".join(flowchart.lines(chart)))
    click.echo("\n".join(description.lines(table)))


def _document(
    found: Snapshot, chart: flowchart.Flowchart, table: description.TableOne
) -> dict[str, Any]:
    return {
        "snapshot_id": found.id,
        "description": found.description,
        "synthetic": found.synthetic,
        "created_at": found.created_at,
        "cases": len(found),
        "flowchart": flowchart.document(chart),
        "table_one": description.document(table),
        "flags": flowchart.flags(found),
    }
