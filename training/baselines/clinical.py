"""The clinical model: univariable, then multivariable logistic regression.

Only variables known before surgery may enter. Those with a univariable p below 0.05
go into the multivariable model, chosen anew inside each fold; a missing value becomes
the median of the cases that the fold learns from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.baselines import logistic
from training.baselines.cases import Cases, Labelled, Predict, Row, Rows, labelled
from training.baselines.cases import score as score_by
from training.scores import Kind, ModelScores, ScoredModel
from training.statistics.subgroup import LARGE, UNKNOWN, cell, size_class
from worker.manifest import OperatingThreshold

MODEL: Final = "Clinical model"
ALPHA: Final = 0.05
MAX_MISSING: Final = 0.5
BIRADS: Final = ("0", "1", "2", "3", "4A", "4B", "4C", "5", "6")
BIRADS_4: Final = float(BIRADS.index("4B"))  # 4 without a letter: the middle of it

Floats = NDArray[np.float64]

BLOCKED: Final = {
    "grade": "histological grade is read from the surgical specimen",
    "histology": "histological type is read from the surgical specimen",
    "subtype": "molecular subtype is read from the surgical specimen",
    "sln": "it is the outcome",
    "nsln": "it is the outcome",
}
"""Columns that must not enter, and why: they are not known before surgery."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A column as a number; NaN where it is missing. `words` states the unit."""

    name: str
    words: str
    read: Callable[[Row], float]


def _size(row: Row) -> float:
    group = size_class(row)
    return np.nan if group == UNKNOWN else float(group == LARGE)


def _birads(row: Row) -> float:
    text = cell(row, "birads").upper()
    if text == "4":
        return BIRADS_4
    return float(BIRADS.index(text)) if text in BIRADS else np.nan


def _age(row: Row) -> float:
    text = cell(row, "age")
    return np.nan if text == UNKNOWN else float(text) / 10


def _choice(column: str, yes: str, no: str) -> Callable[[Row], float]:
    return lambda row: {yes: 1.0, no: 0.0}.get(cell(row, column), np.nan)


SIZE: Final = Variable("size_cm", "MRI size > 2 cm against ≤ 2 cm", _size)
BIRADS_STEP: Final = Variable("birads", "BI-RADS, per category", _birads)
AGE: Final = Variable("age", "age, per 10 years", _age)
MENOPAUSE: Final = Variable(
    "menopause", "post- against premenopausal", _choice("menopause", "post", "pre")
)
MRI_ALN: Final = Variable(
    "mri_aln", "MRI-reported ALN positive", _choice("mri_aln", "1", "0")
)
CANDIDATES: Final = (SIZE, BIRADS_STEP, AGE, MENOPAUSE)
"""As in the paper; the MRI report is a comparator of its own, and an option here."""


@dataclass(frozen=True, slots=True)
class Odds:
    """One row of the table of odds ratios; None where the variable did not enter."""

    variable: str
    known: int
    missing: int
    univariable: tuple[float, float, float] | None
    univariable_p: float | None
    multivariable: tuple[float, float, float] | None
    multivariable_p: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class OddsTable:
    """Odds ratios with 95% Wald intervals on n training cases."""

    n: int
    positives: int
    rows: tuple[Odds, ...]
    method: str
    rule: str


@dataclass(frozen=True, slots=True)
class _Model:
    """A fitted clinical model: which columns, their medians, coefficients."""

    medians: Floats
    univariable: tuple[logistic.Logistic | None, ...]
    chosen: tuple[int, ...]
    fitted: logistic.Logistic
    rule: str

    def predict(self, x: Floats) -> Floats:
        filled = np.where(np.isnan(x), self.medians, x)
        return self.fitted.predict(filled[:, self.chosen])


def score(
    cases: Cases, stage: Stage, variables: Sequence[Variable] = CANDIDATES
) -> tuple[ModelScores, ...]:
    """Return the clinical model's scores of every cohort.

    Raises:
        SettingsError: A variable is not known before surgery, or a class is missing.
    """
    found = labelled(cases, stage)
    x = matrix(found, variables)

    def fit(kept: Rows) -> Predict:
        model = _fit(x[kept], found.labels[kept])
        return lambda rows: model.predict(x[rows])

    final = _fit(x[found.development], found.labels[found.development])
    about = ScoredModel(
        model=MODEL,
        kind=Kind.CLINICAL,
        stage=stage,
        threshold=OperatingThreshold(value=0.5, how="set below"),
        detail={
            "variables": ", ".join(variables[i].words for i in final.chosen) or "none",
            "method": final.fitted.method,
            "selection": final.rule,
            "missing": "median of the training cases",
        },
    )
    return (score_by(about, found, fit),)


