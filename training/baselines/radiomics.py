"""The radiomics model: measured features, selection, four classifiers.

All four are shown for all cohorts. The primary one has the highest AUC out of fold;
no test set is looked at to choose it. Selection is fitted inside each fold.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

from dicom_node.findings import Stage
from training.baselines.cases import Cases, Labelled, Predict, Rows, labelled
from training.baselines.cases import score as score_by
from training.baselines.features import features
from training.baselines.patch import Patch
from training.baselines.selection import Selection
from training.scores import TRAINING, Kind, ModelScores, ScoredModel
from training.statistics.auc import auc
from worker.manifest import OperatingThreshold

SEED: Final = 0
PRIMARY: Final = "primary"
CALIBRATION_FOLDS: Final = 3

Floats = NDArray[np.float64]
Classifier = Callable[[], object]

CLASSIFIERS: Final[dict[str, Classifier]] = {
    "logistic regression": lambda: LogisticRegression(C=0.1, max_iter=1000),
    "SVM": lambda: CalibratedClassifierCV(
        SVC(C=0.5, random_state=SEED), cv=CALIBRATION_FOLDS, ensemble=False
    ),
    "random forest": lambda: RandomForestClassifier(
        200, min_samples_leaf=5, random_state=SEED
    ),
    "DNN": lambda: MLPClassifier((32, 16), alpha=1.0, max_iter=200, random_state=SEED),
}


def pipeline(classifier: str) -> Pipeline:
    """Return selection and classifier as one thing that is fitted on training cases."""
    return make_pipeline(Selection(), CLASSIFIERS[classifier]())


def matrix(patches: Sequence[Patch]) -> tuple[Floats, tuple[str, ...]]:
    """Measure patches: features (n, k) and their names."""
    measured = [features(patch) for patch in patches]
    names = tuple(measured[0])
    return np.array([[one[name] for name in names] for one in measured]), names


def score(
    cases: Cases, stage: Stage, tick: Callable[[], None] = lambda: None
) -> tuple[ModelScores, ...]:
    """Return the scores of the four classifiers, the primary one first.

    Args:
        cases: With the marked pixels of every row.
        stage: Which label.
        tick: Called after each measured case.

    Raises:
        SettingsError: There is nothing to learn from.
    """
    found = labelled(cases, stage)
    patches = []
    for row in found.rows:
        patches.append(features(cases.patch_of(row)))
        tick()
    x = np.array([list(each.values()) for each in patches])
    return score_features(found, x, stage)


def score_features(found: Labelled, x: Floats, stage: Stage) -> tuple[ModelScores, ...]:
    """Return the same from features (n, k) that were measured before."""
    scored = [_score(name, found, x, stage) for name in CLASSIFIERS]
    areas = [_out_of_fold_auc(one) for one in scored]
    order = sorted(range(len(scored)), key=lambda i: -areas[i])
    return tuple(
        ModelScores(
            _told(scored[i].about, areas[i], first=i == order[0]), scored[i].cohorts
        )
        for i in order
    )


def _score(name: str, found: Labelled, x: Floats, stage: Stage) -> ModelScores:
    def fit(kept: Rows) -> Predict:
        model = fitted(name, x[kept], found.labels[kept])
        return lambda rows: model(x[rows])

    about = ScoredModel(
        model=f"Radiomics, {name}",
        kind=Kind.RADIOMICS,
        stage=stage,
        threshold=OperatingThreshold(value=0.5, how="set below"),
        detail={
            "classifier": name,
            "features": x.shape[1],
            "selection": "correlation <= 0.9, then L1, inside each fold",
        },
    )
    return score_by(about, found, fit)


def fitted(
    name: str, x: Floats, labels: NDArray[np.int64]
) -> Callable[[Floats], Floats]:
    """Fit a classifier on features (n, k); return what gives probabilities (m,)."""
    model = pipeline(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # epochs are a penalty too
        model.fit(x, labels)
    return lambda other: np.asarray(model.predict_proba(other)[:, 1], np.float64)


def _out_of_fold_auc(scored: ModelScores) -> float:
    part = scored.cohort(TRAINING)
    return auc(part.labels, part.probabilities) if part else 0.0


def _told(about: ScoredModel, area: float, *, first: bool) -> ScoredModel:
    detail = {
        **about.detail,
        "AUC out of fold": round(area, 4),
        PRIMARY: "yes, by the AUC out of fold" if first else "no",
    }
    return about.model_copy(update={"detail": detail})
