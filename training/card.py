"""The model card: what a model is, what it learned from, and how well it does."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicom_node.findings import Proportion, Stage
from training.policy import POLICY
from training.row import CohortRow
from training.scores import CohortScores
from training.snapshot import Snapshot
from training.statistics.auc import AucInterval, auc_interval
from worker.manifest import NO_BETTER_THAN_CHANCE, Manifest, describe_gate

TARGETS = {
    Stage.SLN: "metastasis of the sentinel lymph node",
    Stage.NSLN: "metastasis of other nodes when the sentinel node is positive",
}


MIN_CLASS: Final = 2  # a variance needs two

MEASURES: Final = (("Age", "age", "years"), ("Tumour size", "size_cm", "cm"))
CATEGORIES: Final = (
    ("Menopausal status", "menopause"),
    ("Histological type", "histology"),
    ("Histological grade", "grade"),
    ("Molecular subtype", "subtype"),
    ("BI-RADS", "birads"),
    ("MRI-reported ALN", "mri_aln"),
    ("SLN", "sln"),
    ("NSLN", "nsln"),
    ("Centre", "centre"),
)
LABELS: Final = {0: "negative", 1: "positive", -1: "unknown", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Background:
    """What a cross-validated run knows of a model beyond its manifest.

    `population` has a name and a value for each line of Table 1.
    """

    population: tuple[tuple[str, str], ...]
    training: AucInterval
    resubstitution: AucInterval
    cases: int
    positives: int
    started_from: str
    folds: int


def population(
    cohort: Snapshot, case_ids: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """Summarise these cases as Table 1 does: median (IQR), or n (%) of each group."""
    wanted = set(case_ids)
    rows = [row for row in cohort.rows if row.case_id in wanted]
    lines = [(name, _median(rows, field, unit)) for name, field, unit in MEASURES]
    lines += [(name, _groups(rows, field)) for name, field in CATEGORIES]
    return tuple(lines)


def _median(rows: Sequence[CohortRow], field: str, unit: str) -> str:
    values = [getattr(row, field) for row in rows if getattr(row, field) is not None]
    if not values:
        return "unknown"
    low, middle, high = np.percentile(values, (25, 50, 75))
    known = "" if len(values) == len(rows) else f", known in {len(values)}"
    return f"{middle:.1f} ({low:.1f}-{high:.1f}) {unit}{known}"


def _groups(rows: Sequence[CohortRow], field: str) -> str:
    values = [getattr(row, field) for row in rows]
    if field in {"sln", "nsln", "mri_aln"}:
        values = [LABELS[value] for value in values]
    counts = Counter(
        "unknown" if value in {None, ""} else str(value) for value in values
    )
    return ", ".join(
        f"{name} {count} ({count / len(rows):.1%})"
        for name, count in sorted(counts.items())
    )


def render(manifest: Manifest, background: Background | None = None) -> str:
    """Return the card as Markdown; every number is the manifest's or the run's."""
    performance, threshold = manifest.performance, manifest.operating_threshold
    return f"""# {manifest.reference}

**Research use only.** Not a medical device; nothing that it says is a diagnosis.

| | |
|---|---|
| Predicts | {TARGETS[manifest.stage]} ({manifest.stage}) |
| Learned from | {manifest.trained_on} |
| Held-out data | {performance.dataset}, n = {performance.n} |
| **Held-out AUC** | **{performance.auc:.3f}** (95% CI {performance.auc_low:.3f}-\
{performance.auc_high:.3f}, DeLong on the logit scale) |
| Operating threshold | {threshold.value:.4f}: {threshold.how} |
| Sensitivity there | {_percent(performance.sensitivity)} |
| Specificity there | {_percent(performance.specificity)} |
| Network | {manifest.architecture.name}, class activation map of \
{manifest.architecture.map_size}x{manifest.architecture.map_size} |
| Quality gate | {"; ".join(describe_gate(manifest))} |
| DCE phase | {manifest.preprocessing.phase} |
| Preset, seed, threads | {manifest.training.preset}, {manifest.training.seed}, \
{manifest.training.threads} |
| Weights | SHA-256 `{manifest.weights_sha256}` |
| Made | {manifest.created_at:%Y-%m-%d %H:%M} UTC |
{_evidence(background, manifest) if background else ""}
## What it cannot do

