"""`python -m training rollback`."""

import click

from dicom_node.findings import Stage
from training.cli.site import decision, json_option, print_json, site_options
from training.site import Site
from worker import registry
from worker.tables import ActivationKind


@click.command("rollback")
@click.option(
    "--stage", required=True, type=click.Choice([stage.value for stage in Stage])
)
@click.option("--reason", help="Written down with it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def rollback(
    site: Site, stage: str, reason: str | None, *, yes: bool, as_json: bool
) -> None:
    """Return a stage to the model that served before; again goes further back.

    Example: python -m training rollback --stage SLN --reason "misses small lesions"
    """
    if not yes:
        click.confirm(
            f"Return stage {stage} to the earlier model?", abort=True, err=True
        )
    decided = decision(reason, ActivationKind.ROLLED_BACK)
    manifest, change = registry.rollback(
        site.sessions, site.models, Stage(stage), decided
    )
    if as_json:
        print_json(
            {
                "model": manifest.reference,
                "stage": change.stage,
                "site_threshold_gone": change.threshold_gone,
            }
        )
    else:
        click.echo(f"{manifest.reference} serves stage {change.stage} again")
