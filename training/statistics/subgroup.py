"""The same model and threshold in parts of a cohort, by size or any other variable."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Final

import numpy as np

from training.row import SIZE_CUT_CM
from training.scores import CohortScores
from training.statistics.auc import (
    AucCases,
    AucDifference,
    AucInterval,
    auc_interval,
    compare_unpaired,
)
from training.statistics.confusion import Counts, count
from training.statistics.consistency import InconsistentNumbersError

SMALL: Final = "≤2 cm"
LARGE: Final = ">2 cm"
UNKNOWN: Final = "unknown"

CAUTION: Final = (
    "Subgroups were not powered for; a difference between them is tested by the "
    "interaction, not by one interval holding 0.5 and the other not."
)

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Part of a cohort; `auc` is None with fewer than two cases of a class."""

    name: str
    scores: CohortScores
    counts: Counts
    auc: AucInterval | None


@dataclass(frozen=True, slots=True)
class Subgroups:
    """All parts of a cohort by one variable.

    `interaction` compares the AUCs of the first two parts that have one.
    """

    variable: str
    groups: tuple[Group, ...]
    interaction: AucDifference | None
    caution: str = CAUTION


def size_class(row: Row) -> str:
    """Return the size class of a case; an empty size is unknown."""
    text = cell(row, "size_cm")
    if text == UNKNOWN:
        return UNKNOWN
    return SMALL if float(text) <= SIZE_CUT_CM else LARGE


def cell(row: Row, name: str) -> str:
    """Return the text of a cell; an empty one, or "unknown" itself, is unknown."""
    text = row.get(name, "").strip()
    return UNKNOWN if text.casefold() in {"", UNKNOWN} else text


def column(name: str) -> Callable[[Row], str]:
    """Return what reads a categorical column."""
    return lambda row: cell(row, name)


def subgroups(
    scores: CohortScores,
    rows: Mapping[str, Row],
    variable: tuple[str, Callable[[Row], str]],
    threshold: float,
) -> Subgroups:
    """Split the scores of a cohort by a variable of its cases.

    Args:
        scores: One model, one cohort.
        rows: Row of the cohort's table by case_id.
        variable: Its name, and what reads it, as ("size", size_class).
        threshold: The same as for the whole cohort.

    Raises:
        InconsistentNumbersError: The parts do not add up to the cohort.
    """
    name, read = variable
    values = np.array([read(rows[case]) for case in scores.case_ids])
    groups = tuple(
        _group(value, scores, values == value, threshold) for value in _order(values)
    )
    whole = count(scores.labels, scores.probabilities, threshold)
    if reduce(add, (group.counts for group in groups)) != whole:
        raise InconsistentNumbersError(
            f"{scores.cohort}: the subgroups by {name} do not add up to the cohort"
        )
    return Subgroups(name, groups, _interaction(groups))


def _order(values: np.ndarray[tuple[int], np.dtype[np.str_]]) -> list[str]:
    """Return the values as tables list them: sizes up, unknown last."""
    first = {SMALL: 0, LARGE: 1, UNKNOWN: 3}
    return sorted(set(values.tolist()), key=lambda value: (first.get(value, 2), value))


def _group(
    name: str,
    scores: CohortScores,
    chosen: np.ndarray[tuple[int], np.dtype[np.bool_]],
    threshold: float,
) -> Group:
    labels, chances = scores.labels[chosen], scores.probabilities[chosen]
    cases = tuple(np.array(scores.case_ids, dtype=object)[chosen].tolist())
    counts = count(labels, chances, threshold)
    enough = min(counts.positives, counts.negatives) >= 2  # noqa: PLR2004 - a variance needs two
    return Group(
        name,
        CohortScores(scores.cohort, cases, labels, chances),
        counts,
        auc_interval(labels, chances) if enough else None,
    )


def _interaction(groups: tuple[Group, ...]) -> AucDifference | None:
    tested = [each.scores for each in groups if each.auc and each.name != UNKNOWN]
    if len(tested) != 2:  # noqa: PLR2004 - one difference
        return None
    first, second = (AucCases(one.labels, one.probabilities) for one in tested)
    return compare_unpaired(first, second)
