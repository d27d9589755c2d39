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
from training.baselines import cases as baselines
from training.baselines import comparators
from training.crossval import Cases, cases_of
from training.determinism import determinism
from training.publish import libraries
from training.row import DEVELOPMENT
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
from training.scoring import served_probabilities
from training.snapshot import Snapshot
from training.splits import read
from worker import models
from worker.manifest import Manifest
from worker.weights import load_stage

CNN: Final = "ResNet18"
RESUBSTITUTION: Final = "training (resubstitution)"
THREADS: Final = 1  # a score must not depend on the machine's cores

Tick = Callable[[], None]
Tell = Callable[[str], None]


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
    tested = [at for at, row in enumerate(cohort.rows) if row.role != DEVELOPMENT]
    texts = cohort.cases
    named = {at: baselines.cohort_of(texts[at]) for at in tested}
    ordered = sorted(set(named.values()), key=lambda name: (name != INTERNAL, name))
    found = {}
    for name in ordered:
        chosen = [at for at in tested if named[at] == name]
        part = cohort.take(chosen)
        cases = cases_of(part.rows, part.crops, stage)
        if len(cases):
            leakage.check_contrast(cases.case_ids, cases.data.crops)
            found[name] = cases
    return found


Others = Callable[[Snapshot, Subject, Tick, Tell], tuple[ModelScores, ...]]


def count(cohort: Snapshot, given: Sequence[Subject]) -> int:
    """Return how often `evaluate` ticks, for a progress bar."""
    total = 0
    for one in given:
        stage = one.manifest.stage
        total += sum(len(cases) for cases in scored(cohort, stage).values())
        if one.record.key.snapshot_id == cohort.id:
            labels = [baselines.label_of(row, stage) for row in cohort.cases]
            total += sum(label >= 0 for label in labels)
    return total


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
    both = leakage.learned(cases.case_ids, cases.pixels, oof.pixels)
    if both:
        raise SettingsError(
            f"{given.manifest.reference} learned from {leakage.named(both)}, which "
            "are test cases of this cohort: its scores would be worthless"
        )


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


def score_baselines(
    cohort: Snapshot, given: Subject, tick: Tick, tell: Tell
) -> tuple[ModelScores, ...]:
    """Score the comparators on the folds of a network; they learn from this cohort."""
    folds = read(runs.splits_path(given.run))
    if folds.snapshot_id != cohort.id:
        tell(
            f"{given.manifest.reference} learned from another cohort: no comparators "
            "and no training row"
        )
        return ()

    cases = baselines.of_folder(cohort.folder, cohort.cases, folds.fold_of)
    others = comparators.score(cases, given.manifest.stage, tick)
    for reason in others.left_out:
        tell(f"{given.manifest.stage}: {reason}")
    return others.models


def evaluate(
    cohort: Snapshot,
    given: Sequence[Subject],
    tick: Tick,
    tell: Tell = lambda _: None,
    others: Others = score_baselines,
) -> Evaluation:
    """Score every cohort by every model.

    Args:
        cohort: All cases, of any role.
        given: A model of each stage, with its run.
        tick: Called after each case that a network scored or radiomics measured.
        tell: Called with a sentence about each model that cannot be had.
        others: Scores what the network of a stage is compared with.
    """
    networks = score_networks(cohort, given, tick)
    compared = tuple(
        model for one in given for model in others(cohort, one, tick, tell)
    )
    return Evaluation(
        provenance=Provenance(
            snapshot_id=cohort.id,
            description=cohort.description,
            synthetic=cohort.synthetic,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            code_version=dicom_node.__version__,
            libraries=libraries(),
            seeds=tuple(dict.fromkeys(one.record.key.seed for one in given)),
        ),
        cases=cohort.cases,
        models=(*compared, *networks),
    )