{_limits(manifest)}{_chance(manifest)}{_few(manifest, background)}
* A threshold set on one population does not keep its sensitivity on another with a
  different share of metastases.
* The crop is resized without its scale, so the size of a lesion leaks into its
  texture; independence of tumour size cannot be claimed.
* The class activation map shows where evidence came from, in cells of an eighth of
  the crop. It is no segmentation.
"""


def _evidence(background: Background, manifest: Manifest) -> str:
    performance = manifest.performance
    rows = "".join(f"| {name} | {text} |\n" for name, text in background.population)
    return f"""
## How well it does

| cohort | n (positive) | AUC (95% CI) |
|---|---|---|
| training, out of fold ({background.folds} folds) | {background.cases} \
({background.positives}) | {_area(background.training)} |
| {performance.dataset} | {performance.n} ({len(performance.positives)}) | \
{performance.auc:.3f} ({performance.auc_low:.3f}-{performance.auc_high:.3f}) |
| *resubstitution: the cases it learned from; optimistic, never to be quoted* | \
{background.cases} ({background.positives}) | {_area(background.resubstitution)} |

The folds are by patient. Calibration and threshold come from the out-of-fold scores;
the network itself learned from all training cases by the same recipe. The held-out
cohort was scored once, when nothing could be chosen any more. `python -m training
evaluate` measures external cohorts. It started from: {background.started_from}.

## What it learned from

| | median (IQR) or n (%) |
|---|---|
{rows}"""


def with_cohorts(text: str, cohorts: Sequence[CohortScores]) -> str:
    """Append to a card what the model does in every cohort of an evaluation."""
    lines = []
    for part in cohorts:
        area = area_of(part)
        said = _area(area) if area else "too few of a class"
        lines.append(f"| {part.cohort} | {len(part)} ({part.labels.sum()}) | {said} |")
    rows = "\n".join(lines)
    return (
        f"{text}\n## Every cohort of this evaluation\n\n"
        f"| cohort | n (positive) | AUC (95% CI) |\n|---|---|---|\n{rows}\n"
    )


def area_of(part: CohortScores) -> AucInterval | None:
    """Return the AUC of a cohort, None where a class has too few cases for one."""
    positives = int(part.labels.sum())
    if min(positives, len(part) - positives) < MIN_CLASS:
        return None
    return auc_interval(part.labels, part.probabilities)


def _area(area: AucInterval) -> str:
    return f"{area.value:.3f} ({area.low:.3f}-{area.high:.3f})"


def _few(manifest: Manifest, background: Background | None) -> str:
    if manifest.stage is not Stage.NSLN or background is None:
        return ""
    if background.cases >= POLICY.nsln_automatic:
        return ""
    return (
        f"\n* **It learned from {background.cases} SLN-positive cases only** "
        f"({background.positives} with NSLN metastasis; out-of-fold AUC "
        f"{_area(background.training)}): read every risk beside these numbers."
    )


def _limits(manifest: Manifest) -> str:
    if "phantom" in manifest.trained_on:
        return (
            "* **It has never seen a patient.** It learned from synthetic phantoms; "
            "its numbers\n  hold for phantoms and say nothing about people."
        )
    return "* It was judged on the data named above and on nothing else."


def _chance(manifest: Manifest) -> str:
    if manifest.performance.beats_chance:
        return ""
    return f"\n* **{NO_BETTER_THAN_CHANCE}.** Do not put it into service."


def _percent(value: Proportion) -> str:
    return (
        f"{value.value:.1%} ({value.k}/{value.n}, "
        f"95% CI {value.low:.1%}-{value.high:.1%}, Wilson)"
    )
