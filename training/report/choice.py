"""Which models and cohorts go where, and what they are called."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.findings import Stage
from training.scores import (
    INTERNAL,
    TRAINING,
    CohortScores,
    Evaluation,
    Kind,
    ModelScores,
)
from training.statistics.auc import auc

TITLES: Final = {TRAINING: "Training set", INTERNAL: "Internal validation set"}
RESUBSTITUTION: Final = "resubstitution"
"""In the name of a cohort, or in how the training cohort was scored."""

KINDS: Final = (Kind.CLINICAL, Kind.RADIOMICS, Kind.CNN)
"""The order of the paper's Table 2."""

RADIOMICS_RULE: Final = (
    "The radiomics model is the classifier with the highest out-of-fold AUC in the "
    "training set; all are in Table S4. No test set had a part in the choice."
)


def title(cohort: str) -> str:
    """Call a cohort as the paper does."""
    number = cohort.removeprefix("ext").strip()
    if cohort.startswith("ext") and number.isdigit():
        return f"External test set {number}"
    return TITLES.get(cohort, cohort)


def is_resubstituted(model: ModelScores, cohort: str) -> bool:
    """Say whether these are scores of cases that the model learned from."""
    said = model.about.training_scores if cohort == TRAINING else cohort
    return RESUBSTITUTION in said.lower()


def cohorts(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the cohorts that any model scored honestly: training, internal, others."""
    found: dict[str, None] = {}
    for model in evaluation.models:
        for part in model.cohorts:
            if RESUBSTITUTION not in part.cohort.lower():
                found[part.cohort] = None
    order = {TRAINING: 0, INTERNAL: 1}
    return tuple(sorted(found, key=lambda name: (order.get(name, 2), name)))


def of_kind(evaluation: Evaluation, stage: Stage, kind: Kind) -> list[ModelScores]:
    """Return the models of one kind whose training scores are honest, as listed."""
    return [
        model
        for model in evaluation.of(stage)
        if model.about.kind is kind and not is_resubstituted(model, TRAINING)
    ]


def reference(evaluation: Evaluation, stage: Stage) -> ModelScores | None:
    """Return the network that the others are compared with: the first one listed."""
    return next(iter(of_kind(evaluation, stage, Kind.CNN)), None)


def compared(evaluation: Evaluation, stage: Stage) -> list[ModelScores]:
    """Return the models of Table 2: clinical, one radiomics model, the networks."""
    chosen: list[ModelScores] = []
    for kind in KINDS:
        models = of_kind(evaluation, stage, kind)
        if kind is Kind.RADIOMICS and len(models) > 1:
            models = [max(models, key=_training_auc)]
        chosen += models
    return chosen


def _training_auc(model: ModelScores) -> float:
    part = model.cohort(TRAINING)
    if part is None or len(set(part.labels.tolist())) < 2:  # noqa: PLR2004 - two classes
        return 0.0
    return auc(part.labels, part.probabilities)


def subset(part: CohortScores, keep: Sequence[str] | set[str]) -> CohortScores:
    """Return the cases of a cohort whose id is in `keep`, in their order."""
    rows = np.array([case in keep for case in part.case_ids], dtype=bool)
    ids = tuple(case for case, kept in zip(part.case_ids, rows, strict=True) if kept)
    return CohortScores(part.cohort, ids, part.labels[rows], part.probabilities[rows])


def paired(
    one: CohortScores, two: CohortScores
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return labels (n,) and both scores (n,) of the cases that both models scored."""
    second = dict(zip(two.case_ids, two.probabilities.tolist(), strict=True))
    common = subset(one, set(second))
    others = np.array([second[case] for case in common.case_ids], dtype=np.float64)
    return common.labels, common.probabilities, others
