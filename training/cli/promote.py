"""`python -m training promote`."""

import sys

import click

from training import registry
from training.cli.site import decision, json_option, print_json, site_options
from training.registry import PromotionRefusedError
from training.site import Site
from worker.tables import ActivationKind

EXIT_REFUSED = 4


@click.command("promote")
@click.argument("reference", metavar="NAME@VERSION")
@click.option("--reason", help="Written down with the promotion.")
@click.option("--yes", is_flag=True, help="Sign off without being asked.")
@json_option
@site_options
def promote(
    site: Site, reference: str, reason: str | None, *, yes: bool, as_json: bool
) -> None:
    """Let a candidate that passed its comparison serve; running workers take it.

    Whoever runs this signs it off. A refusal names every check that failed, with its
    code, and exits 4; nothing is changed then.

    Example: python -m training promote resnet18-sln@V2 --reason "board of 4 March"
    """
    if not yes:
        click.confirm(f"Let {reference} serve from now on?", abort=True, err=True)
    signed = decision(reason, ActivationKind.PROMOTED)
    try:
        change = registry.promote(site, reference, signed)
    except PromotionRefusedError as error:
        if not as_json:
            raise
        refused = {"codes": error.codes, "reasons": error.reasons}
        print_json({"model": reference, "promoted": False} | refused)
        sys.exit(EXIT_REFUSED)
    if as_json:
        print_json(
            {
                "model": reference,
                "promoted": True,
                "stage": change.stage,
                "queued": change.queued,
                "site_threshold_gone": change.threshold_gone,
            }
        )
        return
    click.echo(f"{reference} serves stage {change.stage}")
    if change.threshold_gone:
        click.echo("the site's threshold was for the earlier model and is gone")
