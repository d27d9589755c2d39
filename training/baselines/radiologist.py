"""The radiologists' MRI reports of the axilla, as a score of 0 or 1."""

import numpy as np

from dicom_node.findings import Stage
from training.baselines.cases import LABELS, Cases, Labelled, cohort_of, label_of, parts
from training.scores import Kind, ModelScores, ScoredModel
from worker.manifest import OperatingThreshold

MODEL = "Radiologists' MRI reports"


def score(cases: Cases, stage: Stage) -> tuple[ModelScores, ...]:
    """Return the reports of every case that has one; none, if no case has.

    Nothing is fitted, so every labelled case counts, whatever its fold.
    """
    rows = tuple(
        row
        for row in cases.rows
        if label_of(row, stage) >= 0 and row.get("mri_aln", "") in LABELS
    )
    if not rows:
        return ()
    found = Labelled(
        rows,
        np.array([label_of(row, stage) for row in rows], dtype=np.int64),
        np.full(len(rows), -1),
        np.array([cohort_of(row) for row in rows]),
    )
    about = ScoredModel(
        model=MODEL,
        kind=Kind.RADIOLOGIST,
        stage=stage,
        threshold=OperatingThreshold(value=0.5, how="a report is positive or negative"),
        training_scores="read, not fitted",
        detail={"variable": "MRI-reported ALN status"},
    )
    chances = np.array([float(LABELS[row["mri_aln"]]) for row in rows])
    return (ModelScores(about, parts(found, chances)),)
