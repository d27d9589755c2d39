"""Table S9: who was verified by surgery, and what that does to the rates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from dicom_node.findings import Proportion, Stage
from training.baselines.cases import cohort_of
from training.flowchart import Verified as Live
from training.report import choice, words
from training.report.document import Row, Table
from training.report.performance import OPERATING, called
from training.scores import Evaluation, ModelScores
from training.statistics.bootstrap import Interval
from training.statistics.confusion import percent
from training.statistics.verification import ASSUMPTION, Verification, verification

Scores = Mapping[Stage, Mapping[str, float]]
"""Probabilities of the cases without a label, by stage and case."""

HEADER: Final = (
    "Network and cohort",
    "Verified of high risk, % (95% CI) k/n",
    "Verified of low risk, % (95% CI) k/n",
    "P (Fisher)",
    "Sensitivity, naive",
    "Sensitivity, Begg-Greenes",
    "Specificity, naive",
    "Specificity, Begg-Greenes",
)
DIFFERENCE: Final = 0.0005
"""A corrected value is printed where it differs in the last printed digit."""


def verified(
    evaluation: Evaluation, unlabelled: Scores | None, live: Sequence[Live] = ()
) -> tuple[Table, list[str]]:
    """Return Table S9 and the warnings that belong on the first page.

    Args:
        evaluation: Holds the scores of the cases with a label.
        unlabelled: Scores of those without; None where they could not be scored.
        live: What the live stage I had said of verified and other cases.
    """
    rows, warnings = [], []
    for stage in Stage:
        model = choice.reference(evaluation, stage)
        if model is None:
            missing = words.not_computable("no network of this stage")
            rows.append(Row((f"Stage {stage}", missing, *[""] * 6)))
            continue
        for row, warning in _rows(evaluation, model, unlabelled):
            rows.append(row)
            if warning:
                warnings.append(f"{row.cells[0]}: {warning}")
    title = "Verified share per risk group at the operating threshold"
    notes: tuple[str, ...] = (
        (
            "Verified: the label is known because surgery was done. For NSLN the "
            "patients are the SLN-positive ones. A case without a label is in no rate "
            "of this report."
        ),
        f"{ASSUMPTION} A corrected value stands where it differs from the naive one.",
    )
    notes += tuple(_live(one) for one in live)
    table = Table("table-s9", "Table S9", title, HEADER, tuple(rows), notes)
    return table, warnings


def _live(group: Live) -> str:
    share = words.percent(group.verified, group.cases)
    return f"Of the cases that live stage I called {group.risk} risk, {share} had SLND."


def _rows(
    evaluation: Evaluation, model: ModelScores, unlabelled: Scores | None
) -> Iterator[tuple[Row, str]]:
    stage = model.about.stage
    for cohort in choice.cohorts(evaluation):
        part = model.cohort(cohort)
        if part is None:
            continue
        name = f"{called(model)}, {choice.title(cohort)}"
        missing = _without_label(evaluation, cohort, stage) - set(part.case_ids)
        known = dict(unlabelled.get(stage, {})) if unlabelled else {}
        if not missing <= set(known):
            yield _unscored(name, len(missing), len(part))
            continue
        more = [known[case] for case in sorted(missing)]
        chances = np.concatenate([part.probabilities, np.array(more, dtype=np.float64)])
        labels = np.concatenate([part.labels, np.full(len(more), -1)])
        found = verification(chances >= OPERATING.at(model), labels)
        yield Row((name, *_cells(found))), found.warning


def _without_label(evaluation: Evaluation, cohort: str, stage: Stage) -> set[str]:
    """Return cases that could have a label of a stage and have none."""
    return {
        case["case_id"]
        for case in evaluation.cases
        if cohort_of(case) == cohort
        and case.get(stage.lower(), "") not in {"0", "1"}
        and (stage is Stage.SLN or case.get("sln") == "1")
    }


def _unscored(name: str, unverified: int, verified_: int) -> tuple[Row, str]:
    reason = (
        f"without a label and a score: {unverified} of {unverified + verified_} cases; "
        "give --cohort and --models to score those that were not learnt from"
    )
    warning = (
        f"{unverified} of {unverified + verified_} cases have no label and are in no "
        "rate; whether that biases the rates is not known (Table S9)."
    )
    return Row((name, words.not_computable(reason), *[""] * 6)), warning


def _cells(found: Verification) -> list[str]:
    return [
        percent(found.high) if found.high else "no case",
        percent(found.low) if found.low else "no case",
        words.p_value(found.p),
        percent(found.sensitivity),
        _corrected(found.corrected_sensitivity, found.sensitivity, found),
        percent(found.specificity),
        _corrected(found.corrected_specificity, found.specificity, found),
    ]


def _corrected(
    value: Interval | None, naive: Proportion | None, found: Verification
) -> str:
    every = all(
        group is None or group.k == group.n for group in (found.high, found.low)
    )
    if every:
        return "as naive: every case is verified"
    if value is None:
        return words.not_computable("a cell of the four counts is empty")
    plain = naive.value if naive else None
    if plain is not None and abs(value.value - plain) < DIFFERENCE:
        return "as naive"
    return f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"
