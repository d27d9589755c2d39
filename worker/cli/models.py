"""`sentinode models`: list models, put them into service, set thresholds."""

from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from dicom_node import audit
from dicom_node.audit import Trail
from dicom_node.db import now, writing
from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Stage
from worker import chronicle, models, outcomes, registry
from worker.cli import signed
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json, print_table, rfc3339
from worker.manifest import NO_BETTER_THAN_CHANCE, Manifest, describe_gate
from worker.registry import Change, Decision
from worker.tables import ActivationKind


@click.group("models")
def command() -> None:
    """List models, install them, put them into service."""


def _as_document(model: Manifest, active: set[str]) -> dict[str, Any]:
    performance = model.performance
    return {
        "name": model.name,
        "version": model.version,
        "stage": model.stage,
        "weights_sha256": model.weights_sha256,
        "active": model.reference in active,
        "trained_on": model.trained_on,
        "created_at": rfc3339(model.created_at),
        "operating_threshold": model.operating_threshold.value,
        "threshold_source": model.operating_threshold.how,
        "auc": performance.auc,
        "auc_ci": [performance.auc_low, performance.auc_high],
        "dataset": performance.dataset,
    }


def _active(session: Session) -> set[str]:
    return {
        f"{one.name}@{one.version}" for one in outcomes.activations(session).values()
    }


