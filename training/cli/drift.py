"""`python -m training drift`."""

from dataclasses import asdict
from typing import Any

import click

from dicom_node.db import now
from dicom_node.findings import Stage
from training import monitor
from training.cli.site import json_option, print_json, site_options
from training.site import Site


@click.command("drift")
@json_option
@site_options
def drift(site: Site, *, as_json: bool) -> None:
    """Compare the newest live cases with what the champions learned from.

    The report is stored too. A window has 100 cases; with fewer nothing is tested.

    Example: python -m training drift --data-dir DIR --json
    """
    rows: list[dict[str, Any]] = []
    for stage in Stage:
        found = monitor.observe(site, stage, now())
        rows += [{"stage": stage, **asdict(one)} for one in found]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        p = "" if row["p"] is None else f", p = {row['p']:.4f}"
        mark = "ALARM " if row["alarm"] else ""
        detail = f" ({row['detail']})" if row["detail"] else ""
        click.echo(
            f"{mark}{row['stage']} {row['statistic']} [{row['scanner']}] = "
            f"{row['value']:.3f}{p}, n = {row['n']}{detail}"
        )
    if not rows:
        click.echo("nothing to compare: no model serves, or fewer than 100 cases")
