"""The only reader and writer of model versions, and the one way into service.

Which model serves is what the newest activation says. Its status as a version, the
site's threshold and the studies that waited for it change in the same transaction, so
that a process that is killed leaves the old state or the new one. Callers own the
transaction, and check the files of a model before they begin it.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.db import Sessions
from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Stage
from dicom_node.study import Reason, StudyState
from worker import models, outcomes
from worker.manifest import Manifest
from worker.model_tables import (
    HoldoutLookRow,
    ModelVersionRow,
    ShadowScoreRow,
    VersionStatus,
)
from worker.outcomes import Activation
from worker.tables import ActivationKind, ActivationRow


@dataclass(frozen=True, slots=True)
class Decision:
    """Who decides, when, and what is written down of it."""

    by: str
    at: datetime
    reason: str | None = None
    kind: ActivationKind = ActivationKind.ACTIVATED


@dataclass(frozen=True, slots=True)
class Change:
    """What came of putting a model into service.

    `queued` studies had been held for want of a model. A threshold that the site had
    set belongs to the scores of one model: it goes with it.
    """

    stage: Stage
    queued: int
    threshold_gone: bool


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered model; see `worker.model_tables.ModelVersionRow`."""

    stage: Stage
    name: str
    version: str
    weights_sha256: str
    snapshot_id: str | None
    parent: str | None
    status: VersionStatus
    holdout_id: str | None
    gate: Mapping[str, Any] | None
    reason: str | None
    created_at: datetime
    created_by: str
    decided_at: datetime | None
    decided_by: str | None

    @property
    def reference(self) -> str:
        """NAME@VERSION, as people and `models activate` write it."""
        return f"{self.name}@{self.version}"


def register(
    session: Session, manifest: Manifest, snapshot_id: str | None, decision: Decision
) -> ModelVersion:
    """Enter an installed model as a candidate. Idempotent.

    Raises:
        StateError: Other weights are registered under its name and version.
    """
    row = _find(session, manifest.name, manifest.version)
    if row is None:
        serving = outcomes.activations(session).get(manifest.stage)
        row = ModelVersionRow(
            stage=manifest.stage,
            name=manifest.name,
            version=manifest.version,
            weights_sha256=manifest.weights_sha256,
            snapshot_id=snapshot_id,
            parent=serving.reference if serving else None,
            status=VersionStatus.CANDIDATE,
            created_at=decision.at,
            created_by=decision.by,
        )
        session.add(row)
        session.flush()
    if row.weights_sha256 != manifest.weights_sha256:
        raise StateError(
            f"{manifest.reference} is registered with weights {row.weights_sha256}, "
            f"these are {manifest.weights_sha256}; publish them as another version"
        )
    if row.snapshot_id is None:
        row.snapshot_id = snapshot_id
    return _value(row)


def version(session: Session, reference: str) -> ModelVersion:
    """Return one registered model.

    Raises:
        NotFoundError: It is not registered.
    """
    return _value(_row(session, reference))


def versions(session: Session, stage: Stage | None = None) -> list[ModelVersion]:
    """Return the registered models, oldest first; of one stage, or of all."""
    query = select(ModelVersionRow).order_by(ModelVersionRow.model_version_id)
    if stage is not None:
        query = query.where(ModelVersionRow.stage == stage)
    return [_value(row) for row in session.scalars(query)]


def judge(
    session: Session, reference: str, holdout_id: str, report: Mapping[str, Any]
) -> None:
    """Keep the report of a comparison on these held-out cases."""
    row = _row(session, reference)
    row.holdout_id = holdout_id
    row.gate = dict(report)


def reject(session: Session, reference: str, decision: Decision) -> None:
    """Close a candidate for good.

    Raises:
        NotFoundError: It is not registered.
        StateError: It is no candidate.
    """
    row = _row(session, reference)
    if row.status is not VersionStatus.CANDIDATE:
        raise StateError(f"{reference} is {row.status}, only a candidate is rejected")
    _decide(row, VersionStatus.REJECTED, decision)


def look(session: Session, model: ModelVersion, holdout_id: str, by: Decision) -> int:
    """Write down a look at held-out cases; return how many there were with it."""
    session.add(
        HoldoutLookRow(
            stage=model.stage,
            holdout_id=holdout_id,
            model=model.reference,
            looked_at=by.at,
            looked_by=by.by,
        )
    )
    session.flush()
    query = select(func.count()).where(
        HoldoutLookRow.stage == model.stage, HoldoutLookRow.holdout_id == holdout_id
    )
    return session.scalar(query) or 0


def automatic_promotions(
    session: Session, stage: Stage, holdout_id: str, since: datetime
) -> int:
    """Count the promotions without a person that rest on these held-out cases."""
    query = (
        select(func.count(ActivationRow.activation_id))
        .join(
            ModelVersionRow,
            (ModelVersionRow.name == ActivationRow.name)
            & (ModelVersionRow.version == ActivationRow.version),
        )
        .where(
            ActivationRow.stage == stage,
            ActivationRow.kind == ActivationKind.AUTOMATIC,
            ActivationRow.activated_at >= since,
            ModelVersionRow.holdout_id == holdout_id,
        )
    )
    return session.scalar(query) or 0