@command.command("list")
@json_option
@site_options
def list_models(site: Site, *, as_json: bool) -> None:
    """List the installed models and which of them are in service."""
    with site.reading() as session:
        active = _active(session)
    rows = [
        _as_document(model, active) for model in models.installed(site.settings.models)
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("name", "version", "stage", "active", "auc", "trained_on", "created_at")
    print_table("Models", columns, [[row[name] for name in columns] for row in rows])


def _find(site: Site, reference: str) -> Path:
    name, _, version = reference.partition("@")
    folder = models.folder(site.settings.models, name, version)
    known = {one.reference for one in models.installed(site.settings.models)}
    if reference not in known:
        raise NotFoundError(f"no model {reference}; see `sentinode models list`")
    return folder


@command.command()
@click.argument("reference", metavar="NAME@VERSION")
@json_option
@site_options
def show(site: Site, reference: str, *, as_json: bool) -> None:
    """Show a model's manifest, or its model card for people.

    Beside the card stands what the quality gate checks of the model.
    """
    folder = _find(site, reference)
    manifest = models.verify(folder)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    click.echo(models.card(folder))
    click.echo("Quality gate:")
    for line in describe_gate(manifest):
        click.echo(f"  {line}")


@command.command()
@click.argument("reference", metavar="NAME@VERSION")
@json_option
@site_options
def activate(site: Site, reference: str, *, as_json: bool) -> None:
    """Put a model into service for its stage; running workers take it at once.

    Studies that were held for want of a model are queued.
    """
    manifest = models.verify(_find(site, reference))
    freed = put_into_service(site.engine, site.trail, manifest, operator())
    if not manifest.performance.beats_chance:
        click.echo(f"{manifest.reference}: {NO_BETTER_THAN_CHANCE}", err=True)
    if as_json:
        print_json(_as_document(manifest, {manifest.reference}) | {"queued": freed})
    else:
        click.echo(f"{manifest.reference} serves stage {manifest.stage}")
        click.echo(f"{freed} held studies queued")


def put_into_service(engine: Engine, trail: Trail, manifest: Manifest, by: str) -> int:
    """Activate a checked model; return how many held studies were queued."""
    with writing(engine).begin() as session:
        change = registry.put_into_service(session, manifest, Decision(by, now()))
        made = outcomes.activations(session)[manifest.stage]
        audit.record(session, trail, chronicle.activated(made))
    _warn_of_threshold(change)
    return change.queued


def _warn_of_threshold(change: Change) -> None:
    if change.threshold_gone:
        click.echo(
            f"the site's threshold of stage {change.stage} was for another "
            "model and is gone: `sentinode models threshold` sets a new one",
            err=True,
        )


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@json_option
@site_options
def install(site: Site, folder: str, *, as_json: bool) -> None:
    """Copy a trained model from FOLDER into this installation, digest checked."""
    manifest = models.install(Path(folder), site.settings.models)
    with site.writing.begin() as session:
        signed.configuration(session, site, "models install", manifest.reference)
    if as_json:
        print_json({"installed": manifest.reference, "stage": manifest.stage})
    else:
        click.echo(f"installed {manifest.reference}; not in service until activated")


@command.command()
@click.option(
    "--stage", required=True, type=click.Choice([stage.value for stage in Stage])
)
@click.option("--value", type=click.FloatRange(0, 1), help="On the probability.")
@click.option("--manifest", is_flag=True, help="Return to the manifest's threshold.")
@click.option("--reason", required=True, help="Stored with every result.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def threshold(  # noqa: PLR0913 - one argument for each option
    site: Site,
    stage: str,
    value: float | None,
    reason: str,
    *,
    manifest: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Set the site's own operating threshold of a stage, or return to the model's."""
    if manifest == (value is not None):
        raise click.UsageError("give either --value or --manifest")
    meant = "the manifest's threshold" if value is None else f"threshold {value}"
    if not yes:
        click.confirm(
            f"Use {meant} for stage {stage} from now on?", abort=True, err=True
        )
    with site.writing.begin() as session:
        outcomes.set_threshold(
            session, Stage(stage), value, reason, (operator(), now())
        )
        signed.configuration(session, site, "models threshold", stage, meant)
    if as_json:
        print_json({"stage": stage, "threshold": value, "reason": reason})
    else:
        click.echo(f"stage {stage}: {meant} from now on")


@command.command()
@click.argument("reference", metavar="NAME@VERSION")
@json_option
@site_options
def compare(site: Site, reference: str, *, as_json: bool) -> None:
    """Show how a model was compared with the champion, and whether it may serve.

    The report was made by `python -m training compare`, or by the retraining loop;
    this command computes nothing. What a shadow of it scored is counted.

    Example: sentinode models compare resnet18-sln@20260304-1f2e3d4c
    """
    with site.reading() as session:
        version = registry.version(session, reference)
        scored = registry.shadow_scores(session, version.weights_sha256)
        looks = version.gate["looks"] if version.gate else 0
    if version.gate is None:
        raise StateError(
            f"{reference} was never compared; `python -m training compare {reference} "
            "--cohort SNAPSHOT` does, where the trainer is installed"
        )
    if as_json:
        status = {"status": version.status, "shadow_scores": scored}
        print_json({"model": reference, **status, "gate": version.gate})
        return
    gate = version.gate
    print_table(
        f"{reference} ({version.status}) against {gate['champion'] or 'nobody'}, n = "
        f"{gate['n']}, look {looks}, {scored} shadow scores - RESEARCH USE ONLY",
        ("holds", "check", "what was found"),
        [
            ("yes" if one["holds"] else "NO", one["code"], one["sentence"])
            for one in gate["checks"]
        ],
    )
    said = "may be promoted" if gate["promotable"] else "is not to be promoted"
    click.echo(f"{reference} {said}")


@command.command()
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

    Its files are checked first. Running workers take it with their next study.

    Example: sentinode models rollback --stage SLN --reason "misses small lesions"
    """
    with site.reading() as session:
        target = registry.previous(session, Stage(stage)).reference
    if not yes:
        question = f"Return stage {stage} to {target}, which served before?"
        click.confirm(question, abort=True, err=True)
    decision = Decision(operator(), now(), reason, ActivationKind.ROLLED_BACK)
    manifest, change = registry.rollback(
        site.writing, site.settings.models, Stage(stage), decision
    )
    _warn_of_threshold(change)
    if as_json:
        print_json(_as_document(manifest, {manifest.reference}))
    else:
        click.echo(f"{manifest.reference} serves stage {stage} again")
