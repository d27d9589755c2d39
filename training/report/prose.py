"""What is printed in words: definitions, what a model is, where a report came from."""

from collections.abc import Sequence
from typing import Final

from dicom_node.findings import Stage
from training.card import TARGETS
from training.report.document import Prose
from training.report.words import not_computable
from training.scores import Evaluation
from training.statistics.confusion import DEFINITIONS
from training.statistics.decision_curve import FORMULA
from training.statistics.verification import ASSUMPTION
from worker.manifest import Manifest, describe_gate

Terms = tuple[tuple[str, str], ...]

OUTCOMES: Final[Terms] = (
    (
        "SLN",
        (
            "Sentinel lymph node: the first that drains the tumour. Positive: a "
            "deposit above 0.2 mm in the dissection (SLND), unless the site has "
            "another rule."
        ),
    ),
    (
        "NSLN",
        (
            "Other axillary nodes, known where the axilla was dissected (ALND). Only "
            "SLN-positive patients have this outcome."
        ),
    ),
    (
        "Unknown",
        (
            "Where the surgery was not done the label is unknown, never negative. "
            "Such a case is in no rate; Table S9 shows how many there are."
        ),
    ),
    (
        "Missing values",
        (
            "Clinical values that are missing stay missing: they are counted "
            "in Table 1 and no case is dropped from the networks for them."
        ),
    ),
    (
        "Index test",
        (
            "The networks see the pixels inside the rectangle of one DCE-MRI "
            "slice and nothing else. No label depends on a score."
        ),
    ),
)
COHORTS: Final[Terms] = (
    (
        "Training set",
        (
            "Development patients; scored out of fold, by networks that did "
            "not see them, unless a row says resubstitution."
        ),
    ),
    (
        "Internal validation set",
        "Patients of the same centre held out by patient before any training.",
    ),
    ("External test sets", "Other centres, one set each; no choice was made on them."),
    (
        "Disjoint",
        (
            "By patient: both breasts and repeated studies of a patient are in one "
            "cohort. Folds are grouped by patient and stratified by label and size."
        ),
    ),
)
MODELS: Final[Terms] = (
    (
        "CNN",
        (
            "ResNet18-I for SLN, ResNet18-II for NSLN; one network for each stage is "
            "served, no ensemble and no test-time augmentation. The number of epochs "
            "is fixed: no epoch, seed or threshold is chosen on a test set."
        ),
    ),
    (
        "Clinical model",
        (
            "Logistic regression on variables that are known before surgery, "
            "chosen univariably, then multivariably (Table S3)."
        ),
    ),
    (
        "Radiomics",
        (
            "Hand-crafted features of the same rectangle; features are selected "
            "inside the folds, four classifiers (Table S4)."
        ),
    ),
    (
        "Radiologists",
        (
            "The status of the axillary nodes as the MRI report states it, "
            "yes or no; it has no threshold."
        ),
    ),
    (
        "Class imbalance",
        (
            "No class is weighted or drawn more often; the calibration maps "
            "scores to probabilities at the prevalence of the training set."
        ),
    ),
)
THRESHOLDS: Final[Terms] = (
    ("0.5", "The paper's rule, on the calibrated probability."),
    (
        "Operating threshold",
        (
            "One per model, set on the development cohort and the same "
            "for every cohort and subgroup; how it was set stands below Table 2b."
        ),
    ),
    ("High risk", "Calibrated probability at or above the threshold, unrounded."),
    (
        "Youden",
        (
            "A threshold chosen on the very cases that it is counted on: printed in "
            "Table S7 as optimistic and used nowhere."
        ),
    ),
)


def definitions() -> tuple[Prose, ...]:
    """Return every definition that the tables use."""
    rates = tuple(
        (d.words, f"{metric} = {d.formula}") for metric, d in DEFINITIONS.items()
    )
    statistics: Terms = (
        (
            "AUC",
            (
                "Chance that a positive case scores above a negative one, ties half; "
                "DeLong's 95% interval on the logit scale (Table S5 has the "
                "bootstrap's)."
            ),
        ),
        ("Proportions", "Clopper-Pearson 95% intervals; k/n are the counts behind."),
        (
            "P between models",
            (
                "DeLong's paired test, two-sided; McNemar's exact test for "
                "two readings of the same cases."
            ),
        ),
        ("Net benefit", FORMULA),
        ("Begg-Greenes", ASSUMPTION),
        *((f"{words_}", formula) for words_, formula in rates),
    )
    return (
        Prose("definitions-outcomes", "Outcomes and missing data", terms=OUTCOMES),
        Prose("definitions-cohorts", "Cohorts", terms=COHORTS),
        Prose("definitions-models", "Models", terms=MODELS),
        Prose("definitions-thresholds", "Thresholds", terms=THRESHOLDS),
        Prose("definitions-statistics", "Statistics", terms=statistics),
    )


def use() -> Prose:
    """Return what the models are for and what they are not for."""
    return Prose(
        "card-use",
        "Intended use",
        (
            (
                "Research on the risk of metastasis in axillary lymph nodes of "
                "patients with breast cancer, from one marked slice of a DCE-MRI "
                "before surgery. A radiologist draws the rectangle around the lesion; "
                "the numbers are for researchers who know how they came about."
            ),
            (
                "Not for: diagnosis, deciding on surgery, patients treated before the "
                "MRI, lesions or scanners that the models did not learn from (the "
                "quality gate of the service holds such cases)."
            ),
        ),
    )


