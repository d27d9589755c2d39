"""`python -m training shadow`."""

from dataclasses import asdict

import click

from dicom_node.db import now
from dicom_node.findings import Stage
from training import shadow as shadows
from training.cli.site import decision, json_option, print_json, site_options
from training.site import Site


@click.group("shadow")
def shadow() -> None:
    """Let a candidate score live cases beside the champion; nothing is sent."""


@shadow.command()
@click.argument("reference", metavar="NAME@VERSION")
@json_option
@site_options
def start(site: Site, reference: str, *, as_json: bool) -> None:
    """Begin to score live cases with a registered model.

    Example: python -m training shadow start resnet18-sln@V2 --data-dir DIR
    """
    begun = shadows.start(site, reference, decision())
    if as_json:
        print_json(asdict(begun) | {"model": begun.reference})
    else:
        click.echo(f"{begun.reference} shadows stage {begun.stage}")


@shadow.command()
@click.option(
    "--stage", required=True, type=click.Choice([stage.value for stage in Stage])
)
@json_option
@site_options
def stop(site: Site, stage: str, *, as_json: bool) -> None:
    """End the shadow of a stage; what it said stays."""
    ended = shadows.stop(site, Stage(stage), now())
    if as_json:
        print_json(asdict(ended) | {"model": ended.reference})
    else:
        click.echo(f"{ended.reference} shadows stage {stage} no more")


@shadow.command()
@json_option
@site_options
def status(site: Site, *, as_json: bool) -> None:
    """Show what shadows scored, and how they do on cases labelled afterwards."""
    rows = shadows.status(site)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        judged = row["prospective"]
        click.echo(
            f"{row['model']} shadows stage {row['stage']}: {row['scored']} scored, "
            f"{row['faults']} could not be; labelled since: {judged['n']} "
            f"({judged['positives']} positive)"
        )
        if judged["shadow"]:
            ours, theirs = judged["shadow"], judged["champion"]
            click.echo(
                f"  AUC {ours[0]:.3f} ({ours[1]:.3f}-{ours[2]:.3f}), in service "
                f"{theirs[0]:.3f} ({theirs[1]:.3f}-{theirs[2]:.3f})"
            )
    if not rows:
        click.echo("no model shadows any stage")
