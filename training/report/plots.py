"""Figures 3 and 5 and those of the supplement: a panel for every cohort."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dicom_node.findings import Stage
from training.report import choice, curves
from training.report.curves import Line, Plot
from training.report.document import Figure, Panel
from training.report.performance import AT_HALF, OPERATING, Cut, called, too_few
from training.report.style import COLOURS, DASHES, INK, QUIET
from training.scores import CohortScores, Evaluation, ModelScores
from training.statistics import decision_curve as decisions
from training.statistics import roc as rocs
from training.statistics.confusion import Counts, count
from training.statistics.reliability import reliability_curve

Scored = Sequence[tuple[ModelScores, CohortScores]]
Series = tuple[str, ...]

SHARES: Final = "Percentages are shares of a row: of those with this pathology."
ROOM: Final = 0.04
"""Net benefit shown below zero and above the best."""


def _cohorts(evaluation: Evaluation, stage: Stage) -> Iterator[tuple[str, Scored]]:
    models = choice.compared(evaluation, stage)
    for cohort in choice.cohorts(evaluation):
        parts = [(model, model.cohort(cohort)) for model in models]
        scored = [(model, part) for model, part in parts if part is not None]
        if scored:
            yield cohort, scored


def _title(part: CohortScores) -> str:
    return f"{choice.title(part.cohort)}, n = {len(part)}"


def _named(key: str, cohort: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{key}{cohort}".lower())


def matrices(
    evaluation: Evaluation, stage: Stage, key: str, label: str, cut: Cut
) -> Figure:
    """Return the confusion matrices of every model and cohort at one threshold."""
    panels, rows = [], []
    for cohort, scored in _cohorts(evaluation, stage):
        for model, part in scored:
            counts = count(part.labels, part.probabilities, cut.at(model))
            name = _named(f"{cohort}-", model.about.model)
            heading = f"{_short(model)}\n{choice.title(cohort)}\nn = {len(part)}"
            panels.append(curves.matrix(name, heading, counts))
            rows.append((cohort, called(model), *_written(counts, cut.at(model))))
    return Figure(
        key,
        label,
        f"Confusion matrices, {stage}, at {cut.words}",
        tuple(panels),
        ("cohort", "model", "threshold", "TP", "FP", "FN", "TN"),
        tuple(rows),
        (SHARES,) if panels else (_none(stage),),
    )


def _written(counts: Counts, threshold: float) -> Series:
    numbers = (counts.tp, counts.fp, counts.fn, counts.tn)
    return (f"{threshold:.6g}", *map(str, numbers))


def roc(evaluation: Evaluation, stage: Stage, key: str, label: str) -> Figure:
    """Return ROC curves by cohort, with both thresholds marked on the network's."""

    def one(cohort: str, scored: Scored) -> tuple[Panel, list[Series]]:
        missing = too_few(scored[0][1])
        lines, rows = [], []
        for model, part in scored:
            if not missing:
                curve = rocs.roc(part.labels, part.probabilities)
                area = curve.auc
                said = (
                    f"{_short(model)} {area.value:.3f} ({area.low:.3f}-{area.high:.3f})"
                )
                marks = _marks(model, part) if model is scored[-1][0] else ()
                lines.append(_line(model, said, curve.fpr, curve.tpr, marks))
                rows += _rows(cohort, model, curve.fpr, curve.tpr)
        plot = Plot(
            name=_named("", cohort),
            title=_title(scored[0][1]),
            x_label="1 \N{MINUS SIGN} specificity",
            y_label="sensitivity",
            alt=_alt("ROC curves", scored[0][1], lines, missing),
            lines=lines,
            missing=missing,
        )
        return curves.roc(plot), rows

    notes = (
        (
            "Legend: AUC (DeLong 95% CI). On the network's curve, circle: threshold "
            "0.5, triangle: operating threshold. Dashed: chance."
        ),
    )
    header = ("cohort", "model", "1 - specificity", "sensitivity")
    title = f"Receiver operating characteristic, {stage}"
    return _figure(evaluation, stage, _Frame(key, label, title, header, notes), one)


def _marks(
    model: ModelScores, part: CohortScores
) -> tuple[tuple[float, float, str], ...]:
    marks = []
    for cut, marker in ((AT_HALF, "o"), (OPERATING, "^")):
        counts = count(part.labels, part.probabilities, cut.at(model))
        at = (counts.fp / counts.negatives, counts.tp / counts.positives)
        marks.append((*at, marker))
    return tuple(marks)


def precision_recall(
    evaluation: Evaluation, stage: Stage, key: str, label: str
) -> Figure:
    """Return precision-recall curves by cohort."""

    def one(cohort: str, scored: Scored) -> tuple[Panel, list[Series]]:
        missing = too_few(scored[0][1])
        lines, rows = [], []
        for model, part in scored:
            if not missing:
                curve = rocs.precision_recall(part.labels, part.probabilities)
                said = f"{_short(model)} AP {curve.average_precision:.3f}"
                lines.append(_line(model, said, curve.recall, curve.precision))
                rows += _rows(cohort, model, curve.recall, curve.precision)
        plot = Plot(
            name=_named("", cohort),
            title=_title(scored[0][1]),
            x_label="recall (sensitivity)",
            y_label="precision (PPV)",
            alt=_alt("Precision-recall curves", scored[0][1], lines, missing),
            lines=lines,
            legend="upper right",
            missing=missing,
        )
        prevalence = float(scored[0][1].labels.mean()) if len(scored[0][1]) else 0.0
        return curves.precision_recall(plot, prevalence), rows

    notes = (
        (
            "AP: average precision, the area under the steps of the curve. Dashed: the "
            "precision of calling everyone positive, which is the prevalence."
        ),
    )
    header = ("cohort", "model", "recall", "precision")
    title = f"Precision and recall, {stage}"
    return _figure(evaluation, stage, _Frame(key, label, title, header, notes), one)


