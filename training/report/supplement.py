"""Tables of the supplement that show how far a number can be trusted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from dicom_node.findings import Stage
from training.description import LEVELS as CATEGORIES
from training.phantom import law as laws
from training.report import choice, words
from training.report.cohorts import LEVELS
from training.report.document import Row, Table
from training.report.performance import OPERATING, auc_cell, band, called, too_few
from training.row import COLUMNS
from training.scores import TRAINING, CohortScores, Evaluation, ModelScores
from training.statistics import subgroup
from training.statistics.auc import auc, auc_interval, compare
from training.statistics.bootstrap import (
    TIMES,
    Interval,
    auc_bootstrap,
    auc_difference,
)
from training.statistics.reliability import Reliability, reliability

ORACLE_CASES: Final = 100_000
ORACLE_SEED: Final = 1
CHANCE: Final = 0.5
OUTCOMES: Final = ("sln", "nsln")
SIZE: Final = "size_cm"
MRI_ALN: Final = "mri_aln"
VARIABLES: Final = {
    SIZE: "Tumour size",
    **{
        name: title
        for name, (title, _) in CATEGORIES.items()
        if name in COLUMNS and name not in OUTCOMES
    },
}


def _scored(
    evaluation: Evaluation, stage: Stage
) -> Iterator[tuple[str, list[tuple[ModelScores, CohortScores]]]]:
    models = choice.compared(evaluation, stage)
    for cohort in choice.cohorts(evaluation):
        parts = [(model, model.cohort(cohort)) for model in models]
        found = [(model, part) for model, part in parts if part is not None]
        if found:
            yield cohort, found


def intervals(evaluation: Evaluation) -> Table:
    """Return Table S5: DeLong beside the bootstrap, and differences of AUC."""
    rows: list[Row] = []
    for stage in Stage:
        network = choice.reference(evaluation, stage)
        for cohort, found in _scored(evaluation, stage):
            rows.append(_stage_band(stage, found[0][1]))
            against = network.cohort(cohort) if network else None
            for model, part in found:
                other = None if model is network else against
                rows.append(Row((called(model), *_interval_cells(part, other))))
    return Table(
        "table-s5",
        "Table S5",
        "AUC by DeLong and by bootstrap, and its difference from the network's",
        (
            "Model",
            "AUC (DeLong 95% CI)",
            "AUC (bootstrap 95% CI)",
            "Network minus model (DeLong 95% CI)",
            "Network minus model (bootstrap 95% CI)",
            "P (DeLong)",
        ),
        tuple(rows),
        (
            (
                f"Bootstrap: {TIMES} draws of patients with replacement within each "
                "class, 2.5th and 97.5th percentile; the seed is fixed."
            ),
        ),
    )


def _stage_band(stage: Stage, part: CohortScores) -> Row:
    return Row((f"{stage}: {band(part).cells[0]}",), heading=True)


def _interval_cells(part: CohortScores, against: CohortScores | None) -> list[str]:
    reason = too_few(part)
    if reason:
        return [words.not_computable(reason), *["\N{EN DASH}"] * 4]
    booted = auc_bootstrap(part.labels, part.probabilities)
    cells = [auc_cell(part), words.span(*booted)]
    if against is None:
        return [*cells, *["\N{EN DASH}"] * 3]
    labels, one, two = choice.paired(against, part)
    if min(int(labels.sum()), int((labels == 0).sum())) < 2:  # noqa: PLR2004 - a variance needs two
        missing = words.not_computable("fewer than two common cases of a class")
        return [*cells, missing, "\N{EN DASH}", "\N{EN DASH}"]
    tested = compare(labels, one, two)
    difference = words.span(tested.value, tested.low, tested.high)
    drawn = words.span(*auc_difference(labels, one, two))
    return [*cells, difference, drawn, words.p_value(tested.p)]


def calibration(evaluation: Evaluation) -> Table:
    """Return Table S6: slope, intercept, observed to expected, Brier score."""
    rows: list[Row] = []
    for stage in Stage:
        for _, found in _scored(evaluation, stage):
            rows.append(_stage_band(stage, found[0][1]))
            for model, part in found:
                reason = too_few(part)
                cells = [words.not_computable(reason), *["\N{EN DASH}"] * 4]
                if not reason:
                    measured = reliability(part.labels, part.probabilities)
                    cells = _calibration_cells(measured)
                rows.append(Row((called(model), *cells)))
    return Table(
        "table-s6",
        "Table S6",
        "Calibration of the probabilities",
        (
            "Model",
            "Slope (95% CI)",
            "Intercept (95% CI)",
            "Observed / expected (95% CI)",
            "Brier score (95% CI)",
            "Scaled Brier score",
        ),
        tuple(rows),
        (
            (
                "Slope: coefficient of logit(probability) in a logistic regression of "
                "the label, 1 is right, below 1 the probabilities are too extreme. "
                "Intercept: shift of the logit with slope 1, 0 is right, above 0 risks "
                "are too low. Observed / expected: positives over the sum of the "
                "probabilities."
            ),
            (
                "Brier score: mean of (probability \N{MINUS SIGN} label)\u00b2, 0 is "
                "perfect. Scaled: 1 \N{MINUS SIGN} Brier / Brier of the prevalence, 1 "
                "is perfect, 0 knows nothing."
            ),
        ),
    )


def _calibration_cells(measured: Reliability) -> list[str]:
    return [
        _spanned(measured.slope, measured.note),
        _spanned(measured.intercept, "no maximum of the likelihood"),
        words.span(*measured.observed_expected, digits=2),
        words.span(*measured.brier),
        words.decimal(measured.scaled_brier),
    ]


def _spanned(interval: Interval | None, note: str) -> str:
    if interval is None:
        return words.not_computable(note)
    return words.span(*interval, digits=2)


def subgroups(evaluation: Evaluation) -> Table:
    """Return Table S8: AUC of the network for SLN by every clinical variable."""
    model = choice.reference(evaluation, Stage.SLN)
    names = [
        name for name in choice.cohorts(evaluation) if model and model.cohort(name)
    ]
    rows = []
    cases = {case["case_id"]: case for case in evaluation.cases}
    for variable, heading in VARIABLES.items():
        if model is None or not any(case.get(variable) for case in cases.values()):
            missing = words.not_computable(f"no case states {variable}")
            rows += [
                Row((heading,), heading=True),
                Row(("all", *[missing] * len(names))),
            ]
            continue
        rows.append(Row((heading,), heading=True))
        rows += _levels(model, names, cases, variable)
    return Table(
        "table-s8",
        "Table S8",
        "AUC of the network for SLN in subgroups: AUC (95% CI), positives / n",
        ("Subgroup", *map(choice.title, names)),
        tuple(rows),
        (
            subgroup.CAUTION,
            (
                "P of the interaction (sizes, menopause, MRI report): DeLong test "
                "between the two subgroups, unpaired."
            ),
        ),
    )


def _levels(
    model: ModelScores,
    names: Sequence[str],
    cases: Mapping[str, Mapping[str, str]],
    variable: str,
) -> Iterator[Row]:
    read = subgroup.size_class if variable == SIZE else subgroup.column(variable)
    split = {}
    for name in names:
        part = model.cohort(name)
        if part is not None and len(part):
            at = OPERATING.at(model)
            split[name] = subgroup.subgroups(part, cases, (variable, read), at)
    found = [group.name for one in split.values() for group in one.groups]
    levels = dict.fromkeys(found) if variable == SIZE else _ordered(variable, found)
    for level in levels:
        cells = []
        for name in names:
            groups = {g.name: g for g in split[name].groups} if name in split else {}
            cells.append(_level_cell(groups.get(level)))
        yield Row((_named_level(variable, level), *cells))
    if any(one.interaction for one in split.values()):
        tests = [split[name].interaction if name in split else None for name in names]
        cells = [words.p_value(t.p) if t else "\N{EN DASH}" for t in tests]
        yield Row(("P of the interaction", *cells))


def _ordered(variable: str, levels: Iterable[str]) -> list[str]:
    """Return levels in the order of Table 1, others behind them."""
    known = CATEGORIES[variable][1] if variable != MRI_ALN else ("0", "1")
    order = {level: n for n, level in enumerate(known)}
    return sorted(set(levels), key=lambda level: (order.get(level, len(known)), level))


def _named_level(variable: str, level: str) -> str:
    if variable == MRI_ALN:
        return {"0": "Negative", "1": "Positive"}.get(level, level)
    return LEVELS.get(level, level)


def _level_cell(group: subgroup.Group | None) -> str:
    if group is None:
        return "no case"
    counts = f"{group.counts.positives}/{group.counts.n}"
    if group.auc is None:
        return f"{words.not_computable(too_few(group.scores))}; {counts}"
    area = group.auc
    return f"{area.value:.3f} ({area.low:.3f}-{area.high:.3f}), {counts}"


def bayes(evaluation: Evaluation) -> Table:
    """Return Table S10: how much of the best possible AUC each model reaches."""
    known = {_named(law.name): law for law in laws.COHORTS}
    rows: list[Row] = []
    for stage in Stage:
        for cohort, found in _scored(evaluation, stage):
            rows.append(_stage_band(stage, found[0][1]))
            law = known.get(cohort)
            best = _oracle(law, stage) if law else None
            rows += [_share_row(model, part, best) for model, part in found]
    return Table(
        "table-s10",
        "Table S10",
        "Share of the best AUC that anybody can reach on this phantom",
        (
            "Model",
            "AUC (95% CI)",
            "Bayes AUC",
            "Share of it",
            "Share of the discrimination above chance",
        ),
        tuple(rows),
        (
            (
                f"Bayes AUC: that of the true logits in {ORACLE_CASES:,} fresh "
                "patients of the cohort's law. Share above chance = (AUC "
                f"\N{MINUS SIGN} 0.5) / (Bayes \N{MINUS SIGN} 0.5). With few cases a "
                "model may exceed it by luck."
            ),
        ),
    )


def _named(law: str) -> str:
    return TRAINING if law == "train" else law


def _oracle(law: laws.CohortLaw, stage: Stage) -> float:
    patients = laws.draw(law, ORACLE_CASES, ORACLE_SEED)
    if stage is Stage.SLN:
        return auc(patients.sln, patients.sln_score)
    known = patients.nsln >= 0
    return auc(patients.nsln[known], patients.nsln_score[known])


def _share_row(model: ModelScores, part: CohortScores, best: float | None) -> Row:
    if best is None:
        missing = words.not_computable("the phantom has no law of this cohort")
        return Row((called(model), auc_cell(part), missing, "", ""))
    reason = too_few(part)
    if reason:
        missing = words.not_computable(reason)
        return Row((called(model), missing, f"{best:.3f}", "", ""))
    value = auc_interval(part.labels, part.probabilities).value
    ratios = (value / best, (value - CHANCE) / (best - CHANCE))
    shares = (f"{words.decimal(100 * ratio, 1)}%" for ratio in ratios)
    return Row((called(model), auc_cell(part), f"{best:.3f}", *shares))