def limits(*, synthetic: bool) -> Prose:
    """Return what no model of this kind can do."""
    never = (
        (
            "They have never seen a patient: they learned from synthetic phantoms, and "
            "their numbers say nothing about people."
        ),
    )
    return Prose(
        "card-limits",
        "Limits",
        (
            *(never if synthetic else ()),
            (
                "A threshold set on one population does not keep its sensitivity on "
                "another with a different share of metastases."
            ),
            (
                "The crop is resized without its scale, so the size of a lesion leaks "
                "into its texture; independence of tumour size cannot be claimed."
            ),
            (
                "The class activation map shows where evidence came from. It is no "
                "segmentation and no proof that the evidence is causal."
            ),
            (
                "Where surgery follows the score, later labels are verified "
                "selectively (Table S9); retraining on them needs care."
            ),
        ),
    )


def card(stage: Stage, evaluation: Evaluation, manifest: Manifest | None) -> Prose:
    """Return the card of one stage: from its manifest, else from the evaluation."""
    key = f"card-{stage.lower()}"
    title = f"Model card of stage {stage}: {TARGETS[stage]}"
    scored = [one.about for one in evaluation.of(stage) if one.about.kind == "cnn"]
    if not scored and manifest is None:
        text = not_computable(
            "the evaluation has no network of this stage"
        ).capitalize()
        return Prose(key, title, (f"{text}.",))
    terms: list[tuple[str, str]] = []
    for about in scored:
        terms += [
            (f"{about.model}, training scores", about.training_scores),
            (
                "Operating threshold",
                f"{about.threshold.value:.4f}: {about.threshold.how}",
            ),
            ("Weights", f"SHA-256 {about.weights_sha256 or 'not stated'}"),
            *((name, str(value)) for name, value in sorted(about.detail.items())),
        ]
    if manifest is None:
        text = (
            "The manifest was not given (--models): network, recipe and preprocessing "
        )
        return Prose(key, title, (f"{text}are stated there.",), tuple(terms))
    return Prose(key, title, (), (*terms, *_manifest(manifest)))


def _manifest(manifest: Manifest) -> Terms:
    network, spec, training = (
        manifest.architecture,
        manifest.preprocessing,
        manifest.training,
    )
    recipe = ", ".join(
        f"{name} {value}" for name, value in sorted(training.config.items())
    )
    return (
        ("Model", manifest.reference),
        ("Learned from", manifest.trained_on),
        (
            "Network",
            (
                f"{network.name}, strides {network.strides}, dilations "
                f"{network.dilations}, activation map {network.map_size} x "
                f"{network.map_size}"
            ),
        ),
        (
            "Preprocessing",
            (
                f"{spec.pixels}, {spec.crop}, window percentiles "
                f"{spec.window_percentiles}, {spec.resize} x {spec.resize} "
                f"{spec.interpolation}, centre {spec.size} x {spec.size}, mean "
                f"{spec.mean}, SD {spec.sd}, {spec.channels} channels, phase "
                f"{spec.phase}; SHA-256 {spec.sha256}"
            ),
        ),
        (
            "Calibration",
            (
                f"Platt: slope {manifest.calibration.slope:.4f}, intercept "
                f"{manifest.calibration.intercept:.4f}"
            ),
        ),
        ("Quality gate", "; ".join(describe_gate(manifest))),
        (
            "Preset, seed, threads",
            f"{training.preset}, {training.seed}, {training.threads}",
        ),
        ("Recipe", recipe or "not stated"),
        ("Weights served", f"SHA-256 {manifest.weights_sha256}"),
        ("Made", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"),
    )


def provenance(
    evaluation: Evaluation, command: Sequence[str], version: str
) -> tuple[Prose, Prose]:
    """Return where the data came from, and what computed the report."""
    made = evaluation.provenance
    data: Terms = (
        ("Snapshot", f"SHA-256 {made.snapshot_id}"),
        ("Description", made.description),
        ("Synthetic", "yes: phantoms, not patients" if made.synthetic else "no"),
        ("Cases", str(len(evaluation.cases))),
        (
            "Identity",
            (
                "Cases bear pseudonyms. No name, no patient ID and no birth date is "
                "in this report or in the files beside it."
            ),
        ),
    )
    weights = {
        f"Weights, {one.about.model}, {one.about.stage}": one.about.weights_sha256
        for one in evaluation.models
        if one.about.weights_sha256
    }
    run: Terms = (
        ("Evaluated at", made.created_at),
        ("Code version of the evaluation", made.code_version),
        ("Code version of the report", version),
        ("Command", " ".join(command)),
        ("Seeds", ", ".join(map(str, made.seeds)) or "none stated"),
        *((name, f"SHA-256 {digest}") for name, digest in weights.items()),
        ("Libraries", ", ".join(f"{k} {v}" for k, v in sorted(made.libraries.items()))),
    )
    return (
        Prose("provenance-data", "Data", terms=data),
        Prose("provenance-run", "Run", terms=run),
    )
