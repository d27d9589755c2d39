"""An evaluation drawn from the law of the phantom: no network, realistic scores."""

import numpy as np

from dicom_node.findings import Stage
from training.phantom import law as laws
from training.scores import (
    CohortScores,
    Evaluation,
    Kind,
    ModelScores,
    Provenance,
    ScoredModel,
)
from worker.manifest import OperatingThreshold

NAMES = {"train": "training"}
LABELS = {0: "0", 1: "1", -1: "unknown"}

SIGNAL = {
    "ResNet18": (Kind.CNN, 0.9, 1.6),
    "Clinical model": (Kind.CLINICAL, 0.25, 2.5),
    "Radiomics, logistic regression": (Kind.RADIOMICS, 0.55, 2.1),
    "Radiomics, support vector machine": (Kind.RADIOMICS, 0.5, 2.1),
    "Radiomics, random forest": (Kind.RADIOMICS, 0.45, 2.2),
    "Radiomics, neural network": (Kind.RADIOMICS, 0.5, 2.3),
}
"""How much of the true logit a model sees, and the SD of its noise."""


def cohort_name(law):
    return NAMES.get(law.name, law.name)


def case_rows(patients, clinic):
    law = patients.law
    return [
        {
            "case_id": f"{law.name}-{i:04d}",
            "patient_key": f"PHANTOM-{law.name}-{i:04d}",
            "centre": str(law.centre),
            "cohort": cohort_name(law),
            "role": law.role,
            "laterality": "L",
            "sln": LABELS[int(patients.sln[i])],
            "nsln": LABELS[int(patients.nsln[i])],
            "size_cm": f"{patients.size[i]:.2f}",
            "age": str(clinic.age[i]),
            "menopause": "pre" if clinic.premenopausal[i] else "post",
            "histology": laws.HISTOLOGY[clinic.histology[i]],
            "grade": laws.GRADE[clinic.grade[i]],
            "subtype": laws.SUBTYPE[clinic.subtype[i]],
            "birads": laws.BIRADS[clinic.birads[i]],
            "mri_aln": LABELS[int(clinic.mri_aln[i])],
            "image": "slice.dcm",
            "frame": "1",
            "x0": "10",
            "y0": "10",
            "x1": "60",
            "y1": "60",
        }
        for i in range(len(patients))
    ]


def scores_of(patients, stage, chances):
    labels = patients.sln if stage is Stage.SLN else patients.nsln
    known = labels >= 0
    ids = tuple(f"{patients.law.name}-{i:04d}" for i in np.flatnonzero(known))
    return CohortScores(
        cohort_name(patients.law),
        ids,
        labels[known].astype(np.int64),
        np.clip(chances[known], 0, 1).astype(np.float64),
    )


def chances_of(patients, stage, signal, noise, seed):
    truth = patients.sln_score if stage is Stage.SLN else patients.nsln_score
    law = patients.law
    rng = np.random.default_rng([seed, law.centre, law.n, len(stage)])
    seen = signal * truth + noise * rng.standard_normal(len(patients))
    return laws.sigmoid(0.55 * seen - 0.3)


def about(model, kind, stage, threshold=0.2):
    how = OperatingThreshold(value=threshold, how="sensitivity 90% out of fold")
    weights = "c" * 64 if kind is Kind.CNN else None
    return ScoredModel(
        model=model, kind=kind, stage=stage, threshold=how, weights_sha256=weights
    )


def draw(sizes=None, seed=1):
    """Draw the patients and their clinic, of these sizes per cohort."""
    sizes = sizes or {law.name: law.n for law in laws.COHORTS}
    chosen = [law for law in laws.COHORTS if sizes.get(law.name)]
    drawn = [laws.draw(law, sizes[law.name], seed) for law in chosen]
    return [(patients, laws.draw_clinic(patients, seed)) for patients in drawn]


def evaluation(sizes=None, seed=1, models=None, *, nsln=True, radiologist=True):
    drawn = draw(sizes, seed)
    cases = [row for patients, clinic in drawn for row in case_rows(patients, clinic)]
    scored = []
    for number, name in enumerate(models or SIGNAL):
        kind, signal, noise = SIGNAL[name]
        parts = [
            scores_of(
                p, Stage.SLN, chances_of(p, Stage.SLN, signal, noise, seed + number)
            )
            for p, _ in drawn
        ]
        scored.append(ModelScores(about(name, kind, Stage.SLN), tuple(parts)))
    if radiologist:
        name = "Radiologists' MRI reports"
        parts = [
            scores_of(p, Stage.SLN, c.mri_aln.astype(np.float64)) for p, c in drawn
        ]
        described = about(name, Kind.RADIOLOGIST, Stage.SLN, 0.5)
        scored.append(ModelScores(described, tuple(parts)))
    if nsln:
        parts = [
            scores_of(p, Stage.NSLN, chances_of(p, Stage.NSLN, 0.7, 1.4, seed))
            for p, _ in drawn
        ]
        described = about("ResNet18", Kind.CNN, Stage.NSLN, 0.3)
        scored.append(ModelScores(described, tuple(parts)))
    return Evaluation(provenance(), tuple(cases), tuple(scored))


def provenance(**changes):
    made = Provenance(
        snapshot_id="a" * 64,
        description="synthetic phantoms, level bench, seed 1",
        synthetic=True,
        created_at="2026-01-02T03:04:05Z",
        code_version="1.2.3",
        libraries={"numpy": "2.4.6", "scikit-learn": "1.9.1"},
        seeds=(1,),
    )
    return made.model_copy(update=changes)
