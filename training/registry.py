"""Publish a model, compare it with the champion, promote it, go back.

Files are installed and checked before a row says that they are there; what serves
changes in one transaction (`worker.registry`). Whatever is killed in between leaves a
model that is installed and not in service, and doing it again completes it.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import NotFoundError, SettingsError, StateError
from dicom_node.findings import Stage
from training import features, gate, golden, lineage
from training.gate import Contender, Evidence, Learned, Report
from training.heldout import HeldOut, held_out, probabilities
from training.lineage import Lineage
from training.row import DEVELOPMENT
from training.site import Site
from training.snapshot import Snapshot
from worker import models, outcomes, registry
from worker.manifest import MANIFEST_NAME, Manifest
from worker.model_tables import VersionStatus
from worker.outcomes import Activation
from worker.registry import Change, Decision, ModelVersion
from worker.tables import ActivationKind

YEAR: Final = timedelta(days=365)


class PromotionRefusedError(StateError):
    """A promotion is refused: `codes` for programs, `reasons` in sentences."""

    def __init__(self, reference: str, refusals: dict[str, str]) -> None:
        reasons = " ".join(f"[{code}] {text}" for code, text in refusals.items())
        super().__init__(f"{reference} is not promoted. {reasons}")
        self.codes = tuple(refusals)
        self.reasons = tuple(refusals.values())


def found_in(source: Path) -> list[Path]:
    """Return the models in a folder: the folder itself, or those of a run below it.

    Raises:
        NotFoundError: There is none.
    """
    if (source / MANIFEST_NAME).is_file():
        return [source]
    found = sorted(
        path.parent
        for path in source.rglob(MANIFEST_NAME)
        if not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not found:
        raise NotFoundError(
            f"{source} holds no model: name a folder with {MANIFEST_NAME}, or a run of "
            "`python -m training train`"
        )
    return found


def install(source: Path, folder: Path, snapshot: Snapshot | None) -> Manifest:
    """Copy a model into a folder of models, with its lineage and golden scores.

    Raises:
        SettingsError: A file is missing, or of a newer format.
        ModelIntegrityError: The weights are not those of the manifest.
    """
    manifest = models.verify(source)
    probabilities(source, golden.crops()[:1])  # the weights fit and give a number
    manifest = models.install(source, folder)
    target = models.folder(folder, manifest.name, manifest.version)
    golden.remember(target)
    if lineage.read(target) is None and snapshot is not None:
        lineage.write(target, descent(snapshot, manifest.stage))
    return manifest


def publish(
    source: Path, site: Site, snapshot: Snapshot | None, decision: Decision
) -> ModelVersion:
    """Install a model and register it as a candidate. Idempotent.

    Raises:
        SettingsError: A file is missing, or of a newer format.
        ModelIntegrityError: The weights are not those of the manifest.
        StateError: Another model is registered under its name and version.
    """
    manifest = install(source, site.models, snapshot)
    known = lineage.read(models.folder(site.models, manifest.name, manifest.version))
    snapshot_id = known.snapshot_id if known else None
    with site.sessions.begin() as session:
        return registry.register(session, manifest, snapshot_id, decision)


def descent(snapshot: Snapshot, stage: Stage) -> Lineage:
    """Write down what the development cases of a snapshot teach a stage."""
    part = snapshot.of_role(DEVELOPMENT)
    labels = np.array([row.label(stage) for row in part.rows])
    measured, scanners = features.of_snapshot(part)
    return Lineage(
        stage=stage,
        snapshot_id=snapshot.id,
        cases=int((labels >= 0).sum()),
        positives=int((labels == 1).sum()),
        patients=tuple(
            sorted({lineage.patient_digest(row.patient_key) for row in part.rows})
        ),
        pixels=tuple(sorted({row.pixel_sha256 for row in part.rows} - {""})),
        features={name: lineage.reference(values) for name, values in measured.items()},
        scanners=scanners,
    )


def compare(
    site: Site, reference: str, against: str | None, data: Snapshot, decision: Decision
) -> Report:
    """Score challenger, champion and anchor on the same held-out cases, and judge.

    The look is written down first: it is spent, whatever becomes of the comparison.
    The report is stored with the challenger.

    Args:
        site: Where the models are installed.
        reference: NAME@VERSION of the challenger.
        against: NAME@VERSION to compare with; None is the champion, if there is one.
        data: A snapshot with cases of role holdout.
        decision: Who asks, and when.

    Raises:
        NotFoundError: A model is not registered or not installed.
        SettingsError: A file is missing or unfit; there are no held-out cases.
        ModelIntegrityError: Weights are not those of their manifest.
    """
    with site.sessions() as session:
        challenger = registry.version(session, reference)
        active = outcomes.activations(session).get(challenger.stage)
        anchor = registry.anchor(session, challenger.stage)
    other = against or (active.reference if active else None)
    cases = held_out(data, challenger.stage)
    folder = _folder(site, reference)
    with site.sessions.begin() as session:
        looks = registry.look(session, challenger, cases.id, decision)
        promotions = registry.automatic_promotions(
            session, challenger.stage, cases.id, decision.at - YEAR
        )
    score = _scorer(site, cases)
    report = gate.judge(
        Evidence(
            stage=challenger.stage,
            holdout_id=cases.id,
            labels=cases.labels,
            challenger=score(reference),
            champion=score(other) if other else None,
            anchor=score(anchor.reference) if anchor else None,
            groups=cases.groups,
            parity=golden.difference(folder),
            learned=_learned(folder, cases),
            looks=looks,
            promotions=promotions,
        ),
        site.settings.policy,
    )
    document = report.document() | {
        "compared_at": decision.at.isoformat(),
        "dataset": cases.description,
    }
    with site.sessions.begin() as session:
        registry.judge(session, reference, cases.id, document)
    return report


def _scorer(site: Site, cases: HeldOut) -> Callable[[str], Contender]:
    """Return what scores a model once, however many roles it plays."""
    scored: dict[str, NDArray[np.float64]] = {}

    def score(reference: str) -> Contender:
        folder = _folder(site, reference)
        manifest = models.verify(folder)
        if manifest.stage is not cases.stage:
            raise SettingsError(
                f"{reference} is of stage {manifest.stage}, the challenger of stage "
                f"{cases.stage}: they cannot be compared"
            )
        if reference not in scored:
            scored[reference] = probabilities(folder, cases.crops)
        return Contender(
            reference, scored[reference], manifest.operating_threshold.value
        )

    return score


def _folder(site: Site, reference: str) -> Path:
    """Return the folder of an installed model.

    Raises:
        NotFoundError: It is not installed.
    """
    name, _, version = reference.partition("@")
    folder = models.folder(site.models, name, version)
    if not version or not folder.is_dir():
        raise NotFoundError(
            f"model {reference} is not installed in {site.models}; bring it back with "
            "`sentinode models install` or `python -m training publish`"
        )
    return folder


def _learned(folder: Path, cases: HeldOut) -> Learned:
    known = lineage.read(folder)
    if known is None:
        return Learned()
    leaked = lineage.leaked(known, cases.identities)
    return Learned(known.cases, known.positives, leaked)


def promote(site: Site, reference: str, decision: Decision) -> Change:
    """Let a candidate that passed the gate serve its stage; see `put_into_service`.

    Args:
        site: Where it is installed.
        reference: NAME@VERSION.
        decision: Who signs it off and why; of kind `AUTOMATIC` nobody does.

    Raises:
        NotFoundError: It is not registered or not installed.
        PromotionRefusedError: The gate, or what happened since, forbids it.
        SettingsError: A file is missing, or of a newer format.
        ModelIntegrityError: The weights are not those of the manifest.
    """
    with site.sessions() as session:
        before = registry.version(session, reference)
    folder = _folder(site, reference)
    manifest = models.verify(folder)
    difference = golden.difference(folder)
    if difference is None or difference > site.settings.policy.parity:
        said = "are gone" if difference is None else f"are {difference:.2g} apart"
        sentence = f"Its golden scores {said}: publish it again."
        raise PromotionRefusedError(reference, {"golden_parity": sentence})
    _demand_registered(before, manifest)
    with site.sessions.begin() as session:
        version = registry.version(session, reference)
        active = outcomes.activations(session).get(version.stage)
        refusals = _refusals(version, active, decision)
        if refusals:
            raise PromotionRefusedError(reference, refusals)
        return registry.put_into_service(session, manifest, decision)


def _demand_registered(version: ModelVersion, manifest: Manifest) -> None:
    if version.weights_sha256 != manifest.weights_sha256:
        sentence = (
            f"Its weights on disk are {manifest.weights_sha256}, registered are "
            f"{version.weights_sha256}: restore the files."
        )
        raise PromotionRefusedError(version.reference, {"weights_differ": sentence})


def _refusals(
    version: ModelVersion, active: Activation | None, decision: Decision
) -> dict[str, str]:
    """Return why a candidate may not be promoted now, by code; nothing: it may."""
    if version.status is not VersionStatus.CANDIDATE:
        sentence = f"It is {version.status}, only a candidate is promoted"
        return {"not_candidate": f"{sentence}; `rollback` returns to an earlier one."}
    report = version.gate
    if report is None:
        return {"not_compared": "It was never compared: run `compare` first."}
    serving = active.reference if active else None
    if report["champion"] != serving:
        then, now = (one or "no champion" for one in (report["champion"], serving))
        sentence = f"It was compared with {then}, in service is {now}"
        return {"gate_stale": f"{sentence}: run `compare` again."}
    automatic = decision.kind is ActivationKind.AUTOMATIC
    scopes = {gate.Scope.ANY, gate.Scope.AUTOMATIC} if automatic else {gate.Scope.ANY}
    return _failed(report, {str(scope) for scope in scopes})


def _failed(report: Any, scopes: set[str]) -> dict[str, str]:  # noqa: ANN401 - JSON
    failed: dict[str, str] = {}
    for check in report["checks"]:
        if not check["holds"] and check["scope"] in scopes:
            said = failed.get(check["code"])
            both = f"{said} {check['sentence']}" if said else check["sentence"]
            failed[check["code"]] = both
    return failed
