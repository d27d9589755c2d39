"""Figures 2 and 4: what the cascade recommends; radiologists against the network."""

from dataclasses import replace
from typing import Final

from dicom_node.findings import Stage
from training.report import choice, flows, words
from training.report.document import Figure, Row, Table
from training.report.performance import AT_HALF, OPERATING, Cut, called
from training.scores import TRAINING, CohortScores, Evaluation, Kind, ModelScores
from training.statistics import strategy
from training.statistics.confusion import DEFINITIONS, Counts, Metric, percent, rate
from training.statistics.paired import McNemar

POOLED: Final = "validation and test sets"
FIG_4_NOTES: Final = (
    (
        "FDR = FP / (FP + TP) is a share of those sent to SLND, FOR = FN / (FN + TN) "
        "of those not sent; FPR = FP / (FP + TN) is a share of the SLN-negative, FNR = "
        "FN / (FN + TP) of the SLN-positive. The paper prints FDR as \u201cfalse "
        "positive rate\u201d and FOR as \u201cfalse negative rate\u201d."
    ),
    (
        "Avoided SLND are those not recommended; rightly avoided are SLN negative, "
        "missed are SLN positive. All readers read the same cases: those with an MRI "
        "report on the nodes, where there are any. Intervals: Clopper-Pearson; P: "
        "McNemar's exact test."
    ),
)


def held_out(evaluation: Evaluation, model: ModelScores) -> CohortScores | None:
    """Return a model's cases of every cohort but the training one, put together."""
    names = [name for name in choice.cohorts(evaluation) if name != TRAINING]
    parts = [part for name in names if (part := model.cohort(name)) is not None]
    return strategy.pool(parts, POOLED) if parts else None


def overview(evaluation: Evaluation) -> Figure:
    """Return Fig. 2: the cascade with the held-out patients at each station."""
    key, label = "figure-2", "Fig. 2"
    title = "Overview of the cascade, with the patients of the validation and test sets"
    one = _reading(evaluation, Stage.SLN, OPERATING)
    if one is None:
        reason = "Not computable: no network scored a held-out cohort for SLN."
        return Figure(key, label, title, (), notes=(reason,))
    two = _reading(evaluation, Stage.NSLN, OPERATING)
    second = two or strategy.Reading("", choice.subset(one.scores, set()), 0.5)
    sent = strategy.cascade(one, second)
    rows = (
        ("SLN low risk, SLN negative", str(sent.low_negative)),
        ("SLN low risk, SLN positive", str(sent.low_positive)),
        ("SLN high risk, SLND negative", str(sent.slnd_negative)),
        ("SLND positive, no NSLN label or score", str(sent.unstaged)),
        *_alnd_rows(sent.alnd),
    )
    panel = flows.cascade(sent, staged=two is not None)
    notes = (
        f"Thresholds: {_said(one)}; {_said(two) if two else 'stage II has no scores'}.",
        "Pathology of every patient is known here; in service SLND tells it.",
    )
    return Figure(key, label, title, (panel,), ("station", "patients"), rows, notes)


def _said(reading: strategy.Reading) -> str:
    return f"{reading.name} {reading.threshold:.4f}"


def _alnd_rows(counts: Counts) -> tuple[tuple[str, str], ...]:
    return (
        ("NSLN low risk, NSLN negative", str(counts.tn)),
        ("NSLN low risk, NSLN positive", str(counts.fn)),
        ("NSLN high risk, NSLN negative", str(counts.fp)),
        ("NSLN high risk, NSLN positive", str(counts.tp)),
    )


def _reading(evaluation: Evaluation, stage: Stage, cut: Cut) -> strategy.Reading | None:
    model = choice.reference(evaluation, stage)
    scores = held_out(evaluation, model) if model else None
    if model is None or scores is None:
        return None
    return strategy.Reading(called(model), scores, cut.at(model))


def _radiologist(evaluation: Evaluation) -> strategy.Reading | None:
    models = choice.of_kind(evaluation, Stage.SLN, Kind.RADIOLOGIST)
    scores = held_out(evaluation, models[0]) if models else None
    if scores is None:
        return None
    return strategy.Reading(models[0].about.model, scores, AT_HALF.at(models[0]))


def readings(evaluation: Evaluation) -> list[tuple[str, strategy.Reading]]:
    """Return who recommends SLND: radiologists, the network at both thresholds.

    All read the same cases: those with an MRI report, where any has one.
    """
    found = {
        "radiologists": _radiologist(evaluation),
        "network-half": _reading(evaluation, Stage.SLN, AT_HALF),
        "network-operating": _reading(evaluation, Stage.SLN, OPERATING),
    }
    present = {name: one for name, one in found.items() if one is not None}
    common = set.intersection(
        *[set(r.scores.case_ids) for r in present.values()] or [set()]
    )
    return [
        (name, replace(one, scores=choice.subset(one.scores, common)))
        for name, one in present.items()
    ]


