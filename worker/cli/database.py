"""`sentinode db`: create, upgrade or inspect the database."""

import click

from dicom_node import schema
from worker.cli.context import Site, json_option, print_json, site_options


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
    schema.upgrade(site.settings.database, revision)
    _report(site, as_json=as_json)


@command.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def downgrade(site: Site, revision: str, *, yes: bool, as_json: bool) -> None:
    """Take the database back to an older REVISION; `base` drops every table."""
    if not yes:
        click.confirm(
            f"Take the database back to {revision}? Data of newer tables is lost.",
            abort=True,
            err=True,
        )
    schema.downgrade(site.settings.database, revision)
    _report(site, as_json=as_json)


@command.command()
@json_option
@site_options
def current(site: Site, *, as_json: bool) -> None:
    """Show the revision of the database."""
    _report(site, as_json=as_json)


def _report(site: Site, *, as_json: bool) -> None:
    revision = schema.current(site.settings.database)
    if as_json:
        is_current = schema.is_current(site.settings.database)
        print_json({"revision": revision, "current": is_current})
    elif revision is None:
        click.echo("the database has no tables; run `sentinode db upgrade`")
    else:
        click.echo(f"the database is at {revision}")
