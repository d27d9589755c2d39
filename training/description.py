"""Table 1: the patients of each cohort, medians with quartiles and n (%).

A share is of the cases whose value is known; unknown ones are counted in a row of
their own. P values compare cohorts: Kruskal-Wallis for measures; for categories
Pearson's chi-squared, Fisher's exact test where a count below 5 is expected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.flowchart import cohort_names
from training.row import CohortRow

FEW_EXPECTED: Final = 5
DRAWS: Final = 9999
SEED: Final = 1
SLACK: Final = 1e-7  # tables of equal probability differ in their last bits
TWO: Final = 2

LEVELS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "size_group": ("Tumour size on MRI", ("<= 2 cm", "> 2 cm")),
    "menopause": ("Menopausal status", ("pre", "post")),
    "histology": ("Histological type", ("ductal", "lobular", "other")),
    "grade": ("Histological grade", ("I", "II", "III")),
    "subtype": (
        "Molecular subtype",
        ("luminal A", "luminal B", "HER2", "triple negative"),
    ),
    "birads": (
        "BI-RADS category",
        ("0", "1", "2", "3", "4", "4A", "4B", "4C", "5", "6"),
    ),
    "mri_aln": ("MRI-reported ALN", ("negative", "positive")),
    "sln": ("SLN status", ("negative", "positive")),
    "nsln": ("NSLN status, of SLN-positive", ("negative", "positive")),
}
SPARSE: Final = frozenset({"birads"})
"""Variables of which only the levels that occur are shown."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles (linear between order statistics) of n known values."""

    n: int
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g}-{self.high:.4g})"


@dataclass(frozen=True, slots=True)
class Share:
    """n of the `of` cases whose value is known."""

    n: int
    of: int

    def __str__(self) -> str:
        return f"{self.n} ({100 * self.n / self.of:.1f})" if self.of else f"{self.n}"


@dataclass(frozen=True, slots=True)
class Level:
    """One category of a variable, a share for each cohort."""

    name: str
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One variable: `spreads` of a measure, or `levels`; `unknown` for each cohort.

    `p` compares the cohorts by `test`; None where there is nothing to compare.
    """

    name: str
    label: str
    spreads: tuple[Spread | None, ...]
    levels: tuple[Level, ...]
    unknown: tuple[int, ...]
    p: float | None
    test: str


@dataclass(frozen=True, slots=True)
class TableOne:
    """The whole table; `cases` counts each cohort."""

    cohorts: tuple[str, ...]
    cases: tuple[int, ...]
    blocks: tuple[Block, ...]


def table_one(rows: Sequence[CohortRow]) -> TableOne:
    """Describe the cohorts of rows, side by side."""
    names = cohort_names(rows)
    parts = [[row for row in rows if row.cohort == name] for name in names]
    return TableOne(
        cohorts=names,
        cases=tuple(len(part) for part in parts),
        blocks=(
            _measure("age", "Age, years", parts),
            _measure("size_cm", "Tumour size on MRI, cm", parts),
            *(_category(name, *said, parts) for name, said in LEVELS.items()),
        ),
    )


def _measure(name: str, label: str, parts: Sequence[Sequence[CohortRow]]) -> Block:
    known = [
        np.array([v for row in part if (v := getattr(row, name)) is not None], float)
        for part in parts
    ]
    p, test = _kruskal(known)
    return Block(
        name=name,
        label=label,
        spreads=tuple(_spread(values) for values in known),
        levels=(),
        unknown=tuple(
            len(part) - len(values) for part, values in zip(parts, known, strict=True)
        ),
        p=p,
        test=test,
    )


def _spread(values: NDArray[np.float64]) -> Spread | None:
    if not len(values):
        return None
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(len(values), float(median), float(low), float(high))


def _kruskal(known: Sequence[NDArray[np.float64]]) -> tuple[float | None, str]:
    groups = [values for values in known if len(values)]
    varied = len(np.unique(np.concatenate(groups))) > 1 if groups else False
    if len(groups) < TWO or not varied:
        return None, ""
    return float(stats.kruskal(*groups).pvalue), "Kruskal-Wallis"


def value_of(row: CohortRow, name: str) -> str | None:
    """Return the category of a row, None where it is unknown or does not apply."""
    value = getattr(row, name)
    if name in {"sln", "nsln", "mri_aln"}:
        return {0: "negative", 1: "positive"}.get(value)
    return None if value is None else str(value)


def _category(
    name: str, label: str, levels: Sequence[str], parts: Sequence[Sequence[CohortRow]]
) -> Block:
    if name == "nsln":
        parts = [[row for row in part if row.sln == 1] for part in parts]
    values = [[value_of(row, name) for row in part] for part in parts]
    counts = np.array([[part.count(level) for part in values] for level in levels])
    known = counts.sum(axis=0)
    p, test = _compare(counts)
    return Block(
        name=name,
        label=label,
        spreads=(),
        levels=tuple(
            Level(
                level,
                tuple(
                    Share(int(n), int(of)) for n, of in zip(line, known, strict=True)
                ),
            )
            for level, line in zip(levels, counts, strict=True)
            if name not in SPARSE or line.any()
        ),
        unknown=tuple(part.count(None) for part in values),
        p=p,
        test=test,
    )


def _compare(counts: NDArray[np.int64]) -> tuple[float | None, str]:
    """Compare cohorts (columns) over levels (rows) that occur."""
    table = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    if min(table.shape) < TWO:
        return None, ""
    expected = stats.contingency.expected_freq(table)
    if expected.min() >= FEW_EXPECTED:
        return float(stats.chi2_contingency(table, correction=False).pvalue), "chi2"
    if table.shape == (TWO, TWO):
        return float(stats.fisher_exact(table).pvalue), "Fisher"
    return drawn_p(table), f"Fisher, {DRAWS} tables drawn"


def drawn_p(table: NDArray[np.int64]) -> float:
    """Return Fisher's P of a larger table: drawn tables that are no more likely."""
    law = stats.random_table(table.sum(axis=1), table.sum(axis=0))
    drawn = law.rvs(DRAWS, random_state=np.random.default_rng(SEED))
    as_rare = law.logpmf(drawn) <= law.logpmf(table) + SLACK
    return float((1 + as_rare.sum()) / (1 + DRAWS))


def cells(table: TableOne) -> list[list[str]]:
    """Return the table as text: variable, level, one column per cohort, P, test."""
    heads = [
        f"{name} (n = {n})" for name, n in zip(table.cohorts, table.cases, strict=True)
    ]
    written = [["variable", "level", *heads, "P", "test"]]
    for block in table.blocks:
        p = "" if block.p is None else _p(block.p)
        if block.spreads:
            spreads = ["" if one is None else str(one) for one in block.spreads]
            written.append([block.label, "median (IQR)", *spreads, p, block.test])
        for at, level in enumerate(block.levels):
            first = at == 0
            written.append(
                [
                    block.label if first else "",
                    level.name,
                    *map(str, level.shares),
                    p if first else "",
                    block.test if first else "",
                ]
            )
        if any(block.unknown):
            written.append(["", "unknown", *map(str, block.unknown), "", ""])
    return written


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"  # noqa: PLR2004 - as printed


def lines(table: TableOne) -> list[str]:
    """Print the table for people."""
    written = cells(table)
    widths = [max(len(line[at]) for line in written) for at in range(len(written[0]))]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in written
    ]


def document(table: TableOne) -> dict[str, Any]:
    """Return the table as JSON."""
    return asdict(table)
