"""`sentinode models`: list models, put them into service, set thresholds."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from dicom_node import audit, ledger
from dicom_node.audit import Trail
from dicom_node.db import now, writing
from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Stage
from dicom_node.study import Reason, StudyState
from worker import chronicle, models, outcomes
from worker.cli import signed
from worker.cli.context import (
    Site,
    json_option,
    operator,
    print_json,
    print_table,
    rfc3339,
    site_options,
)
from worker.manifest import NO_BETTER_THAN_CHANCE, Manifest, describe_gate


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
    """Activate a checked model; return how many held studies were queued.

    A threshold that the site had set belongs to the scores of the earlier model, so
    another model starts with its manifest's.
    """
    identity = (manifest.name, manifest.version, manifest.weights_sha256)
    with writing(engine).begin() as session:
        before = outcomes.activations(session).get(manifest.stage)
        outcomes.activate(session, manifest.stage, identity, by, now())
        other = before is not None and before.weights_sha256 != manifest.weights_sha256
        if other and manifest.stage in outcomes.thresholds(session):
            why = f"{manifest.reference} activated"
            outcomes.set_threshold(session, manifest.stage, None, why, (by, now()))
            click.echo(
                f"the site's threshold of stage {manifest.stage} was for another "
                "model and is gone: `sentinode models threshold` sets a new one",
                err=True,
            )
        freed = _free_held(session, manifest)
        made = outcomes.activations(session)[manifest.stage]
        audit.record(session, trail, chronicle.activated(made))
    return freed


def _free_held(session: Session, manifest: Manifest) -> int:
    """Queue what waited for a model, once both stages have one; return how many."""
    if set(outcomes.activations(session)) != set(Stage):
        return 0
    held = [
        one.study_uid
        for one in ledger.studies(session, StudyState.HELD, None)
        if one.reason is Reason.NO_MODEL
    ]
    freed = 0
    for uid in held:
        with suppress(StateError):  # one that contradicts itself stays held
            ledger.requeue(session, uid, now(), f"{manifest.reference} activated")
            freed += 1
    return freed


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@site_options
def install(site: Site, folder: str) -> None:
    """Copy a trained model from FOLDER into this installation, digest checked."""
    manifest = models.install(Path(folder), site.settings.models)
    with site.writing.begin() as session:
        signed.configuration(session, site, "models install", manifest.reference)
    click.echo(f"installed {manifest.reference}; not in service until activated")


@command.command()
@click.option(
    "--stage", required=True, type=click.Choice([stage.value for stage in Stage])
)
@click.option("--value", type=click.FloatRange(0, 1), help="On the probability.")
@click.option("--manifest", is_flag=True, help="Return to the manifest's threshold.")
@click.option("--reason", required=True, help="Stored with every result.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@site_options
def threshold(  # noqa: PLR0913 - one argument for each option
    site: Site,
    stage: str,
    value: float | None,
    reason: str,
    *,
    manifest: bool,
    yes: bool,
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
    click.echo(f"stage {stage}: {meant} from now on")
