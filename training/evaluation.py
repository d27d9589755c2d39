"""Scoring every case of a cohort, as the service would, for the statistics to count.

The network's scores go through the served path, one crop at a time: the functions and
the float64 head of the worker. The training cohort is scored by the networks of the
folds that did not see each case; their scores are read from the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

import dicom_node
from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training import leakage, runs
from training.crossval import Cases, cases_of
from training.loop import determinism
from training.publish import libraries
from training.runs import OutOfFold, Record
from training.scores import (
    INTERNAL,
    TRAINING,
    CohortScores,
    Evaluation,
    Kind,
    ModelScores,
    Provenance,
    ScoredModel,
)
from training.snapshot import Snapshot
from training.splits import Splits, read
from worker import models
from worker.cascade import StageModel, score
from worker.manifest import Manifest
from worker.preprocess import centre, standardise
from worker.weights import load_stage

CNN: Final = "ResNet18"
RESUBSTITUTION: Final = "training (resubstitution)"
THREADS: Final = 1  # a score must not depend on the machine's cores

Tick = Callable[[], None]
Baseline = Callable[[Snapshot, Splits, int], tuple[ModelScores, ...]]

BASELINES: Final[tuple[Baseline, ...]] = ()
"""Every other model of the tables: from a snapshot, folds and a seed to its scores."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to evaluate, and the run that made it."""

    model: Path
    run: Path
    manifest: Manifest
    record: Record


def subjects(folder: Path) -> tuple[Subject, ...]:
    """Return the newest cross-validated model of each stage in a folder of models.

    Raises:
        SettingsError: There is none.
    """
    found: dict[Stage, Subject] = {}
    for manifest in sorted(models.installed(folder), key=lambda one: one.created_at):
        run = runs.producing(folder, manifest.weights_sha256)
        if run is not None:
            place = models.folder(folder, manifest.name, manifest.version)
            found[manifest.stage] = Subject(place, run, manifest, runs.read(run))
    if not found:
        raise SettingsError(
            f"{folder} holds no model with its run: `python -m training train "
            f"--out {folder}` makes one"
        )
    return tuple(found[stage] for stage in Stage if stage in found)


def subject(run: Path) -> Subject:
    """Return the model that a run published.

    Raises:
        SettingsError: The run is not finished, or its model is gone.
    """
    record = runs.read(run)
    if record.published is None:
        raise SettingsError(
            f"{run} is not finished: give its `train` command again, it goes on"
        )
    place = models.folder(run.parents[2], *record.published.split("@", 1))
    return Subject(place, run, models.verify(place), record)


def scored(cohort: Snapshot, stage: Stage) -> dict[str, Cases]:
    """Return the cases of every cohort but the training one, by name, in order."""
    names = dict.fromkeys(
        row.cohort for row in cohort.rows if row.role != leakage.DEVELOPMENT
    )
    ordered = sorted(names, key=lambda name: (name != INTERNAL, name))
    found = {}
    for name in ordered:
        chosen = [
            at
            for at, row in enumerate(cohort.rows)
            if row.cohort == name and row.role != leakage.DEVELOPMENT
        ]
        part = cohort.take(chosen)
        cases = cases_of(part.rows, part.crops, stage)
        if len(cases):
            leakage.check_contrast(cases.case_ids, cases.data.crops)
            found[name] = cases
    return found


def count(cohort: Snapshot, given: Sequence[Subject]) -> int:
    """Return how many crops `score_networks` scores, for a progress bar."""
    return sum(
        len(cases)
        for one in given
        for cases in scored(cohort, one.manifest.stage).values()
    )


def score_networks(
    cohort: Snapshot, given: Sequence[Subject], tick: Tick
) -> tuple[ModelScores, ...]:
    """Score every cohort by the network of each stage; `tick` after each crop.

    Raises:
        SettingsError: A case that a network learned from is in a test cohort.
        ModelIntegrityError: The weights are not those of the manifest.
    """
    with determinism(THREADS):
        return tuple(_score_network(cohort, one, tick) for one in given)


def _score_network(cohort: Snapshot, given: Subject, tick: Tick) -> ModelScores:
    stage, record = given.manifest.stage, given.record
    oof = runs.read_oof(given.run)
    model = load_stage(given.model, torch.device("cpu"))
    cohorts = []
    if record.key.snapshot_id == cohort.id:
        cohorts.append(_part(TRAINING, oof, oof.probabilities))
    for name, cases in scored(cohort, stage).items():
        _check_unseen(given, oof, cases)
        cohorts.append(
            CohortScores(
                name,
                cases.case_ids,
                cases.data.labels.numpy(),
                served_probabilities(model, cases.data.crops, tick),
            )
        )
    if record.key.snapshot_id == cohort.id:
        cohorts.append(_part(RESUBSTITUTION, oof, oof.resubstitution))
    return ModelScores(_about(given), tuple(cohorts))


def _part(
    name: str, oof: OutOfFold, probabilities: NDArray[np.float64]
) -> CohortScores:
    return CohortScores(name, oof.case_ids, oof.labels, probabilities)


def _check_unseen(given: Subject, oof: OutOfFold, cases: Cases) -> None:
    seen = set(oof.pixels) - {""}
    both = [
        case_id
        for case_id, pixels in zip(cases.case_ids, cases.pixels, strict=True)
        if pixels in seen
    ]
    if both:
        raise SettingsError(
            f"{given.manifest.reference} learned from {leakage.named(both)}, which "
            "are test cases of this cohort: its scores would be worthless"
        )


def served_probabilities(
    model: StageModel, crops: torch.Tensor, tick: Tick
) -> NDArray[np.float64]:
    """Return the probabilities (n,) of crops (n, 70, 70) through the served path."""
    spec = model.manifest.preprocessing
    probabilities = []
    for crop in crops:
        x = standardise(centre(crop, spec), spec)  # (70, 70) -> (3, 64, 64)
        probabilities.append(score(model, x).probability)
        tick()
    return np.array(probabilities)


def _about(given: Subject) -> ScoredModel:
    record, manifest = given.record, given.manifest
    return ScoredModel(
        model=CNN,
        kind=Kind.CNN,
        stage=manifest.stage,
        threshold=manifest.operating_threshold,
        training_scores=f"out of fold, {record.key.folds} folds",
        weights_sha256=manifest.weights_sha256,
        detail={
            "reference": manifest.reference,
            "preset": manifest.training.preset,
            "seed": record.key.seed,
            "trained_on": record.trained_on,
            "started_from": record.key.initial,
            "cases": record.cases,
            "positives": record.positives,
        },
    )


def evaluate(
    cohort: Snapshot, given: Sequence[Subject], tick: Tick, now: datetime | None = None
) -> Evaluation:
    """Score every cohort by every model.

    Args:
        cohort: All cases, of any role.
        given: A model of each stage, with its run.
        tick: Called after each crop that a network has scored.
        now: When; the scores do not depend on it.
    """
    networks = score_networks(cohort, given, tick)
    seed = given[0].record.key.seed
    folds = read(runs.splits_path(given[0].run))
    others: tuple[ModelScores, ...] = ()
    if folds.snapshot_id == cohort.id:
        others = tuple(
            one for baseline in BASELINES for one in baseline(cohort, folds, seed)
        )
    return Evaluation(
        provenance=Provenance(
            snapshot_id=cohort.id,
            description=cohort.description,
            synthetic=cohort.synthetic,
            created_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
            code_version=dicom_node.__version__,
            libraries=libraries(),
            seeds=tuple(dict.fromkeys(one.record.key.seed for one in given)),
        ),
        cases=cohort.cases,
        models=(*others, *networks),
    )