def decision(evaluation: Evaluation, stage: Stage, key: str, label: str) -> Figure:
    """Return decision curves by cohort, with the band of the network's."""

    def one(cohort: str, scored: Scored) -> tuple[Panel, list[Series]]:
        missing = too_few(scored[0][1])
        lines, rows, best = [], [], 0.1
        for model, part in scored if not missing else ():
            curve = decisions.decision_curve(part.labels, part.probabilities)
            best = max(best, float(part.labels.mean()))
            banded = model is scored[-1][0]
            line = _line(model, _short(model), curve.thresholds, curve.net_benefit)
            if banded:
                line = replace(line, low=curve.low, high=curve.high)
            lines.append(line)
            rows += _rows(cohort, model, curve.thresholds, curve.net_benefit)
            if banded:
                everyone = (curve.thresholds, curve.treat_all)
                none = np.zeros_like(curve.treat_all)
                lines += [
                    Line("treat all", QUIET, "-", *everyone),
                    Line("treat none", INK, (0, (1, 1)), curve.thresholds, none),
                ]
        plot = Plot(
            name=_named("", cohort),
            title=_title(scored[0][1]),
            x_label="threshold probability",
            y_label="net benefit",
            alt=_alt("Decision curves", scored[0][1], lines, missing),
            lines=lines,
            bounds=(-ROOM, best + ROOM),
            legend="upper right",
            missing=missing,
        )
        return curves.decision(plot), rows

    notes = (
        (
            f"{decisions.FORMULA}. Band: 95% of 2000 bootstrap draws of patients, for "
            "the network. Treating none has net benefit 0."
        ),
    )
    header = ("cohort", "model", "threshold probability", "net benefit")
    title = f"Decision curve analysis, {stage}"
    return _figure(evaluation, stage, _Frame(key, label, title, header, notes), one)


def reliability(evaluation: Evaluation, stage: Stage, key: str, label: str) -> Figure:
    """Return observed against predicted shares by cohort, in bins of equal size."""

    def one(cohort: str, scored: Scored) -> tuple[Panel, list[Series]]:
        missing = too_few(scored[0][1])
        lines, rows = [], []
        for model, part in scored if not missing else ():
            groups = reliability_curve(part.labels, part.probabilities, _bins(part))
            x = np.array([group.mean for group in groups])
            y = np.array([group.observed.value for group in groups])
            line = _line(model, _short(model), x, y)
            if model is scored[-1][0]:
                line = replace(
                    line,
                    low=np.array([group.observed.low for group in groups]),
                    high=np.array([group.observed.high for group in groups]),
                    whiskers=True,
                )
            lines.append(line)
            rows += _rows(cohort, model, x, y)
        plot = Plot(
            name=_named("", cohort),
            title=_title(scored[0][1]),
            x_label="predicted probability (mean of bin)",
            y_label="observed share",
            alt=_alt("Reliability curves", scored[0][1], lines, missing),
            lines=lines,
            legend="upper left",
            missing=missing,
        )
        return curves.reliability(plot), rows

    notes = (
        (
            "Three to ten bins of equal size, ten cases or more in each where n "
            "allows; bars of the network: Clopper-Pearson 95% CI of the observed "
            "share. Dashed: perfect calibration. Table S6 has slope, intercept and "
            "Brier score."
        ),
    )
    header = ("cohort", "model", "predicted", "observed")
    title = f"Calibration, {stage}"
    return _figure(evaluation, stage, _Frame(key, label, title, header, notes), one)


def _bins(part: CohortScores) -> int:
    """Return three to ten bins of at least ten cases, where there are so many."""
    return min(max(len(part) // 10, 3), 10)


Drawing = Callable[[str, Scored], tuple[Panel, list[Series]]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the panels of a figure."""

    key: str
    label: str
    title: str
    header: Series
    notes: Series


def _figure(
    evaluation: Evaluation, stage: Stage, frame: _Frame, one: Drawing
) -> Figure:
    panels, rows, notes = [], [], frame.notes
    for cohort, scored in _cohorts(evaluation, stage):
        panel, points = one(cohort, scored)
        panels.append(panel)
        rows += points
    if not panels:
        notes = (_none(stage),)
    return Figure(
        frame.key,
        frame.label,
        frame.title,
        tuple(panels),
        frame.header,
        tuple(rows),
        notes,
    )


def _none(stage: Stage) -> str:
    return f"Not computable: the evaluation has no model of stage {stage}."


def _short(model: ModelScores) -> str:
    return {"clinical": "Clinical", "radiomics": "Radiomics", "cnn": "CNN"}.get(
        model.about.kind, model.about.model
    )


def _line(
    model: ModelScores,
    said: str,
    x: curves.Array,
    y: curves.Array,
    marks: tuple[tuple[float, float, str], ...] = (),
) -> Line:
    kind = model.about.kind
    return Line(said, COLOURS[kind], DASHES[kind], x, y, dots=marks)


def _rows(
    cohort: str, model: ModelScores, x: curves.Array, y: curves.Array
) -> list[Series]:
    points = zip(x.tolist(), y.tolist(), strict=True)
    return [(cohort, called(model), f"{a:.6g}", f"{b:.6g}") for a, b in points]


def _alt(kind: str, part: CohortScores, lines: Sequence[Line], missing: str) -> str:
    if missing:
        return f"{kind}, {_title(part)}: not computable, {missing}."
    return f"{kind}, {_title(part)}: " + "; ".join(line.label for line in lines) + "."
