"""Nothing is printed that cannot all hold.

The check reads the tables as they will be printed, cell by cell, so that it also finds
a row that was counted on other cases or copied from another place.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dicom_node.findings import Stage
from training.baselines.cases import cohort_of
from training.report import choice, words
from training.report.document import Table
from training.report.performance import Cut, called
from training.scores import Evaluation, ModelScores
from training.statistics import consistency
from training.statistics.consistency import InconsistentNumbersError, Share
from training.statistics.subgroup import LARGE, SMALL

RATE: Final = re.compile(r"^(\d+(?:\.\d+)?) \(.*\) (\d+)/(\d+)$")
AUC: Final = re.compile(r"^(\d\.\d{3}) \(")
COUNTS: Final = re.compile(r"\(n = (\d+), (\d+) positive\)")
MISSING: Final = Share(float("nan"), 0, 0)


def refuse_strangers(evaluation: Evaluation) -> None:
    """Let an evaluation pass whose scores and cases agree.

    Raises:
        InconsistentNumbersError: A scored case is not in the table of cases, stands in
            another cohort there, or has another label.
    """
    cases = {case["case_id"]: case for case in evaluation.cases}
    if len(cases) != len(evaluation.cases):
        raise InconsistentNumbersError(
            "cases.csv: a case stands there twice, so nothing is printed"
        )
    for model in evaluation.models:
        for part in model.cohorts:
            column = model.about.stage.lower()
            pairs = zip(part.case_ids, part.labels.tolist(), strict=True)
            for case_id, label in pairs:
                case = cases.get(case_id)
                why = _stranger(case, part.cohort, (column, str(label)))
                if why:
                    raise InconsistentNumbersError(
                        f"scores.csv, {model.about.stage}, {part.cohort}, "
                        f"{model.about.model}: case {case_id} {why}; nothing is printed"
                    )


def _stranger(
    case: Mapping[str, str] | None, cohort: str, label: tuple[str, str]
) -> str:
    if case is None:
        return "is not in cases.csv"
    column, value = label
    if case.get(column) != value:
        return f"has the label {value} and in cases.csv {case.get(column) or 'none'}"
    where = {cohort_of(case), case.get("cohort", "")}
    if cohort not in where and choice.RESUBSTITUTION not in cohort.lower():
        return f"is of cohort {cohort_of(case)} in cases.csv"
    return ""


def refuse(evaluation: Evaluation, tables: Sequence[tuple[Table, Cut]]) -> None:
    """Let tables pass whose numbers can all hold, each at its threshold rule.

    Raises:
        InconsistentNumbersError: Some cannot; the message names table, row and why.
    """
    rows = [row for table, cut in tables for row in _rows(evaluation, table, cut)]
    consistency.refuse(rows)


def _rows(evaluation: Evaluation, table: Table, cut: Cut) -> Iterator[consistency.Row]:
    """Yield the rows of a printed table as claims about cases."""
    titles = {choice.title(name): name for name in choice.cohorts(evaluation)}
    stage, group, cohort, n, positives = Stage.SLN, "", "", 0, 0
    for row in table.rows:
        text = row.cells[0]
        counts = COUNTS.search(text)
        if row.heading and counts:
            cohort = titles[text[: counts.start()].strip()]
            n, positives = map(int, counts.groups())
        elif row.heading:
            stage = Stage.NSLN if text.startswith("NSLN") else stage
            group = next((s for s in (SMALL, LARGE) if text.endswith(s)), "")
        elif (model := _model(evaluation, stage, text)) is not None and cohort:
            if all(cell.startswith(words.NOT_COMPUTABLE) for cell in row.cells[1:5]):
                continue
            area = AUC.match(row.cells[1])
            shares = [_share(cell) for cell in row.cells[2:5]]
            if shares[0].n:  # its own cases, where it prints them
                n, positives = shares[0].n, shares[1].n or 0
            yield consistency.Row(
                table.label,
                cohort,
                text,
                n,
                positives,
                accuracy=shares[0],
                sensitivity=shares[1],
                specificity=shares[2],
                auc=float(area[1]) if area else None,
                threshold=cut.at(model),
                stage=stage,
                variable="size" if group else "",
                group=group,
                weights_sha256=model.about.weights_sha256,
            )


def _model(evaluation: Evaluation, stage: Stage, name: str) -> ModelScores | None:
    return next((one for one in evaluation.of(stage) if called(one) == name), None)


def _share(cell: str) -> Share:
    found = RATE.match(cell)
    if found is None:
        return MISSING
    return Share(float(found[1]), int(found[2]), int(found[3]), digits=1)
