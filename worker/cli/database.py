"""`sentinode db`: create, upgrade or inspect the database."""

from collections.abc import Sequence
from dataclasses import asdict

import click
import sqlalchemy as sa

from dicom_node import revisions, schema
from dicom_node.schema import Step
from dicom_node.tables import AuditRow
from worker.cli import signed
from worker.cli.context import Site, dry_run_option, site_options
from worker.cli.printing import json_option, print_json, print_table


@click.group("db")
def command() -> None:
    """Create, upgrade or inspect the database."""


@command.command()
@click.option("--revision", default="head", show_default=True, help="Where to stop.")
@json_option
@site_options
def upgrade(site: Site, revision: str, *, as_json: bool) -> None:
    """Bring the database to the newest schema; safe to run twice."""
    if site.settings.database_url is None:
        site.settings.data_dir.mkdir(parents=True, exist_ok=True)
    before = revisions.current(site.settings.database)
    schema.upgrade(site.settings.database, revision)
    _sign(site, "db upgrade", before)
    _report(site, as_json=as_json)


@command.command()
@click.argument("revision")
@dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def downgrade(
    site: Site, revision: str, *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Take the database back to an older REVISION; `base` drops every table."""
    steps = schema.steps_down(site.settings.database, revision)
    if dry_run:
        _say_steps(steps, as_json=as_json)
        return
    if not yes:
        click.confirm(
            f"Take the database back to {revision}? Data of newer tables is lost.",
            abort=True,
            err=True,
        )
    before = revisions.current(site.settings.database)
    schema.downgrade(site.settings.database, revision)
    _sign(site, "db downgrade", before)
    _report(site, as_json=as_json)


@command.command()
@json_option
@site_options
def current(site: Site, *, as_json: bool) -> None:
    """Show the revision of the database."""
    _report(site, as_json=as_json)


def _say_steps(steps: Sequence[Step], *, as_json: bool) -> None:
    """Print what a downgrade would undo, the newest first."""
    if as_json:
        print_json({"would_undo": [asdict(one) for one in steps]})
        return
    rows = [(one.revision, one.what) for one in steps]
    print_table("Would be undone, with its tables and columns", ("revision", ""), rows)


def _sign(site: Site, what: str, before: str | None) -> None:
    """Enter a change of the schema, where the schema has an audit trail."""
    after = revisions.current(site.settings.database)
    has_trail = sa.inspect(site.engine).has_table(AuditRow.__tablename__)
    if after == before or not has_trail:
        return
    with site.writing.begin() as session:
        detail = f"{before or 'nothing'} to {after}"
        signed.configuration(session, site, what, "schema", detail)


def _report(site: Site, *, as_json: bool) -> None:
    revision = revisions.current(site.settings.database)
    if as_json:
        is_current = revisions.is_current(site.settings.database)
        print_json({"revision": revision, "current": is_current})
    elif revision is None:
        click.echo("the database has no tables; run `sentinode db upgrade`")
    else:
        click.echo(f"the database is at {revision}")
