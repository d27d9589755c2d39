"""Tables 2 and 3 and their kin: AUC, accuracy, sensitivity, specificity, P."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.findings import Stage
from training.report import choice, words
from training.report.document import Row, Table
from training.scores import CohortScores, Evaluation, Kind, ModelScores
from training.statistics.auc import auc_interval, compare
from training.statistics.confusion import DEFINITIONS, Metric, count, percent, rate
from training.statistics.roc import OPTIMISTIC, youden
from training.statistics.subgroup import CAUTION, LARGE, SMALL, UNKNOWN, size_class

PAPER_THRESHOLD: Final = 0.5
FEWEST: Final = 2
"""Cases of each class without which an AUC has no variance."""

SHOWN: Final = (Metric.ACCURACY, Metric.SENSITIVITY, Metric.SPECIFICITY)
HEADER: Final = (
    "Model",
    "AUC (95% CI)",
    "Accuracy, % (95% CI) k/n",
    "Sensitivity, % (95% CI) k/n",
    "Specificity, % (95% CI) k/n",
)

Threshold = Callable[[ModelScores], float]


@dataclass(frozen=True, slots=True)
class Cut:
    """A threshold rule: where it lies for a model, and how to say so."""

    at: Threshold
    words: str


AT_HALF: Final = Cut(lambda _: PAPER_THRESHOLD, "threshold 0.5, as in the paper")
OPERATING: Final = Cut(
    lambda model: model.about.threshold.value, "each model's operating threshold"
)

NOTES: Final = (
    (
        "AUC with DeLong's 95% interval on the logit scale. Accuracy = (TP + TN) / n, "
        "sensitivity = TP / (TP + FN), specificity = TN / (TN + FP); k/n are the "
        "counts behind each percentage, intervals are Clopper and Pearson's. High risk "
        "means calibrated probability \N{GREATER-THAN OR EQUAL TO} threshold, "
        "unrounded."
    ),
    (
        "P: two-sided DeLong test of the paired AUCs against the network, on the cases "
        "that both scored."
    ),
)


def auc_cell(part: CohortScores) -> str:
    """Write an AUC with its interval, or why there is none."""
    reason = too_few(part)
    if reason:
        return words.not_computable(reason)
    if len(set(part.probabilities.tolist())) == 1:
        return "0.500 (no interval: all scores are equal)"
    area = auc_interval(part.labels, part.probabilities)
    return f"{area.value:.3f} ({area.low:.3f}-{area.high:.3f})"


def too_few(part: CohortScores) -> str:
    """Say why an AUC cannot be had of these cases; empty when it can."""
    positives = int(part.labels.sum())
    negatives = len(part) - positives
    if not len(part):
        return "no case"
    if min(positives, negatives) >= FEWEST:
        return ""
    if positives and negatives:
        return f"one case alone of a class (n = {len(part)})"
    kind = "positive" if positives else "negative"
    return f"one class only, all {len(part)} are {kind}"


def rate_cells(part: CohortScores, threshold: float) -> list[str]:
    """Write accuracy, sensitivity and specificity, or why one is missing."""
    counts = count(part.labels, part.probabilities, threshold)
    cells = []
    for metric in SHOWN:
        found = rate(counts, metric)
        missing = f"{DEFINITIONS[metric].formula} is 0 / 0"
        cells.append(percent(found) if found else words.not_computable(missing))
    return cells


def p_cell(part: CohortScores, against: CohortScores | None) -> str:
    """Write the P value of DeLong's test against the network."""
    if against is None:
        return words.not_computable("no network scored this cohort")
    labels, one, two = choice.paired(part, against)
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < FEWEST:
        return words.not_computable("fewer than two cases of a class")
    return words.p_value(compare(labels, one, two).p)


def band(part: CohortScores, said: str = "") -> Row:
    """Return the heading of a cohort: its name, n, positives."""
    positives = int(part.labels.sum())
    text = f"{choice.title(part.cohort)} (n = {len(part)}, {positives} positive)"
    return Row((f"{text}: {said}" if said else text,), heading=True)


def performance(evaluation: Evaluation, key: str, label: str, cut: Cut) -> Table:
    """Return Table 2 at one threshold rule: SLN by cohort and model, then NSLN."""
    rows: list[Row] = []
    for stage in Stage:
        rows.append(Row((_stage_words(stage),), heading=True, major=True))
        rows += _stage_rows(evaluation, stage, cut)
    notes = [*NOTES, choice.RADIOMICS_RULE]
    if cut is OPERATING:
        notes.append(
            "Operating thresholds: " + "; ".join(_thresholds(evaluation)) + "."
        )
    title = f"Performance for SLN and NSLN status at {cut.words}"
    return Table(
        key, label, title, (*HEADER, "P against the network"), tuple(rows), tuple(notes)
    )


def _stage_words(stage: Stage) -> str:
    return {
        Stage.SLN: "SLN: metastasis of the sentinel lymph node",
        Stage.NSLN: "NSLN: metastasis of other nodes, in SLN-positive patients",
    }[stage]


def _stage_rows(evaluation: Evaluation, stage: Stage, cut: Cut) -> Iterator[Row]:
    models = choice.compared(evaluation, stage)
    network = choice.reference(evaluation, stage)
    if not models:
        missing = words.not_computable(f"the evaluation has no model of stage {stage}")
        yield Row((f"{stage} models", *[missing] * 4, ""))
    for cohort in choice.cohorts(evaluation):
        parts = [(model, model.cohort(cohort)) for model in models]
        first = next((part for _, part in parts if part is not None), None)
        if first is None:
            continue
        yield band(first, _how_scored(models, cohort))
        against = network.cohort(cohort) if network else None
        for model, part in parts:
            if part is None:
                missing = words.not_computable("not scored")
                yield Row((called(model), *[missing] * 4, ""))
                continue
            p = "\N{EN DASH}" if model is network else p_cell(part, against)
            cells = rate_cells(part, cut.at(model))
            yield Row((called(model), auc_cell(part), *cells, p))


