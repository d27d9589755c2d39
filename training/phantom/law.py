"""The law of the phantom cohort: latents, labels and clinical variables.

Everything that decides a label is drawn here, so the best possible AUC is that of
`Patients.sln_score`. Margins are those of the paper's Table 1; prevalences are
those recovered from its Table 2 (140/519, 32/129, 41/296, 21/44).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

SIZE_SPREAD: Final = 0.55
"""SD of ln size; gives the paper's rates of SLN metastasis up to and above 2 cm."""

SIZE_LIMITS: Final = (0.5, 6.0)  # cm; what fits into a breast
SIZE_CUT: Final = 2.0  # cm

HISTOLOGY: Final = ("ductal", "lobular", "other")
GRADE: Final = ("I", "II", "III")
SUBTYPE: Final = ("luminal A", "luminal B", "HER2", "triple negative")
BIRADS: Final = ("4A", "4B", "4C", "5")


@dataclass(frozen=True, slots=True)
class CohortLaw:
    """One cohort: its centre, its Table 1 and the two constants of its labels.

    `intercept` was solved for the prevalence on 400,000 draws; `size_weight` is the
    effect of log2(size / 2 cm) on the SLN. Counts are patients, in table order.
    `nsln_unknown` is the share of SLN-positive patients without an NSLN label.
    """

    name: str
    centre: int
    role: str
    n: int
    small: int
    intercept: float
    size_weight: float
    nsln_unknown: float
    age: tuple[float, float, float]
    premenopausal: int
    histology: tuple[int, int, int]
    grade: tuple[int, int, int]
    subtype: tuple[int, int, int, int]
    birads: tuple[int, int, int, int]
    birads_weight: float
    mri_aln: tuple[float, float]


COHORTS: Final = (
    CohortLaw(
        name="train",
        centre=1,
        role="development",
        n=519,
        small=326,
        intercept=-1.724,
        size_weight=1.55,
        nsln_unknown=1 / 140,
        age=(46, 51, 57),
        premenopausal=242,
        histology=(486, 15, 18),
        grade=(42, 262, 215),
        subtype=(93, 307, 41, 78),
        birads=(10, 68, 205, 236),
        birads_weight=0.45,
        mri_aln=(48 / 140, 38 / 379),
    ),
    CohortLaw(
        name="internal",
        centre=1,
        role="holdout",
        n=129,
        small=84,
        intercept=-1.905,
        size_weight=1.55,
        nsln_unknown=0.0,
        age=(44.5, 49, 56),
        premenopausal=69,
        histology=(121, 5, 3),
        grade=(15, 62, 52),
        subtype=(24, 74, 10, 21),
        birads=(1, 14, 61, 53),
        birads_weight=0.45,
        mri_aln=(11 / 32, 13 / 97),
    ),
    CohortLaw(
        name="ext1",
        centre=2,
        role="external",
        n=296,
        small=183,
        intercept=-3.716,
        size_weight=0.0,
        nsln_unknown=5 / 41,
        age=(45, 52, 59),
        premenopausal=159,
        histology=(265, 10, 21),
        grade=(12, 157, 127),
        subtype=(59, 180, 22, 35),
        birads=(24, 26, 124, 122),
        birads_weight=0.0,  # the paper's clinical model is at chance there
        mri_aln=(21 / 41, 124 / 255),
    ),
    CohortLaw(
        name="ext2",
        centre=3,
        role="external",
        n=44,
        small=15,
        intercept=-0.478,
        size_weight=1.3,
        nsln_unknown=0.0,
        age=(48, 57, 62.75),
        premenopausal=12,
        histology=(35, 2, 7),
        grade=(7, 31, 6),
        subtype=(9, 24, 10, 1),
        birads=(1, 6, 9, 28),
        birads_weight=0.45,
        mri_aln=(10 / 21, 11 / 23),
    ),
)


