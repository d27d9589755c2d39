"""`sentinode metrics`: numbers for a monitoring system."""

import click

from worker import metrics
from worker.cli.context import Site, json_option, print_json, site_options


@click.command("metrics")
@json_option
@site_options
def command(site: Site, *, as_json: bool) -> None:
    """Print counts of cases, studies, deliveries and parked results for Prometheus.

    Example: sentinode metrics > /var/lib/node_exporter/sentinode.prom
    """
    with site.reading() as session:
        snapshot = metrics.look(session)
    if as_json:
        print_json(metrics.document(snapshot))
    else:
        click.echo(metrics.exposition(snapshot), nl=False)
