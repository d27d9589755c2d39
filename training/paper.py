"""The paper's numbers: as printed, as recovered counts, and which cannot all hold.

Chen et al., eClinicalMedicine 2023;63:102176. Its clinical model's rows are whole
patients, so the counts behind them are known; per-case labels and scores rebuilt
from them go through the same functions as any cohort's. Each percentage is printed
with one decimal and without its k/n.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from training.scores import CohortScores
from training.statistics.confusion import Counts
from training.statistics.consistency import (
    Contradiction,
    Row,
    Rule,
    Share,
    contradictions,
)

THRESHOLD: Final = 0.5
SIZE: Final = "size"
HIGH, LOW = 0.75, 0.25
"""Scores of rebuilt cases: any two either side of the threshold count the same."""


class Cohort(NamedTuple):
    """Patients of a cohort and SLN-positive ones, recovered from the clinical rows."""

    name: str
    n: int
    positives: int


COHORTS: Final = (
    Cohort("training", 519, 140),
    Cohort("internal", 129, 32),
    Cohort("ext1", 296, 41),
    Cohort("ext2", 44, 21),
)

CLINICAL: Final = {
    "training": Counts(tp=107, fp=197, fn=33, tn=182),
    "internal": Counts(tp=27, fp=46, fn=5, tn=51),
    "ext1": Counts(tp=20, fp=145, fn=21, tn=110),
    "ext2": Counts(tp=15, fp=10, fn=6, tn=13),
}
"""The only counts that give the clinical model's accuracy, sensitivity, specificity."""

RADIOLOGISTS: Final = Counts(tp=42, fp=148, fn=52, tn=227)
"""Fig. 4 over internal, ext1 and ext2: the only counts with its margins and rates."""

SMALL_POSITIVES: Final = {
    ("training", "≤2 cm"): (63, 326),
    ("training", ">2 cm"): (77, 193),
    ("internal", "≤2 cm"): (14, 84),
    ("internal", ">2 cm"): (18, 45),
    ("ext1", "≤2 cm"): (26, 183),
    ("ext1", ">2 cm"): (15, 113),
    ("ext2", "≤2 cm"): (5, 15),
    ("ext2", ">2 cm"): (16, 29),
}
"""SLN-positive of all by size, recovered from Table 3's clinical rows."""

Printed = Mapping[str, tuple[tuple[float, float, float, float], ...]]

TABLE_2: Final[Printed] = {
    "Clinical model": (
        (0.669, 55.7, 76.4, 48.0),
        (0.709, 60.5, 84.4, 52.6),
        (0.486, 43.9, 48.8, 43.1),
        (0.615, 63.6, 71.4, 56.5),
    ),
    "Radiomics model": (
        (0.753, 74.0, 75.0, 66.3),
        (0.735, 78.6, 69.3, 71.7),
        (0.561, 82.6, 60.0, 54.4),
        (0.535, 54.5, 45.7, 75.6),
    ),
    "CNN model": (
        (0.986, 96.8, 96.7, 96.4),
        (0.899, 84.2, 85.6, 85.8),
        (0.885, 89.2, 75.5, 88.3),
        (0.768, 70.9, 74.3, 73.1),
    ),
}
"""AUC, accuracy, sensitivity, specificity for SLN, in the order of `COHORTS`."""

TABLE_2_NSLN: Final = {
    ("training", 139): (0.998, 100.0, 100.0, 100.0),
    ("internal", 32): (0.800, 79.0, 72.7, 86.1),
    ("ext1", 36): (0.763, 77.8, 90.5, 66.7),
    ("ext2", 21): (0.728, 73.0, 66.7, 88.9),
}

TABLE_3: Final[Mapping[str, Printed]] = {
    "≤2 cm": {
        "Clinical model": (
            (0.617, 64.7, 47.6, 68.8),
            (0.693, 71.4, 64.3, 72.9),
            (0.505, 32.8, 88.5, 23.6),
            (0.440, 22.7, 80.0, 0.0),
        ),
        "Radiomics model": (
            (0.830, 79.0, 79.0, 77.2),
            (0.687, 67.1, 75.0, 64.2),
            (0.571, 84.1, 53.8, 64.5),
            (0.490, 60.0, 52.0, 66.0),
        ),
        "CNN model": (
            (0.997, 98.1, 98.3, 98.4),
            (0.801, 81.0, 84.7, 67.4),
            (0.823, 88.8, 90.0, 68.2),
            (0.812, 72.0, 76.0, 90.0),
        ),
    },
    ">2 cm": {
        "Clinical model": (
            (0.561, 52.8, 71.4, 40.5),
            (0.578, 57.8, 66.7, 51.9),
            (0.489, 47.8, 53.3, 46.9),
            (0.548, 62.1, 93.8, 23.1),
        ),
        "Radiomics model": (
            (0.709, 75.6, 75.5, 59.4),
            (0.759, 79.7, 68.6, 78.0),
            (0.543, 85.3, 72.0, 44.9),
            (0.436, 46.9, 58.8, 55.4),
        ),
        "CNN model": (
            (0.999, 99.3, 99.4, 99.6),
            (0.847, 77.9, 91.3, 73.8),
            (0.858, 86.5, 87.0, 79.1),
            (0.699, 66.2, 68.7, 76.9),
        ),
    },
}


