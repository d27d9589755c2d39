"""What every model said of every case: the one input of all tables and figures.

An evaluation is a folder: `cases.csv` (the rows of the snapshot), `scores.csv` (one
row for each model, stage and case) and `evaluation.json` (models, thresholds and
provenance). Statistics and reports are pure functions of it, so that a radiologist's
reading, a regression and a network are counted by the same code.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from worker.manifest import OperatingThreshold

CASES_NAME: Final = "cases.csv"
SCORES_NAME: Final = "scores.csv"
EVALUATION_NAME: Final = "evaluation.json"
COLUMNS: Final = ("model", "stage", "cohort", "case_id", "label", "probability")

TRAINING: Final = "training"
INTERNAL: Final = "internal"


class Kind(StrEnum):
    """Which of the paper's approaches a model belongs to."""

    CNN = "cnn"
    RADIOMICS = "radiomics"
    CLINICAL = "clinical"
    RADIOLOGIST = "radiologist"


@dataclass(frozen=True, slots=True)
class CohortScores:
    """One model's scores of one cohort: `case_ids`, labels (n,) and probabilities (n,).

    Labels are 0 or 1; a case whose label is unknown is not here. `cohort` is
    "training" (scored out of fold), "internal", or the name of an external cohort.
    """

    cohort: str
    case_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.case_ids)
        if self.labels.shape != (n,) or self.probabilities.shape != (n,):
            raise ValueError(f"{self.cohort}: labels and scores do not fit {n} cases")
        if len(set(self.case_ids)) != n:
            raise ValueError(f"{self.cohort}: a case is scored twice")
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError(f"{self.cohort}: a label is neither 0 nor 1")
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():
            raise ValueError(f"{self.cohort}: a score is not a probability")

    def __len__(self) -> int:
        return len(self.case_ids)


class ScoredModel(BaseModel):
    """A model as `evaluation.json` describes it; one stage.

    `threshold` is the operating threshold, the same for every cohort and subgroup;
    the paper's 0.5 is counted beside it. `training_scores` says how the training
    cohort was scored. `weights_sha256` is null for models without weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    kind: Kind
    stage: Stage
    threshold: OperatingThreshold
    training_scores: str = "out of fold, five folds"
    weights_sha256: str | None = None
    detail: dict[str, str | int | float | None] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelScores:
    """A model with its scores of every cohort, in the order of the table."""

    about: ScoredModel
    cohorts: tuple[CohortScores, ...]

    def cohort(self, name: str) -> CohortScores | None:
        """Return the scores of a cohort, None where the model has none."""
        return next((one for one in self.cohorts if one.cohort == name), None)


class Provenance(BaseModel):
    """What an evaluation was made from, and by which code, for its last page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str
    description: str
    synthetic: bool
    created_at: str
    code_version: str
    libraries: dict[str, str]
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A whole evaluation; `cases` are the rows of the snapshot as text."""

    provenance: Provenance
    cases: tuple[Mapping[str, str], ...]
    models: tuple[ModelScores, ...]

    def of(self, stage: Stage) -> tuple[ModelScores, ...]:
        """Return the models of one stage."""
        return tuple(one for one in self.models if one.about.stage is stage)


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    provenance: Provenance
    models: tuple[ScoredModel, ...]


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write an evaluation into a folder; probabilities keep all their digits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CASES_NAME).open("w", newline="", encoding="utf-8") as stream:
        cases = csv.DictWriter(stream, fieldnames=list(evaluation.cases[0]))
        cases.writeheader()
        cases.writerows(evaluation.cases)
    with (folder / SCORES_NAME).open("w", newline="", encoding="utf-8") as stream:
        scores = csv.writer(stream)
        scores.writerow(COLUMNS)
        for each in evaluation.models:
            scores.writerows(_rows(each))
    described = _Described(
        provenance=evaluation.provenance,
        models=tuple(each.about for each in evaluation.models),
    )
    text = json.dumps(described.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / EVALUATION_NAME).write_text(text + "\n", encoding="utf-8")


def _rows(scored: ModelScores) -> list[tuple[object, ...]]:
    return [
        (scored.about.model, scored.about.stage, part.cohort, *row)
        for part in scored.cohorts
        for row in zip(
            part.case_ids,
            part.labels.tolist(),
            part.probabilities.tolist(),
            strict=True,
        )
    ]


def read(folder: Path) -> Evaluation:
    """Read an evaluation that `write` wrote.

    Raises:
        SettingsError: A file is missing or faulty; the message names it.
    """
    try:
        described = _Described.model_validate_json(
            (folder / EVALUATION_NAME).read_bytes()
        )
        cases = tuple(_table(folder / CASES_NAME))
        rows = _table(folder / SCORES_NAME)
        models = tuple(_scores(about, rows) for about in described.models)
    except OSError as error:
        raise SettingsError(
            f"{error.filename} cannot be read: {error.strerror}; run "
            "`python -m training evaluate` first"
        ) from error
    except (ValidationError, ValueError, KeyError) as error:
        raise SettingsError(f"{folder} is not an evaluation: {error}") from error
    return Evaluation(described.provenance, cases, models)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _scores(about: ScoredModel, rows: Sequence[Mapping[str, str]]) -> ModelScores:
    cohorts: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["model"] == about.model and row["stage"] == about.stage:
            cohorts[row["cohort"]].append(row)
    return ModelScores(
        about,
        tuple(
            CohortScores(
                name,
                tuple(row["case_id"] for row in part),
                np.array([int(row["label"]) for row in part], dtype=np.int64),
                np.array([float(row["probability"]) for row in part]),
            )
            for name, part in cohorts.items()
        ),
    )