def odds_ratios(
    cases: Cases, stage: Stage, variables: Sequence[Variable] = CANDIDATES
) -> OddsTable:
    """Return univariable and multivariable odds ratios on the training cohort.

    Raises:
        SettingsError: A variable is not known before surgery, or a class is missing.
    """
    found = labelled(cases, stage)
    rows = found.development
    x, labels = matrix(found, variables)[rows], found.labels[rows]
    model = _fit(x, labels)
    return OddsTable(
        n=len(rows),
        positives=int(labels.sum()),
        rows=tuple(
            _odds(model, i, variable, x[:, i]) for i, variable in enumerate(variables)
        ),
        method=model.fitted.method,
        rule=model.rule,
    )


def matrix(found: Labelled, variables: Sequence[Variable]) -> Floats:
    """Return the variables (n, k) of these cases, NaN where missing.

    Raises:
        SettingsError: A variable is not known before surgery, or a cell is no number.
    """
    for variable in variables:
        if variable.name in BLOCKED:
            raise SettingsError(
                f"{variable.name} cannot enter a model for use before surgery: "
                f"{BLOCKED[variable.name]}"
            )
    return np.array([_values(row, variables) for row in found.rows], dtype=np.float64)


def _values(row: Row, variables: Sequence[Variable]) -> list[float]:
    values = []
    for variable in variables:
        try:
            values.append(variable.read(row))
        except ValueError as error:
            raise SettingsError(
                f"{row['case_id']}: column {variable.name} is not a number"
            ) from error
    return values


def _fit(x: Floats, labels: NDArray[np.int64]) -> _Model:
    missing = np.isnan(x).mean(axis=0)
    known = [i for i in range(x.shape[1]) if missing[i] <= MAX_MISSING]
    medians = np.zeros(x.shape[1])
    medians[known] = np.nanmedian(x[:, known], axis=0)
    filled = np.where(np.isnan(x), medians, x)
    usable = [i for i in known if np.ptp(filled[:, i]) > 0]
    univariable: list[logistic.Logistic | None] = [None] * x.shape[1]
    for i in usable:
        univariable[i] = logistic.fit(filled[:, [i]], labels)
    chosen, rule = _choose(univariable)
    fitted = logistic.fit(filled[:, chosen], labels)
    return _Model(medians, tuple(univariable), chosen, fitted, rule)


def _choose(
    univariable: Sequence[logistic.Logistic | None],
) -> tuple[tuple[int, ...], str]:
    p = {i: float(one.p[1]) for i, one in enumerate(univariable) if one is not None}
    chosen = tuple(i for i, value in p.items() if value < ALPHA)
    if chosen:
        return chosen, f"univariable p < {ALPHA}"
    if not p:
        return (), "no variable is known often enough: the prevalence alone"
    best = min(p, key=lambda i: p[i])
    return (best,), f"no univariable p < {ALPHA}; the smallest one was taken"


def _odds(model: _Model, i: int, variable: Variable, values: Floats) -> Odds:
    alone = model.univariable[i]
    at = model.chosen.index(i) if i in model.chosen else None
    missing = int(np.isnan(values).sum())
    return Odds(
        variable=variable.words,
        known=len(values) - missing,
        missing=missing,
        univariable=alone.odds_ratio(0) if alone else None,
        univariable_p=float(alone.p[1]) if alone else None,
        multivariable=None if at is None else model.fitted.odds_ratio(at),
        multivariable_p=None if at is None else float(model.fitted.p[at + 1]),
        note=_note(alone, missing / len(values)),
    )


def _note(alone: logistic.Logistic | None, missing: float) -> str:
    if alone is None:
        few = f"missing in {missing:.0%} of cases" if missing > MAX_MISSING else ""
        return few or "the same in all cases"
    return alone.method if alone.method != logistic.LIKELIHOOD else ""