def rebuild(counts: Counts, cohort: str) -> CohortScores:
    """Return one case per patient with these counts at 0.5.

    Labels and calls are the paper's; ranks within a call are unknown, so an AUC of
    these scores is not the paper's.
    """
    labels = np.repeat([1, 0, 1, 0], [counts.tp, counts.fp, counts.fn, counts.tn])
    chances = np.repeat([HIGH, LOW], [counts.high, counts.low])
    cases = tuple(f"{cohort}-{i}" for i in range(counts.n))
    return CohortScores(cohort, cases, labels.astype(np.int64), chances)


def clinical() -> tuple[CohortScores, ...]:
    """Return the clinical model's cases of the four cohorts."""
    return tuple(rebuild(CLINICAL[each.name], each.name) for each in COHORTS)


def radiologists() -> CohortScores:
    """Return the radiologists' readings of validation and test patients, pooled."""
    return rebuild(RADIOLOGISTS, "internal, ext1 and ext2")


def table_2() -> list[Row]:
    """Return Table 2 as printed, SLN then NSLN; positives as recovered, for SLN."""
    rows = [
        _row("Table 2", each, model, values)
        for model, printed in TABLE_2.items()
        for each, values in zip(COHORTS, printed, strict=True)
    ]
    rows += [
        _row("Table 2", (name, n, None), "CNN model", values, stage="nsln")
        for (name, n), values in TABLE_2_NSLN.items()
    ]
    return rows


def table_3() -> list[Row]:
    """Return Table 3 as printed; positives as recovered."""
    return [
        _row("Table 3", _part(each.name, group), model, values, group=group)
        for group, models in TABLE_3.items()
        for model, printed in models.items()
        for each, values in zip(COHORTS, printed, strict=True)
    ]


def _part(cohort: str, group: str) -> tuple[str, int, int]:
    positives, n = SMALL_POSITIVES[cohort, group]
    return cohort, n, positives


def _row(
    table: str,
    cases: tuple[str, int, int | None],
    model: str,
    values: tuple[float, float, float, float],
    **about: str,
) -> Row:
    cohort, n, positives = cases
    accuracy, sensitivity, specificity = (Share(x, digits=1) for x in values[1:])
    return Row(
        table=table,
        cohort=cohort,
        model=model,
        n=n,
        positives=positives,
        accuracy=accuracy,
        sensitivity=sensitivity,
        specificity=specificity,
        auc=values[0],
        threshold=THRESHOLD,
        stage=about.get("stage", "sln"),
        variable=SIZE if "group" in about else "",
        group=about.get("group", ""),
    )


def impossible() -> list[Contradiction]:
    """Return the paper's numbers that cannot all hold, and why."""
    found = contradictions([*table_2(), *table_3()], counted=False)
    return [*found, *_figure_4()]


@dataclass(frozen=True, slots=True)
class Margins:
    """Fig. 4's patients: all, SLN-positive, and called positive on MRI (Table 1)."""

    n: int
    positives: int
    high: int


FIG_4: Final = Margins(n=469, positives=94, high=190)
FIG_4_RATES: Final = (77.9, 18.6)
FIG_4_CNN: Final = (32.9, 10.3)


def solve_figure_4(
    margins: Margins = FIG_4, rates: tuple[float, float] = FIG_4_RATES
) -> list[Counts]:
    """Return all counts with these margins whose FDR and FOR print as these rates."""
    discovery, omission = (Share(rate, digits=1) for rate in rates)
    low = margins.n - margins.high
    return [
        Counts(
            tp, margins.high - tp, margins.positives - tp, low - margins.positives + tp
        )
        for tp in range(min(margins.positives, margins.high) + 1)
        if discovery.fits(margins.high - tp, margins.high)
        and omission.fits(margins.positives - tp, low)
    ]


def _figure_4() -> list[Contradiction]:
    """Return why Fig. 4's rates are not what they are called."""
    false_positives, _ = FIG_4_RATES
    negatives = FIG_4.n - FIG_4.positives
    needed = round(false_positives / 100 * negatives)
    discovery, omission = (rate / 100 for rate in FIG_4_CNN)
    high = (FIG_4.positives - omission * FIG_4.n) / (1 - discovery - omission)
    found = high * (1 - discovery) / FIG_4.positives
    return [
        Contradiction(
            "Fig. 4",
            "radiologists",
            Rule.INTEGERS,
            f"a false positive rate of {false_positives:g}% of {negatives} negatives "
            f"is {needed} patients, but MRI called only {FIG_4.high} positive; "
            "77.9% and 18.6% are FDR (148/190) and FOR (52/279)",
        ),
        Contradiction(
            "Fig. 4",
            "CNN model",
            Rule.INTEGERS,
            f"read as FDR and FOR, {FIG_4_CNN[0]:g}% and {FIG_4_CNN[1]:g}% mean a "
            f"sensitivity of {100 * found:.0f}%, so a false negative rate of "
            f"{100 * (1 - found):.0f}%, not {FIG_4_CNN[1]:g}%",
        ),
    ]
