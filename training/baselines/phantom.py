"""Baselines on phantom patients in memory: fit on one law, score any number of others.

This is for benchmarks, where the laws of test cohorts are sampled far beyond their
size so that differences are not noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.baselines.cases import Cases, Row
from training.baselines.patch import Patch, of_phantom
from training.phantom import law as laws
from training.phantom.anatomy import Level, Subject
from training.phantom.crops import subjects
from training.row import DEVELOPMENT, WRITTEN


@dataclass(frozen=True, slots=True)
class Draw:
    """n patients of a cohort's law, by a seed."""

    law: laws.CohortLaw
    n: int
    seed: int


def cases(draws: Sequence[Draw], level: Level, folds: int = 5) -> Cases:
    """Draw cohorts as rows with pixels on demand; one draw of each cohort.

    Development cases are dealt to folds 1..folds within each label, by chance.
    """
    rows: list[Row] = []
    drawn: dict[str, Subject] = {}
    for draw in draws:
        patients = laws.draw(draw.law, draw.n, draw.seed)
        clinic = laws.draw_clinic(patients, draw.seed)
        for i, subject in enumerate(subjects(patients, draw.seed, level)):
            case_id = f"{draw.law.name}-{i:05d}"
            drawn[case_id] = subject
            rows.append({"case_id": case_id, **_row(patients, clinic, i)})
    return Cases(rows, _folds(rows, folds), _renders(drawn))


def _row(patients: laws.Patients, clinic: laws.Clinic, i: int) -> dict[str, str]:
    return {
        "role": patients.law.role,
        "cohort": patients.law.name,
        "sln": WRITTEN[int(patients.sln[i])],
        "nsln": WRITTEN[int(patients.nsln[i])],
        "size_cm": f"{patients.size[i]:.2f}",
        "age": str(clinic.age[i]),
        "menopause": "pre" if clinic.premenopausal[i] else "post",
        "birads": laws.BIRADS[clinic.birads[i]],
        "mri_aln": WRITTEN[int(clinic.mri_aln[i])],
    }


def _renders(drawn: Mapping[str, Subject]) -> Callable[[Row], Patch]:
    return lambda row: of_phantom(drawn[row["case_id"]])


def _folds(rows: Sequence[Row], folds: int) -> dict[str, int]:
    rng = np.random.default_rng(0)
    fold_of: dict[str, int] = {}
    for label in WRITTEN.values():
        mine = [
            row["case_id"]
            for row in rows
            if row["role"] == DEVELOPMENT and row["sln"] == label
        ]
        for place, i in enumerate(rng.permutation(len(mine))):
            fold_of[mine[i]] = 1 + place % folds
    return fold_of
