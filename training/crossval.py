"""Cross-validation of one stage, and the one network that is served.

The networks of the folds say how good the recipe is: each scores the cases that it
has not seen, and from these out-of-fold scores come the calibration and the operating
threshold. The network that is served learns from all development cases by the same
recipe. Its calibration is that of the folds: nothing is left over to calibrate it on,
its own scores of what it learned from are too sure, and the networks of the folds
differ from it by a fifth of the cases only. The held-out cohort, which nothing is
chosen by, measures once whether that holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from dicom_node.findings import Stage
from training.cohort import CohortRow
from training.datasets import LabelledCrops, StageSet
from training.leakage import check_contrast, check_development
from training.parts import Part, Result
from training.range import FEATURES_OFF, learn_features, learn_sides, limit_features
from training.runs import OutOfFold
from training.scoring import calibrated, heat_range, pooled_features, score_logits
from training.splits import Splits, check, check_classes
from training.statistics.auc import AucInterval, auc_interval
from training.statistics.calibration import fit_platt
from training.train import Trained, check_enough, choose_threshold, judge
from worker.manifest import Calibration, QualityGate

OUT_OF_FOLD: Final = "out of fold"


@dataclass(frozen=True, slots=True)
class Cases:
    """The cases of one stage: ids, digests of pixels and, in the same order, data."""

    case_ids: tuple[str, ...]
    pixels: tuple[str, ...]
    data: StageSet

    def __len__(self) -> int:
        return len(self.case_ids)


@dataclass(frozen=True, slots=True)
class Development:
    """What a trainer may see, and nothing else: development cases and their folds."""

    stage: Stage
    cases: Cases
    folds: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Validated:
    """The stage that is published, and how well its recipe did on the way."""

    trained: Trained
    oof: OutOfFold
    training: AucInterval
    resubstitution: AucInterval


def cases_of(rows: Sequence[CohortRow], crops: LabelledCrops, stage: Stage) -> Cases:
    """Return the cases with a known label; stage II has SLN-positive ones only."""
    chosen = [row for row in rows if row.label(stage) >= 0]
    keys = np.array([row.patient_key for row in chosen], dtype=np.str_)
    patients = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return Cases(
        case_ids=tuple(row.case_id for row in chosen),
        pixels=tuple(row.pixel_sha256 for row in chosen),
        data=replace(crops.for_stage(stage), patients=patients),
    )


def development(
    rows: Sequence[CohortRow], crops: LabelledCrops, stage: Stage, splits: Splits
) -> Development:
    """Check everything that could spoil a run, before hours are spent.

    Raises:
        SettingsError: A row is not for development, a patient lies in two folds, a
            crop cannot be used, or a class is missing in a fold.
    """
    check_development(rows)
    check(splits, rows)
    cases = cases_of(rows, crops, stage)
    check_contrast(cases.case_ids, cases.data.crops)
    check_enough(stage, "development", cases.data)
    folds = splits.of(cases.case_ids)
    check_classes(stage, cases.data.labels.numpy(), folds)
    return Development(stage, cases, folds)


def cross_fitted(
    labels: NDArray[np.int64], logits: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return probabilities (n,), each fold calibrated by the others alone."""
    probabilities = np.empty(len(labels))
    for fold in np.unique(folds):
        here = folds == fold
        calibration = fit_platt(labels[~here], logits[~here])
        probabilities[here] = calibrated(logits[here], calibration)
    return probabilities


def combine(
    given: Development, parts: Sequence[Part], results: Sequence[Result]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logits and distances (n,) of each case from the fold without it."""
    logits, far = np.full((2, len(given.cases)), np.nan)
    for part, result in zip(parts[1:], results[1:], strict=True):
        here = given.folds == int(part.name.removeprefix("fold-"))
        logits[here], far[here] = result.logits, result.distances
    return logits, far


def finish(
    given: Development,
    parts: Sequence[Part],
    results: Sequence[Result],
    heldout: Callable[[], tuple[Cases, str]],
) -> Validated:
    """Calibrate the served network by the folds, then measure it once.

    Args:
        given: The development cases.
        parts: As `parts.plan` gives them: the served network first.
        results: Of the parts, in their order.
        heldout: Gives the held-out cases and their name; called when nothing can be
            chosen any more.
    """
    recipe, served = parts[0].recipe, results[0]
    labels = given.cases.data.labels.numpy()
    logits, far = combine(given, parts, results)
    calibration = fit_platt(labels, logits)
    where = f"{OUT_OF_FOLD}, {len(parts) - 1} folds"
    threshold = choose_threshold(labels, calibrated(logits, calibration), recipe, where)
    spec, crops = served.preprocessing, given.cases.data.crops
    own = calibrated(score_logits(served.network, crops, spec), calibration)
    typical, features = None, FEATURES_OFF
    if recipe.feature_gate:
        typical = learn_features(pooled_features(served.network, crops, spec))
        features = limit_features(far, "out-of-fold cases")
    judged, dataset = heldout()
    trained = Trained(
        stage=given.stage,
        recipe=recipe,
        network=served.network,
        preprocessing=spec,
        calibration=calibration,
        threshold=threshold,
        performance=judge(
            judged.data.labels.numpy(),
            _probabilities(served, judged.data.crops, calibration),
            threshold.value,
            dataset,
        ),
        heat_range=heat_range(served.network, crops, spec),
        quality=QualityGate(
            sides=learn_sides(given.cases.data.sides, recipe.side_tolerance),
            features=features,
        ),
        typical=typical,
    )
    probabilities = cross_fitted(labels, logits, given.folds)
    return Validated(
        trained=trained,
        oof=OutOfFold(
            case_ids=given.cases.case_ids,
            folds=given.folds,
            labels=labels,
            logits=logits,
            probabilities=probabilities,
            resubstitution=own,
            pixels=given.cases.pixels,
        ),
        training=auc_interval(labels, probabilities),
        resubstitution=auc_interval(labels, own),
    )


def _probabilities(
    served: Result, crops: torch.Tensor, calibration: Calibration
) -> NDArray[np.float64]:
    logits = score_logits(served.network, crops, served.preprocessing)
    return calibrated(logits, calibration)
