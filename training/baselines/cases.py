"""Rows of a cohort as a baseline sees them, and scoring that never sees its answer.

A baseline is a way to fit: given development cases, it returns what predicts others.
The training cohort is scored out of fold; one last fit on all of it scores the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.baselines.patch import Patch, read
from training.row import DEVELOPMENT, HOLDOUT
from training.scores import (
    INTERNAL,
    TRAINING,
    CohortScores,
    ModelScores,
    ScoredModel,
)
from training.statistics.calibration import threshold_at_sensitivity
from worker.manifest import OperatingThreshold

Row = Mapping[str, str]
Rows = NDArray[np.intp]
Predict = Callable[[Rows], NDArray[np.float64]]
Fit = Callable[[Rows], Predict]

SENSITIVITY: Final = 0.9
MIN_CLASS: Final = 5
"""Cases of each class outside a fold, below which nothing can be learnt."""
LABELS: Final = {"0": 0, "1": 1}


def no_pixels(row: Row) -> Patch:
    """Refuse to give pixels, for cohorts that are only a table."""
    raise SettingsError(f"{row['case_id']}: this cohort was given without pixels")


def of_folder(folder: Path, rows: Sequence[Row], fold_of: Mapping[str, int]) -> "Cases":
    """Return cases whose slices lie in a cohort's or a snapshot's folder."""

    def patch_of(row: Row) -> Patch:
        x0, y0, x1, y1 = (float(row[edge]) for edge in ("x0", "y0", "x1", "y1"))
        return read(folder / row["image"], int(row["frame"]), (x0, y0, x1, y1))

    return Cases(rows, fold_of, patch_of)


@dataclass(frozen=True, slots=True)
class Cases:
    """A cohort: rows as in `cohort.csv`, folds of development cases, marked pixels.

    `fold_of` has the fold of every development case that was given one; the others
    are not learnt from. `patch_of` reads the marked pixels of a row.
    """

    rows: Sequence[Row]
    fold_of: Mapping[str, int]
    patch_of: Callable[[Row], Patch] = no_pixels


def cohort_of(row: Row) -> str:
    """Return the name of a row's cohort in tables."""
    role = row["role"]
    if role == DEVELOPMENT:
        return TRAINING
    return INTERNAL if role == HOLDOUT else row["cohort"]


def label_of(row: Row, stage: Stage) -> int:
    """Return the label of a row, -1 if unknown; stage II knows SLN-positive ones."""
    if stage is Stage.NSLN and row["sln"] != "1":
        return -1
    return LABELS.get(row["sln" if stage is Stage.SLN else "nsln"], -1)


@dataclass(frozen=True, slots=True)
class Labelled:
    """The cases of one stage with a known label; arrays (n,), folds -1 if not ours."""

    rows: tuple[Row, ...]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    cohorts: NDArray[np.str_]

    @property
    def development(self) -> Rows:
        """Cases to learn from."""
        return np.flatnonzero(self.folds >= 0)


def labelled(cases: Cases, stage: Stage) -> Labelled:
    """Return the cases of a stage whose label is known.

    Raises:
        SettingsError: There is nothing to learn from: a class or the folds are missing.
    """
    rows = tuple(row for row in cases.rows if label_of(row, stage) >= 0)
    cohorts = np.array([cohort_of(row) for row in rows])
    folds = np.array(
        [
            cases.fold_of.get(row["case_id"], -1) if cohort == TRAINING else -1
            for row, cohort in zip(rows, cohorts, strict=True)
        ],
        dtype=np.int64,
    )
    found = Labelled(
        rows,
        np.array([label_of(row, stage) for row in rows], dtype=np.int64),
        folds,
        cohorts,
    )
    _demand_both_classes(found, stage)
    return found


def _demand_both_classes(found: Labelled, stage: Stage) -> None:
    """Refuse a fold whose complement cannot teach: it lacks cases of a class.

    Raises:
        SettingsError: As said; the message counts.
    """
    mine = found.development
    numbers = np.unique(found.folds[mine])
    if len(numbers) < 2:  # noqa: PLR2004 - out of fold needs another fold
        raise SettingsError(f"{stage}: the development cases are not in several folds")
    for fold in numbers:
        kept = found.labels[mine][found.folds[mine] != fold]
        positives = int(kept.sum())
        if min(positives, len(kept) - positives) < MIN_CLASS:
            raise SettingsError(
                f"{stage}: outside fold {fold} are {positives} positive of {len(kept)} "
                f"cases, and a model needs {MIN_CLASS} of each class to be fitted"
            )


def score(about: ScoredModel, found: Labelled, fit: Fit) -> ModelScores:
    """Score every cohort: training out of fold, the others by a fit on all of it.

    Args:
        about: Of the model; its threshold is replaced by that of its own out-of-fold
            sensitivity.
        found: The cases of one stage.
        fit: Learns from cases at given rows, and returns what predicts rows.
    """
    mine = found.development
    chances = np.full(len(found.rows), np.nan)
    for fold in np.unique(found.folds[mine]):
        aside = mine[found.folds[mine] == fold]
        kept = mine[found.folds[mine] != fold]
        chances[aside] = fit(kept)(aside)
    others = np.flatnonzero((found.folds < 0) & (found.cohorts != TRAINING))
    if len(others):
        chances[others] = fit(mine)(others)
    threshold = out_of_fold_threshold(found.labels[mine], chances[mine])
    return ModelScores(
        about.model_copy(update={"threshold": threshold}), parts(found, chances)
    )


def out_of_fold_threshold(
    labels: NDArray[np.int64], chances: NDArray[np.float64]
) -> OperatingThreshold:
    """Return the threshold that reaches the target sensitivity out of fold."""
    threshold = threshold_at_sensitivity(labels, chances, SENSITIVITY)
    how = threshold.how.replace("on the calibration split", "out of fold")
    return OperatingThreshold(value=threshold.value, how=how)


def parts(found: Labelled, chances: NDArray[np.float64]) -> tuple[CohortScores, ...]:
    """Return the scores by cohort, in the order of the table; NaN is not scored."""
    scored = ~np.isnan(chances)
    named = [TRAINING, INTERNAL, *sorted(set(found.cohorts.tolist()))]
    cohorts = []
    for name in dict.fromkeys(named):
        rows = np.flatnonzero((found.cohorts == name) & scored)
        if len(rows):
            case_ids = tuple(found.rows[i]["case_id"] for i in rows)
            cohorts.append(
                CohortScores(name, case_ids, found.labels[rows], chances[rows])
            )
    return tuple(cohorts)
