"""Figure 1, Table 1 and the pathology of the supplement: who the patients are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dicom_node.errors import SettingsError
from training import description, flowchart
from training.flowchart import Reached, cohort_names, reached
from training.report import choice, flows, words
from training.report.document import Figure, Row, Table
from training.row import CohortRow, row_of

LEVELS: Final = {
    "<= 2 cm": "\N{LESS-THAN OR EQUAL TO}2 cm",
    "> 2 cm": ">2 cm",
    "pre": "Premenopause",
    "post": "Postmenopause",
    "ductal": "Invasive ductal carcinoma",
    "lobular": "Invasive lobular carcinoma",
    "other": "Others",
    "luminal A": "Luminal A",
    "luminal B": "Luminal B",
    "HER2": "HER2 positive",
    "triple negative": "Triple negative",
    "negative": "Negative",
    "positive": "Positive",
}
"""Levels as the paper calls them; another stands as it is."""


def rows_of(cases: Sequence[Mapping[str, str]]) -> tuple[CohortRow, ...]:
    """Read the cases of an evaluation as rows of a cohort.

    Raises:
        SettingsError: A case lacks a column, or holds what it may not.
    """
    rows = []
    for case in cases:
        try:
            rows.append(row_of(case))
        except ValueError as error:
            raise SettingsError(
                f"cases.csv, {case.get('case_id', 'a case without an id')}: {error}"
            ) from error
    return tuple(rows)


def characteristics(rows: Sequence[CohortRow]) -> Table:
    """Return Table 1: medians with quartiles, counts with shares, what is missing."""
    table = description.table_one(rows)
    heads = _heads(dict(zip(table.cohorts, table.cases, strict=True)))
    return Table(
        "table-1",
        "Table 1",
        "Baseline characteristics by cohort",
        ("Variables", *heads, "P (test)"),
        tuple(row for block in table.blocks for row in _block(block)),
        (
            (
                "Data are n (%) of the patients whose value is known, or median (first "
                "to third quartile). Unknown values are counted and in no percentage. "
                "P compares the cohorts."
            ),
            (
                "HER2, human epidermal growth factor receptor 2; MRI, magnetic "
                "resonance imaging; ALN, axillary lymph node."
            ),
        ),
    )


def _heads(counts: Mapping[str, int]) -> list[str]:
    return [f"{choice.title(name)}, N = {n}" for name, n in counts.items()]


def _block(block: description.Block) -> Iterator[Row]:
    p = "\N{EN DASH}"
    if block.p is not None:
        p = f"{words.p_value(block.p)} ({block.test})"
    if block.spreads:
        none = words.not_computable("no case states it")
        spreads = [str(one) if one else none for one in block.spreads]
        yield Row((f"{block.label}, median (IQR)", *spreads, p))
    if block.levels:
        yield Row((block.label,), heading=True)
    for number, level in enumerate(block.levels):
        shares = map(str, level.shares)
        name = LEVELS.get(level.name, level.name)
        yield Row((name, *shares, "" if number else p))
    if any(block.unknown):
        yield Row(("Unknown", *map(str, block.unknown), ""))


def pathology(rows: Sequence[CohortRow]) -> Table:
    """Return Table S2: pathology by cohort, with the unknown labels counted."""
    groups = [*_reached(rows), reached("all", rows)]
    kinds = {
        f"SLN{words.MINUS}": [one.sln_negative for one in groups],
        f"SLN+ and NSLN{words.MINUS}": [
            one.nsln_known - one.nsln_positive for one in groups
        ],
        "SLN+ and NSLN+": [one.nsln_positive for one in groups],
        "SLN+ and NSLN unknown": [one.sln_positive - one.nsln_known for one in groups],
        "SLN unknown": [one.sln_unknown for one in groups],
    }
    sizes = [one.included for one in groups]
    counts = {one.cohort: one.included for one in groups[:-1]}
    return Table(
        "table-s2",
        "Table S2",
        "Pathology of the lymph nodes by cohort",
        ("Pathology", *_heads(counts), f"All, N = {len(rows)}"),
        tuple(
            Row((name, *map(words.share, found, sizes)))
            for name, found in kinds.items()
        ),
        (
            (
                "Data are n (%). Where SLND or ALND was not done the label is unknown, "
                "never negative; such cases are in no rate."
            ),
        ),
    )


def _reached(rows: Sequence[CohortRow]) -> list[Reached]:
    return [
        reached(name, [row for row in rows if row.cohort == name])
        for name in cohort_names(rows)
    ]


def inclusion(rows: Sequence[CohortRow], excluded: Mapping[str, int] | None) -> Figure:
    """Return Fig. 1; `excluded` counts by reason, None where no snapshot is at hand."""
    feet = [_foot(one, rows) for one in _reached(rows)]
    reasons = {flowchart.sentence(code): n for code, n in (excluded or {}).items()}
    considered = len(rows) + sum(reasons.values())
    known = reasons if excluded is not None else None
    written = [("considered", str(considered))]
    written += [(f"excluded: {reason}", str(n)) for reason, n in reasons.items()]
    written += [(f"included: {foot.name}", str(foot.n)) for foot in feet]
    notes: tuple[str, ...] = (
        (
            "Cohorts are disjoint by patient: both breasts and repeated studies of a "
            "patient share the role."
        ),
    )
    if excluded is None:
        missing = "Exclusions are in the snapshot; it was not given (--cohort)."
        notes = (missing, *notes)
    return Figure(
        "figure-1",
        "Fig. 1",
        "Flowchart of inclusion",
        (flows.inclusion(feet, considered, known),),
        ("step", "cases"),
        tuple(written),
        notes,
    )


def _foot(one: Reached, rows: Sequence[CohortRow]) -> flows.CohortFlow:
    centres = sorted({row.centre for row in rows if row.cohort == one.cohort} - {""})
    spared = one.nsln_known - one.nsln_positive
    unknown = one.sln_positive - one.nsln_known
    return flows.CohortFlow(
        name=choice.title(one.cohort),
        centres=f"centre {', '.join(centres)}" if centres else "centre unknown",
        n=one.included,
        sln=(one.sln_positive, one.sln_negative, one.sln_unknown),
        nsln=(one.nsln_positive, spared, unknown),
    )
