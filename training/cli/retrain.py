"""`python -m training retrain`."""

import sys
from dataclasses import asdict
from typing import Any

import click

from dicom_node.db import now
from dicom_node.findings import Stage
from training import retrain as loop
from training.cli.site import json_option, print_json, site_options
from training.site import Site
from worker.model_tables import RetrainingState


@click.command("retrain")
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]))
@click.option("--now", "at_once", is_flag=True, help="Wait for no trigger.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")
@click.option(
    "--rotate-holdout", is_flag=True, help="Freeze newer held-out cases first."
)
@json_option
@site_options
def retrain(  # noqa: PLR0913 - one argument for each option
    site: Site,
    stage: str | None,
    *,
    at_once: bool,
    dry_run: bool,
    rotate_holdout: bool,
    as_json: bool,
) -> None:
    """Train what is due, judge it, and promote it only if the site allows that.

    Exit codes: 0 done, or nothing was due; 1 a run failed; 4 another trainer works.

    Example: python -m training retrain --dry-run --data-dir DIR
    """
    stages = [Stage(stage)] if stage else list(Stage)
    if dry_run:
        rows = [_look(site, one) for one in stages]
    else:
        rows = [
            asdict(loop.retrain(site, one, at_once=at_once, rotate=rotate_holdout))
            for one in stages
        ]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['stage']}: {_said(row)}")
    if any(row.get("state") == RetrainingState.FAILED for row in rows):
        sys.exit(1)


def _look(site: Site, stage: Stage) -> dict[str, Any]:
    due = loop.look(site, stage, now())
    return {"stage": stage, "due": due.train, "why": due.why}


def _said(row: dict[str, Any]) -> str:
    if "due" in row:
        return f"{'due' if row['due'] else 'not due'}, {row['why']}"
    if row["model"] is None:
        return f"not trained, {row['why']}"
    return f"{row['model']}, {row['why']}"
