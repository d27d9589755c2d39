"""`sentinode stats`: what the installation did in the last days."""

from dataclasses import asdict
from typing import Final

import click

from dicom_node.db import now
from worker import activity
from worker.activity import Activity, Spread
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json, print_table

BARS: Final = " ▁▂▃▄▅▆▇█"


@click.command("stats")
@click.option(
    "--days",
    type=click.IntRange(1, 3660),
    default=14,
    show_default=True,
    help="Today and the days before it, UTC.",
)
@json_option
@site_options
def command(site: Site, days: int, *, as_json: bool) -> None:
    """Count studies, results, delays and reasons of the last days.

    Example: sentinode stats --days 90
    """
    with site.reading() as session:
        found = activity.look(session, days, now())
    if as_json:
        print_json(asdict(found) | {"research_use_only": True})
        return
    _print(found)


def _print(found: Activity) -> None:
    most = max((one.studies for one in found.days), default=0)
    print_table(
        f"Since {found.since:%Y-%m-%d} - RESEARCH USE ONLY, not a diagnosis",
        ("day", "studies", "analysed", "results", ""),
        [
            (one.day, one.studies, one.analyzed, one.results, _bar(one.studies, most))
            for one in found.days
        ],
    )
    print_table("Studies", ("state", "count"), sorted(found.states.items()))
    print_table("Cases", ("pathway", "count"), sorted(found.pathways.items()))
    print_table("Scores", ("model", "count"), list(found.models.items()))
    print_table(
        "Delays",
        ("", "n", "median", "95%"),
        [
            _delay("last object to first result, s", found.latency_s),
            _delay("computing one case, ms", found.processing_ms),
            _delay("result to its arrival at a destination, s", found.delivery_s),
        ],
    )
    click.echo(f"discordant results: {found.discordant}")


def _delay(name: str, spread: Spread | None) -> tuple[str, object, object, object]:
    if spread is None:
        return name, 0, None, None
    return name, spread.n, f"{spread.median:.1f}", f"{spread.p95:.1f}"


def _bar(count: int, most: int) -> str:
    return BARS[round(count / most * (len(BARS) - 1))] * 4 if most else ""
