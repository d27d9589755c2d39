"""From an evaluation to a document: every chapter, in the order of the paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.flowchart import verification as live_verification
from training.report import (
    checklists,
    checks,
    choice,
    cohorts,
    gallery,
    odds,
    performance,
    plots,
    prose,
    served,
    supplement,
    surgery,
    verified,
    words,
)
from training.report.document import Block, Document, Row, Section, Table
from training.report.performance import AT_HALF, OPERATING
from training.scores import TRAINING, Evaluation
from training.snapshot import Snapshot
from training.snapshot import reasons as counted
from worker.cascade import StageModel

FEW: Final = 10
"""Positives or negatives below which a cohort's numbers need a warning."""

TITLE: Final = "Risk of sentinel and non-sentinel lymph node metastasis"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a report is made from; snapshot and networks may be missing."""

    evaluation: Evaluation
    snapshot: Snapshot | None
    served: Mapping[Stage, StageModel]
    command: tuple[str, ...]
    version: str
    warnings: tuple[str, ...] = ()


def build(sources: Sources) -> Document:
    """Compute and check everything that the report prints.

    Raises:
        InconsistentNumbersError: Some numbers cannot all hold.
    """
    evaluation = sources.evaluation
    checks.refuse_strangers(evaluation)
    half = performance.performance(evaluation, "table-2", "Table 2", AT_HALF)
    operating = performance.performance(
        evaluation, "table-2-operating", "Table 2b", OPERATING
    )
    sizes, classifiers = (
        performance.by_size(evaluation),
        performance.classifiers(evaluation),
    )
    rates = [
        (half, AT_HALF),
        (operating, OPERATING),
        (sizes, AT_HALF),
        (classifiers, AT_HALF),
    ]
    checks.refuse(evaluation, rates)
    scores = (
        served.unlabelled(sources.snapshot, sources.served)
        if sources.snapshot
        else None
    )
    live = live_verification(sources.snapshot) if sources.snapshot else ()
    verification, warnings = verified.verified(evaluation, scores, live)
    sections = (
        Section("summary-chapter", "Summary", (summary(evaluation),)),
        Section("patients", "Patients and design", _patients(sources)),
        Section("performance", "Performance", (half, operating)),
        Section("sln", "Sentinel lymph nodes", _sln(evaluation)),
        Section("nsln", "Non-sentinel lymph nodes", _nsln(evaluation)),
        Section("size", "Tumour size", (sizes,)),
        Section("instances", "Patient instances", (_gallery(sources),)),
        Section(
            "supplement",
            "Supplement",
            _supplement(evaluation, (classifiers, verification)),
        ),
        Section("card", "Model card", _card(sources)),
        Section("checklists", "Reporting checklists", checklists.load()),
        Section("definitions", "Definitions", prose.definitions()),
        Section(
            "provenance",
            "Provenance",
            prose.provenance(evaluation, sources.command, sources.version),
        ),
    )
    made = evaluation.provenance
    return Document(
        title=TITLE,
        subtitle=(
            f"{made.description}; {len(evaluation.cases)} cases; evaluated "
            f"{made.created_at}"
        ),
        synthetic=made.synthetic,
        warnings=(*sources.warnings, *warnings, *_few(evaluation)),
        sections=sections,
        footer=(
            f"Sentinode {sources.version}. Snapshot {made.snapshot_id[:12]}. Research "
            "use only."
        ),
    )


def demand_same(evaluation: Evaluation, snapshot: Snapshot) -> None:
    """Let a snapshot pass that the evaluation was made from.

    Raises:
        SettingsError: It is another one.
    """
    if snapshot.id != evaluation.provenance.snapshot_id:
        raise SettingsError(
            f"--cohort is snapshot {snapshot.id[:12]}, and the evaluation was made "
            f"from {evaluation.provenance.snapshot_id[:12]}; name the snapshot it was "
            "made from"
        )


def summary(evaluation: Evaluation) -> Table:
    """Return the first page: AUC of both networks in every cohort."""
    rows = []
    for cohort in choice.cohorts(evaluation):
        cells = []
        for stage in Stage:
            model = choice.reference(evaluation, stage)
            part = model.cohort(cohort) if model else None
            if model is None or part is None:
                cells += [words.not_computable("not scored"), "\N{EN DASH}"]
                continue
            found, spared = performance.rate_cells(part, OPERATING.at(model))[1:]
            cells += [performance.auc_cell(part), f"{found}; {spared}"]
        rows.append(Row((choice.title(cohort), *cells)))
    return Table(
        "summary",
        "At a glance",
        (
            "AUC, sensitivity and specificity of the networks at their operating "
            "thresholds"
        ),
        (
            "Cohort",
            "SLN: AUC (95% CI)",
            "SLN: sensitivity; specificity, %",
            "NSLN: AUC (95% CI)",
            "NSLN: sensitivity; specificity, %",
        ),
        tuple(rows),
        ("The training set is scored out of fold. Definitions stand with Table 2.",),
    )


def _patients(sources: Sources) -> tuple[Block, ...]:
    rows, snapshot = cohorts.rows_of(sources.evaluation.cases), sources.snapshot
    excluded = counted(snapshot.exclusions) if snapshot else None
    return (
        cohorts.inclusion(rows, excluded),
        surgery.overview(sources.evaluation),
        cohorts.characteristics(rows),
    )


def _sln(evaluation: Evaluation) -> tuple[Block, ...]:
    sln = Stage.SLN
    return (
        plots.matrices(evaluation, sln, "figure-3a", "Fig. 3a", AT_HALF),
        plots.matrices(
            evaluation, sln, "figure-3a-operating", "Fig. 3a, operating", OPERATING
        ),
        plots.roc(evaluation, sln, "figure-3b", "Fig. 3b"),
        plots.decision(evaluation, sln, "figure-3c", "Fig. 3c"),
        surgery.recommendation(evaluation),
        surgery.counts_table(evaluation),
        surgery.alnd_table(evaluation),
    )


def _nsln(evaluation: Evaluation) -> tuple[Block, ...]:
    nsln = Stage.NSLN
    return (
        plots.matrices(evaluation, nsln, "figure-5a", "Fig. 5a", AT_HALF),
        plots.matrices(
            evaluation, nsln, "figure-5a-operating", "Fig. 5a, operating", OPERATING
        ),
        plots.roc(evaluation, nsln, "figure-5b", "Fig. 5b"),
        plots.decision(evaluation, nsln, "figure-5c", "Fig. 5c"),
    )


def _gallery(sources: Sources) -> Block:
    stage = sources.served.get(Stage.SLN)
    return gallery.gallery(sources.evaluation, sources.snapshot, stage)


def _supplement(evaluation: Evaluation, made: tuple[Table, Table]) -> tuple[Block, ...]:
    classifiers, verification = made
    blocks: list[Block] = [
        cohorts.pathology(cohorts.rows_of(evaluation.cases)),
        odds.ratios(evaluation),
        classifiers,
        supplement.intervals(evaluation),
        supplement.calibration(evaluation),
        performance.optimistic(evaluation),
        supplement.subgroups(evaluation),
        verification,
    ]
    if evaluation.provenance.synthetic:
        blocks.append(supplement.bayes(evaluation))
    blocks += [
        plots.precision_recall(evaluation, Stage.SLN, "figure-s1", "Fig. S1"),
        plots.precision_recall(evaluation, Stage.NSLN, "figure-s2", "Fig. S2"),
        plots.reliability(evaluation, Stage.SLN, "figure-s3", "Fig. S3"),
        plots.reliability(evaluation, Stage.NSLN, "figure-s4", "Fig. S4"),
    ]
    return tuple(blocks)


def _card(sources: Sources) -> tuple[Block, ...]:
    evaluation, found = sources.evaluation, sources.served
    cards = [
        prose.card(s, evaluation, found[s].manifest if s in found else None)
        for s in Stage
    ]
    synthetic = evaluation.provenance.synthetic
    return (prose.use(), *cards, prose.limits(synthetic=synthetic))


def _few(evaluation: Evaluation) -> list[str]:
    """Warn of cohorts with so few cases of a class that nothing can be said."""
    warnings = []
    for stage in Stage:
        model = choice.reference(evaluation, stage)
        if model is None:
            warnings.append(f"No network for {stage} was evaluated.")
            continue
        for part in model.cohorts:
            positives = int(part.labels.sum())
            rarer = min(positives, len(part) - positives)
            if rarer < FEW:
                name = choice.title(part.cohort)
                warnings.append(
                    f"{stage}, {name}: {positives} positive of {len(part)}; its "
                    "numbers are too uncertain to conclude from."
                )
    if [name for name in choice.cohorts(evaluation) if name != TRAINING] == []:
        warnings.append("No cohort was held out: every number is of the training set.")
    return warnings
