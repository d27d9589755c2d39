"""Table S3: odds ratios of the clinical variables."""

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.baselines.cases import Cases, cohort_of
from training.baselines.clinical import Odds, OddsTable, odds_ratios
from training.report import words
from training.report.document import Row, Table
from training.scores import TRAINING, Evaluation

HEADER = (
    "Variable",
    "Known (missing)",
    "Univariable OR (95% CI)",
    "P",
    "Multivariable OR (95% CI)",
    "P, multivariable",
)


def ratios(evaluation: Evaluation) -> Table:
    """Return Table S3: univariable and multivariable, on the training cohort."""
    title = "Odds ratios for SLN metastasis in the training set"
    rows: list[Row] = []
    notes: tuple[str, ...] = (
        (
            "Logistic regression on variables known before surgery; Wald 95% "
            "intervals. A variable that did not enter the multivariable model has no "
            "ratio there."
        ),
    )
    try:
        found = odds_ratios(_cases(evaluation), Stage.SLN)
    except SettingsError as error:
        missing = words.not_computable(str(error))
        rows.append(Row(("Clinical variables", missing, *[""] * 4)))
    else:
        rows += [Row(_cells(one)) for one in found.rows]
        notes = (*notes, _said(found))
    return Table("table-s3", "Table S3", title, HEADER, tuple(rows), notes)


def _cases(evaluation: Evaluation) -> Cases:
    """Return the cases; which fold one is in does not matter for odds ratios."""
    mine = [case for case in evaluation.cases if cohort_of(case) == TRAINING]
    ranked = sorted(mine, key=lambda case: (case.get("sln", ""), case["case_id"]))
    folds = {case["case_id"]: number % 2 for number, case in enumerate(ranked)}
    return Cases(evaluation.cases, folds)


def _said(found: OddsTable) -> str:
    return (
        f"n = {found.n}, {found.positives} positive. Entered: {found.rule}. Fitted by "
        f"{found.method}. Missing values become the median."
    )


def _cells(one: Odds) -> tuple[str, ...]:
    none = words.not_computable(one.note) if one.note else "\N{EN DASH}"
    return (
        one.variable,
        f"{one.known} ({one.missing})",
        words.span(*one.univariable, digits=2) if one.univariable else none,
        words.p_value(one.univariable_p) if one.univariable_p is not None else "",
        words.span(*one.multivariable, digits=2)
        if one.multivariable
        else "\N{EN DASH}",
        words.p_value(one.multivariable_p) if one.multivariable_p is not None else "",
    )