def anchor(session: Session, stage: Stage) -> Activation | None:
    """Return the first model that was ever put into service; it never changes."""
    history = outcomes.deployments(session, stage)
    return history[0] if history else None


def previous(session: Session, stage: Stage) -> Activation:
    """Return what a rollback goes back to: a second rollback goes further back.

    Raises:
        StateError: Nothing was in service before.
    """
    path: list[Activation] = []
    for one in outcomes.deployments(session, stage):
        if one.kind is ActivationKind.ROLLED_BACK and path:
            path.pop()
        elif not path or path[-1].reference != one.reference:
            path.append(one)
    if len(path) < 2:  # noqa: PLR2004 - the one in service and the one before
        raise StateError(
            f"no model of stage {stage} was in service before this one; "
            "`sentinode models activate NAME@VERSION` puts another into service"
        )
    return path[-2]


def put_into_service(
    session: Session, manifest: Manifest, decision: Decision
) -> Change:
    """Let a checked model serve its stage from the commit of this transaction on.

    Running workers take it with their next study. Studies that were held for want of
    a model are queued.
    """
    stage = manifest.stage
    register(session, manifest, None, decision)
    locked = select(ModelVersionRow).where(ModelVersionRow.stage == stage)
    for row in session.scalars(locked.with_for_update()):
        if row.name == manifest.name and row.version == manifest.version:
            _decide(row, VersionStatus.CHAMPION, decision)
        elif row.status is VersionStatus.CHAMPION:
            _decide(row, VersionStatus.RETIRED, decision)
    before = outcomes.activations(session).get(stage)
    identity = (manifest.name, manifest.version, manifest.weights_sha256)
    why = (decision.kind, decision.reason)
    outcomes.activate(session, stage, identity, decision.by, decision.at, why)
    session.flush()
    other = before is not None and before.weights_sha256 != manifest.weights_sha256
    gone = other and stage in outcomes.thresholds(session)
    if gone:
        sentence = f"{manifest.reference} activated"
        by = (decision.by, decision.at)
        outcomes.set_threshold(session, stage, None, sentence, by)
    return Change(stage, _requeue(session, manifest, decision), gone)


def rollback(
    sessions: Sessions, folder: Path, stage: Stage, decision: Decision
) -> tuple[Manifest, Change]:
    """Return a stage to the model that served before; its results stay replayable.

    Args:
        sessions: For writing; this function has its own transaction.
        folder: Of the installed models.
        stage: Which.
        decision: Who, why; of kind `ROLLED_BACK`, so that another goes further back.

    Raises:
        StateError: Nothing served before, or the stage changed meanwhile.
        NotFoundError: The files of the earlier model are gone.
        SettingsError: A file is missing.
        ModelIntegrityError: The weights are not those that were in service then.
    """
    with sessions() as session:
        target = previous(session, stage)
    path = models.folder(folder, target.name, target.version)
    if not path.is_dir():
        raise NotFoundError(
            f"model {target.reference} is not installed in {folder}; bring it back "
            "with `sentinode models install`, then roll back again"
        )
    manifest = models.verify(path)
    models.check_activated(manifest, target)
    with sessions.begin() as session:
        if previous(session, stage).activation_id != target.activation_id:
            raise StateError(
                f"stage {stage} changed meanwhile; look at `sentinode models list` and "
                "roll back again"
            )
        return manifest, put_into_service(session, manifest, decision)


def shadow_scores(session: Session, weights_sha256: str) -> int:
    """Count the live cases that a model scored as a shadow."""
    query = select(func.count()).where(
        ShadowScoreRow.weights_sha256 == weights_sha256,
        ShadowScoreRow.probability.is_not(None),
    )
    return session.scalar(query) or 0


def _requeue(session: Session, manifest: Manifest, decision: Decision) -> int:
    """Queue what was held for want of a model, once both stages have one."""
    if set(outcomes.activations(session)) != set(Stage):
        return 0
    held = [
        one.study_uid
        for one in ledger.studies(session, StudyState.HELD, None)
        if one.reason is Reason.NO_MODEL
    ]
    queued = 0
    for uid in held:
        with suppress(StateError):  # one that contradicts itself stays held
            why = f"{manifest.reference} activated"
            ledger.requeue(session, uid, decision.at, why)
            queued += 1
    return queued


def _find(session: Session, name: str, version: str) -> ModelVersionRow | None:
    return session.scalar(
        select(ModelVersionRow).where(
            ModelVersionRow.name == name, ModelVersionRow.version == version
        )
    )


def _row(session: Session, reference: str) -> ModelVersionRow:
    name, _, version = reference.partition("@")
    row = _find(session, name, version)
    if row is None:
        raise NotFoundError(
            f"no model {reference} is registered; `python -m training publish` "
            "registers one"
        )
    return row


def _decide(row: ModelVersionRow, status: VersionStatus, decision: Decision) -> None:
    row.status = status
    row.decided_at, row.decided_by = decision.at, decision.by
    row.reason = decision.reason


def _value(row: ModelVersionRow) -> ModelVersion:
    return ModelVersion(
        **{name: getattr(row, name) for name in ModelVersion.__dataclass_fields__}
    )