@dataclass(frozen=True, slots=True)
class Patients:
    """n patients of one cohort, one array (n,) per variable.

    The latents are standard normal: spiculation, peritumoural halo, rim
    enhancement, heterogeneity. `size` is in cm. `sln` is 0 or 1; `nsln` is 0, 1 or
    -1 where nobody can know it. The scores are the true logits of both labels.
    """

    law: CohortLaw
    spiculation: NDArray[np.float64]
    halo: NDArray[np.float64]
    rim: NDArray[np.float64]
    heterogeneity: NDArray[np.float64]
    size: NDArray[np.float64]
    sln_score: NDArray[np.float64]
    nsln_score: NDArray[np.float64]
    sln: NDArray[np.int8]
    nsln: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True, slots=True)
class Clinic:
    """Clinical variables of the same patients; the last four index their names."""

    age: NDArray[np.int64]
    premenopausal: NDArray[np.bool_]
    mri_aln: NDArray[np.bool_]
    histology: NDArray[np.intp]
    grade: NDArray[np.intp]
    subtype: NDArray[np.intp]
    birads: NDArray[np.intp]


def draw(law: CohortLaw, n: int, seed: int) -> Patients:
    """Draw n patients of a cohort; the same seed gives the same patients."""
    rng = np.random.default_rng([seed, law.centre, law.n])
    s, p, r, h, z = rng.standard_normal((5, n))
    shift = norm.ppf(law.small / law.n)  # P(size <= 2 cm) is exact
    size = np.clip(SIZE_CUT * np.exp(SIZE_SPREAD * (z - shift)), *SIZE_LIMITS)
    doublings = np.log2(size / SIZE_CUT)
    sln_score = (
        law.intercept
        + 1.6 * s
        + 1.7 * p
        + 1.3 * r
        + 1.05 * h
        + 0.6 * s * p
        + law.size_weight * doublings
    )
    nsln_score = -1.15 + 1.3 * p + 1.1 * h + 0.7 * s + 0.9 * doublings
    sln = (rng.random(n) < sigmoid(sln_score)).astype(np.int8)
    spread = (rng.random(n) < sigmoid(nsln_score)).astype(np.int8)
    known = (sln == 1) & (rng.random(n) >= law.nsln_unknown)
    nsln = np.where(known, spread, -1).astype(np.int8)
    return Patients(law, s, p, r, h, size, sln_score, nsln_score, sln, nsln)


def draw_clinic(patients: Patients, seed: int) -> Clinic:
    """Draw the clinical variables of patients; BI-RADS follows their latents."""
    law, n = patients.law, len(patients)
    rng = np.random.default_rng([seed, law.centre, law.n, 1])
    low, median, high = law.age
    age = np.rint(median + (high - low) / 1.349 * rng.standard_normal(n))
    youth = rng.standard_normal(n) - 2 * (age - median) / (high - low)
    suspicion = law.birads_weight * (patients.spiculation + patients.rim) / np.sqrt(2)
    suspicion += np.sqrt(1 - law.birads_weight**2) * rng.standard_normal(n)
    sensitivity, false_positives = law.mri_aln
    chance = np.where(patients.sln == 1, sensitivity, false_positives)
    return Clinic(
        age=np.clip(age, 22, 90).astype(np.int64),
        premenopausal=youth
        > np.sqrt(1 + 1.483**2) * norm.isf(law.premenopausal / law.n),
        mri_aln=rng.random(n) < chance,
        histology=_classes(rng.standard_normal(n), law.histology),
        grade=_classes(rng.standard_normal(n), law.grade),
        subtype=_classes(rng.standard_normal(n), law.subtype),
        birads=_classes(suspicion, law.birads),
    )


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x))."""
    y: NDArray[np.float64] = 1 / (1 + np.exp(-x))
    return y


def _classes(z: NDArray[np.float64], counts: tuple[int, ...]) -> NDArray[np.intp]:
    """Cut a standard normal variable so that classes have the table's shares."""
    shares = np.cumsum(counts)[:-1] / sum(counts)
    return np.searchsorted(norm.ppf(shares), z)


def apportion(n: int, laws: tuple[CohortLaw, ...]) -> list[int]:
    """Split n patients over cohorts in the paper's proportions (largest remainder)."""
    total = sum(law.n for law in laws)
    exact = [n * law.n / total for law in laws]
    counts = [int(share) for share in exact]
    order = sorted(range(len(laws)), key=lambda i: counts[i] - exact[i])
    for i in order[: n - sum(counts)]:
        counts[i] += 1
    return counts
