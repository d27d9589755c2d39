"""`sentinode metrics`: numbers for a monitoring system."""

import click

from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json
from worker.metrics import counts, families
from worker.metrics.scraper import Scraper


@click.command("metrics")
@json_option
@site_options
def command(site: Site, *, as_json: bool) -> None:
    """Print what `sentinode monitor` serves to Prometheus, once.

    Example: sentinode metrics > /var/lib/node_exporter/sentinode.prom
    """
    view = Scraper(site.settings, site.engine).view(first_wait_s=None)
    if view.counts is None:
        raise click.ClickException(
            "the database does not answer or has no tables; see `sentinode doctor`"
        )
    if as_json:
        print_json(counts.document(view.counts))
    else:
        click.echo(families.exposition(view), nl=False)