def _how_scored(models: Sequence[ModelScores], cohort: str) -> str:
    if cohort != "training":
        return ""
    ways = {called(model): model.about.training_scores for model in models}
    if len(set(ways.values())) == 1:
        return next(iter(ways.values()))
    return "; ".join(f"{name}: {way}" for name, way in ways.items())


def called(model: ModelScores) -> str:
    """Name a model in a row: a network with the number of its stage."""
    if model.about.kind is Kind.CNN:
        number = {Stage.SLN: "I", Stage.NSLN: "II"}[model.about.stage]
        name = model.about.model
        return f"CNN model ({name}{'' if name.endswith(number) else f'-{number}'})"
    return model.about.model


def _thresholds(evaluation: Evaluation) -> Iterator[str]:
    for stage in Stage:
        for model in choice.compared(evaluation, stage):
            at = model.about.threshold
            yield f"{called(model)} {at.value:.4f} ({at.how})"


def by_size(evaluation: Evaluation) -> Table:
    """Return Table 3: SLN performance up to and above 2 cm, at 0.5."""
    rows: list[Row] = []
    cases = {case["case_id"]: case for case in evaluation.cases}
    for size in (SMALL, LARGE):
        rows.append(Row((f"Lesions {size}",), heading=True, major=True))
        keep = {case for case, known in cases.items() if size_class(known) == size}
        rows += _group_rows(evaluation, keep)
    unknown = sum(size_class(case) == UNKNOWN for case in evaluation.cases)
    return Table(
        "table-3",
        "Table 3",
        f"SLN performance by tumour size at {AT_HALF.words}",
        HEADER,
        tuple(rows),
        (
            NOTES[0],
            (
                "The threshold is the same in every subgroup. Tumour size is that "
                f"reported on MRI; cases without one: {unknown}, left out of both "
                "groups."
            ),
            CAUTION,
        ),
    )


def _group_rows(evaluation: Evaluation, keep: set[str]) -> Iterator[Row]:
    models = choice.compared(evaluation, Stage.SLN)
    for cohort in choice.cohorts(evaluation):
        parts = [(model, model.cohort(cohort)) for model in models]
        scored = [(m, choice.subset(one, keep)) for m, one in parts if one is not None]
        if not scored:
            continue
        yield band(scored[0][1])
        for model, part in scored:
            cells = rate_cells(part, AT_HALF.at(model))
            yield Row((called(model), auc_cell(part), *cells))


def classifiers(evaluation: Evaluation) -> Table:
    """Return Table S4: every radiomics classifier in every cohort, at 0.5."""
    models = choice.of_kind(evaluation, Stage.SLN, Kind.RADIOMICS)
    rows: list[Row] = []
    for cohort in choice.cohorts(evaluation):
        parts = [(model, model.cohort(cohort)) for model in models]
        scored = [(model, part) for model, part in parts if part is not None]
        if scored:
            rows.append(band(scored[0][1]))
        for model, part in scored:
            cells = rate_cells(part, AT_HALF.at(model))
            rows.append(Row((model.about.model, auc_cell(part), *cells)))
    if not models:
        missing = words.not_computable("the evaluation has no radiomics model")
        rows.append(Row(("Radiomics", *[missing] * 4)))
    title = f"Radiomics classifiers for SLN status at {AT_HALF.words}"
    notes = (NOTES[0], choice.RADIOMICS_RULE)
    return Table("table-s4", "Table S4", title, HEADER, tuple(rows), notes)


def optimistic(evaluation: Evaluation) -> Table:
    """Return Table S7: what flatters a model, labelled as what it is."""
    rows: list[Row] = []
    for stage in Stage:
        for model in evaluation.of(stage):
            for part in model.cohorts:
                if choice.is_resubstituted(model, part.cohort):
                    rows.append(_resubstituted(model, part))
                elif model.about.kind is Kind.CNN:
                    rows.append(_youden(model, part))
    header = (HEADER[0], "What it is", *HEADER[1:])
    notes = (
        f"{OPTIMISTIC[0].upper()}{OPTIMISTIC[1:]}. It is never an operating threshold.",
        (
            "Resubstitution scores the cases that the model learned from. Neither may "
            "be compared with Table 2 or quoted as performance."
        ),
    )
    title = "Optimistic rows, for comparison with publications that print them"
    return Table("table-s7", "Table S7", title, header, tuple(rows), notes)


def _youden(model: ModelScores, part: CohortScores) -> Row:
    name = f"{called(model)}, {choice.title(part.cohort)}"
    reason = too_few(part)
    if reason:
        return Row((name, "OPTIMISTIC: Youden", *[words.not_computable(reason)] * 4))
    best = youden(part.labels, part.probabilities)
    what = f"OPTIMISTIC: Youden's threshold {best.threshold:.3f}"
    return Row((name, what, auc_cell(part), *rate_cells(part, best.threshold)))


def _resubstituted(model: ModelScores, part: CohortScores) -> Row:
    name = f"{called(model)}, training set"
    cells = rate_cells(part, PAPER_THRESHOLD)
    return Row((name, "RESUBSTITUTION, threshold 0.5", auc_cell(part), *cells))