def recommendation(evaluation: Evaluation) -> Figure:
    """Return Fig. 4: SLND recommended by radiologists and by the network."""
    panels, rows = [], []
    for name, reading in readings(evaluation):
        counts = reading.counts
        title = f"{reading.name}\nthreshold {reading.threshold:.4g}"
        if name == "radiologists":
            title = reading.name
        panels.append(flows.recommendation(name, title, counts))
        numbers = (counts.tp, counts.fp, counts.fn, counts.tn)
        rows.append((reading.name, f"{reading.threshold:.6g}", *map(str, numbers)))
    notes: tuple[str, ...] = FIG_4_NOTES
    if _radiologist(evaluation) is None:
        reason = "Radiologists: not computable, no case has an MRI report on the nodes."
        notes = (reason, *notes)
    return Figure(
        "figure-4",
        "Fig. 4",
        f"Recommendation for SLND by radiologists and by the network, {POOLED}",
        tuple(panels),
        ("reader", "threshold", "TP", "FP", "FN", "TN"),
        tuple(rows),
        notes,
    )


def counts_table(evaluation: Evaluation) -> Table:
    """Return the numbers behind Fig. 4, and what they mean for surgery."""
    found = readings(evaluation)
    header = ("", *(_column(name, reading) for name, reading in found))
    rows = [
        *_count_rows([reading.counts for _, reading in found]),
        *_tests(found),
    ]
    if not found:
        missing = words.not_computable("no reader scored a held-out cohort")
        header, rows = ("", "Reader"), [Row(("SLND", missing))]
    title = f"Errors and avoided surgery, {POOLED}"
    return Table(
        "figure-4-counts", "Fig. 4, numbers", title, header, tuple(rows), FIG_4_NOTES
    )


def _column(name: str, reading: strategy.Reading) -> str:
    if name == "radiologists":
        return reading.name
    return f"{reading.name} at {reading.threshold:.4g}"


def _count_rows(counts: list[Counts]) -> list[Row]:
    rows = [
        Row(("TP, FP, FN, TN", *(f"{c.tp}, {c.fp}, {c.fn}, {c.tn}" for c in counts)))
    ]
    for metric in (Metric.SENSITIVITY, Metric.SPECIFICITY):
        definition = DEFINITIONS[metric]
        cells = [_percent(c, metric) for c in counts]
        rows.append(Row((f"{definition.words} = {definition.formula}, %", *cells)))
    for metric, label in strategy.LABELS.items():
        said = label.replace("paper:", "the paper prints it as").replace("'", '"')
        cells = [_percent(c, metric) for c in counts]
        rows.append(Row((f"{said} = {DEFINITIONS[metric].formula}, %", *cells)))
    done = [strategy.surgery(c) for c in counts]
    rows += [
        Row(("SLND avoided", *(words.percent(s.avoided, s.everyone) for s in done))),
        Row(("  of these rightly: SLN negative", *(str(s.rightly) for s in done))),
        Row(("  of these missed: SLN positive", *(str(s.missed) for s in done))),
        Row(("SLND done needlessly: SLN negative", *(str(s.needless) for s in done))),
    ]
    return rows


def _percent(counts: Counts, metric: Metric) -> str:
    found = rate(counts, metric)
    if found is None:
        return words.not_computable(f"{DEFINITIONS[metric].formula} is 0 / 0")
    return percent(found)


def _tests(found: list[tuple[str, strategy.Reading]]) -> list[Row]:
    """Return the rows that compare the network with the radiologists."""
    readings_ = dict(found)
    first = readings_.get("radiologists")
    if first is None:
        return []
    tests = [
        strategy.compare(reading, first) if reading is not first else None
        for reading in readings_.values()
    ]
    return [
        Row(
            (
                "P against radiologists, sensitivity",
                *(_p(t.sensitivity if t else None) for t in tests),
            )
        ),
        Row(
            (
                "P against radiologists, specificity",
                *(_p(t.specificity if t else None) for t in tests),
            )
        ),
    ]


def _p(test: McNemar | None) -> str:
    return "\N{EN DASH}" if test is None else words.p_value(test.p)


def alnd_table(evaluation: Evaluation) -> Table:
    """Return which dissections of the axilla stage II would avoid."""
    rows = []
    for cut in (AT_HALF, OPERATING):
        reading = _reading(evaluation, Stage.NSLN, cut)
        if reading is None:
            continue
        done = strategy.surgery(reading.counts)
        cells = (str(done.rightly), str(done.missed), str(done.needless))
        avoided = words.percent(done.avoided, done.everyone)
        name = f"{reading.name} at {reading.threshold:.4g}"
        rows.append(Row((name, avoided, *cells)))
    if not rows:
        missing = words.not_computable("stage II has no scores of held-out cohorts")
        rows = [Row(("Stage II", missing, *[""] * 3))]
    return Table(
        "figure-4-alnd",
        "Fig. 4, ALND",
        "ALND avoided, of SLN-positive patients with a known NSLN status",
        (
            "Reader",
            "ALND avoided",
            "rightly: NSLN negative",
            "missed: NSLN positive",
            "needless ALND: NSLN negative",
        ),
        tuple(rows),
        (
            (
                "Where every SLN-positive patient would have ALND. "
                f"Cohorts pooled: {POOLED}."
            ),
        ),
    )
