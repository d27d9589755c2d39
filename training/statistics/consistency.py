"""Numbers that cannot all hold: checked before a table is printed.

A table is a claim about cases. Accuracy, sensitivity and specificity at one
threshold come from the same four counts, all models of a cohort see the same cases,
and subgroups add up to their cohort; where that fails, the table is refused.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from dicom_node.errors import PermanentError
from dicom_node.findings import Proportion
from training.scores import CohortScores, Kind, ModelScores
from training.statistics.auc import auc
from training.statistics.confusion import Metric, count, rate

SHOWN: Final = 10  # contradictions that one error spells out
AUC_ROUNDING: Final = 5e-4


class InconsistentNumbersError(PermanentError):
    """A table holds numbers that no set of cases can give; nothing is printed."""


class Rule(StrEnum):
    """What a printed number has to obey."""

    WITHIN = "accuracy lies between sensitivity and specificity"
    INTEGERS = "rates are whole patients, and accuracy x n is TP + TN"
    COUNTED = "every percentage carries its k/n"
    SAME_CASES = "all models of a cohort see the same n and positives"
    SUBGROUPS = "subgroups add up to their cohort"
    SUBGROUP_AUC = "subgroup AUCs allow the AUC of the cohort"
    SAME_MODEL = "a model has the same weights in every table"


class Share(NamedTuple):
    """A printed percentage, with its counts where they are printed too.

    `digits` is how many decimals were printed; None means unrounded.
    """

    percent: float
    k: int | None = None
    n: int | None = None
    digits: int | None = None

    @property
    def slack(self) -> float:
        """Half of the last printed decimal, in percent."""
        return 1e-9 + (0 if self.digits is None else 0.5 * 10**-self.digits)

    def fits(self, k: int, n: int) -> bool:
        """Tell whether k of n would be printed like this."""
        return abs(100 * k / n - self.percent) <= self.slack


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a results table, as it will be printed.

    `variable` and `group` are empty for the whole cohort. `positives` is None where
    nobody says; then any number is tried. `partial` rows may lack cases of their
    cohort, as radiologists without a report do, but have none beyond it.
    """

    table: str
    cohort: str
    model: str
    n: int
    positives: int | None
    accuracy: Share
    sensitivity: Share
    specificity: Share
    auc: float | None = None
    threshold: float | None = None
    stage: str = "sln"
    variable: str = ""
    group: str = ""
    weights_sha256: str | None = None
    partial: bool = False

    @property
    def name(self) -> str:
        """The row in words."""
        parts = (self.stage.upper(), self.cohort, self.group, self.model)
        return ", ".join(part for part in parts if part)


class Contradiction(NamedTuple):
    """A table, a row, the rule that it breaks, and one sentence that says how."""

    table: str
    row: str
    rule: Rule
    why: str

    def __str__(self) -> str:
        return f"{self.table}, {self.row}: {self.why}"


class Place(NamedTuple):
    """Where a row stands: the table, and the subgroup of a variable if any."""

    table: str
    variable: str = ""
    group: str = ""


def row(place: Place, scored: ModelScores, part: CohortScores, threshold: float) -> Row:
    """Return the row of a model in a cohort or a subgroup of it, counted anew."""
    counts = count(part.labels, part.probabilities, threshold)
    both = counts.positives and counts.negatives
    return Row(
        table=place.table,
        cohort=part.cohort,
        model=scored.about.model,
        n=len(part),
        positives=counts.positives,
        accuracy=_share(rate(counts, Metric.ACCURACY)),
        sensitivity=_share(rate(counts, Metric.SENSITIVITY)),
        specificity=_share(rate(counts, Metric.SPECIFICITY)),
        auc=auc(part.labels, part.probabilities) if both else None,
        threshold=threshold,
        stage=scored.about.stage,
        variable=place.variable,
        group=place.group,
        weights_sha256=scored.about.weights_sha256,
        partial=scored.about.kind is Kind.RADIOLOGIST,
    )


def _share(proportion: Proportion | None) -> Share:
    if proportion is None:  # a subgroup without positives has no sensitivity
        return Share(math.nan, 0, 0)
    return Share(100 * proportion.value, proportion.k, proportion.n)


def refuse(rows: Sequence[Row]) -> None:
    """Let rows pass that can all hold and carry their counts.

    Raises:
        InconsistentNumbersError: Some cannot; the message names table, row and why.
    """
    found = contradictions(rows)
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        sentences = "; ".join(str(each) for each in found[:SHOWN])
        raise InconsistentNumbersError(
            f"these numbers cannot all hold, so nothing is printed: {sentences}{more}"
        )


def contradictions(rows: Sequence[Row], *, counted: bool = True) -> list[Contradiction]:
    """Return everything that cannot hold; `counted` asks for k/n at each percentage."""
    found: list[Contradiction] = []
    for each in rows:
        if counted:
            found += _uncounted(each)
        found += _impossible(each)
    found += _different_cases(rows)
    found += _different_weights(rows)
    found += _subgroups(rows)
    return found


def _told(about: Row, rule: Rule, why: str) -> Contradiction:
    return Contradiction(about.table, about.name, rule, why)


def _shares(of: Row) -> dict[str, Share]:
    return {
        "accuracy": of.accuracy,
        "sensitivity": of.sensitivity,
        "specificity": of.specificity,
    }


def _uncounted(of: Row) -> Iterator[Contradiction]:
    for name, share in _shares(of).items():
        if share.k is None or share.n is None:
            yield _told(of, Rule.COUNTED, f"{name} {share.percent:g}% has no k/n")
        elif share.n and not share.fits(share.k, share.n):
            why = f"{name} {share.percent:g}% is not {share.k}/{share.n}"
            yield _told(of, Rule.INTEGERS, why)


def _impossible(of: Row) -> Iterator[Contradiction]:
    """Yield why no TP and TN give the three rates of a row."""
    low, high = sorted((of.sensitivity, of.specificity), key=lambda s: s.percent)
    slack = of.accuracy.slack
    outside = (
        of.accuracy.percent < low.percent - slack - low.slack
        or of.accuracy.percent > high.percent + slack + high.slack
    )
    if outside:
        yield _told(
            of,
            Rule.WITHIN,
            f"accuracy {of.accuracy.percent:g}% lies outside sensitivity "
            f"{of.sensitivity.percent:g}% and specificity {of.specificity.percent:g}%"
            f"{_forced(of)}, which is impossible at one threshold",
        )
    elif not any(math.isnan(share.percent) for share in _shares(of).values()):
        why = _not_whole(of)
        if why:
            yield _told(of, Rule.INTEGERS, why)


def _forced(of: Row) -> str:
    if of.positives is None:
        return ""
    share = of.positives / of.n
    percent = share * of.sensitivity.percent + (1 - share) * of.specificity.percent
    return f" (with {of.positives}/{of.n} positives it is {percent:.1f}%)"


def _not_whole(of: Row) -> str:
    """Return why the rates are not those of whole patients, empty if they can be."""
    guesses = range(1, of.n) if of.positives is None else (of.positives,)
    possible = set()
    for positives in guesses:
        found = _ks(of.sensitivity, positives)
        spared = _ks(of.specificity, of.n - positives)
        possible |= {tp + tn for tp in found for tn in spared}
    if any(of.accuracy.fits(k, of.n) for k in possible):
        return ""
    if of.positives is None and possible:
        given = " or ".join(f"{100 * k / of.n:.1f}%" for k in sorted(possible))
        return f"the rates force an accuracy of {given}, not {of.accuracy.percent:g}%"
    if of.positives is None:
        return f"no split of {of.n} cases gives sensitivity and specificity as printed"
    return _not_whole_rate(of, of.positives)


def _not_whole_rate(of: Row, positives: int) -> str:
    wholes = {"accuracy": of.n, "sensitivity": positives}
    wholes["specificity"] = of.n - positives
    for name, share in _shares(of).items():
        if not _ks(share, wholes[name]):
            return f"{name} {share.percent:g}% is no k/{wholes[name]}"
    return f"accuracy {of.accuracy.percent:g}% is not (TP + TN) / n{_forced(of)}"


def _ks(share: Share, n: int) -> list[int]:
    """Return every k that would be printed as this share of n."""
    if n <= 0:
        return []
    middle = round(share.percent * n / 100)
    return [
        k for k in range(middle - 1, middle + 2) if 0 <= k <= n and share.fits(k, n)
    ]


def _different_cases(rows: Sequence[Row]) -> Iterator[Contradiction]:
    first: dict[tuple[str, ...], Row] = {}
    for each in sorted(rows, key=lambda one: one.partial):  # whole rows set the scale
        key = (each.stage, each.cohort, each.variable, each.group)
        known = first.setdefault(key, each)
        if not _same_cases(each, known):
            why = (
                f"{each.positives}/{each.n} positives, but {known.positives}/{known.n} "
                f"in {known.table}, {known.name}"
            )
            yield _told(each, Rule.SAME_CASES, why)


def _same_cases(of: Row, known: Row) -> bool:
    if of.positives is None or known.positives is None:
        return True
    more = of.positives - known.positives
    others = of.n - known.n - more
    return max(more, others) <= 0 if of.partial else more == others == 0


def _different_weights(rows: Sequence[Row]) -> Iterator[Contradiction]:
    first: dict[tuple[str, str], Row] = {}
    for each in rows:
        known = first.setdefault((each.stage, each.model), each)
        if each.weights_sha256 != known.weights_sha256:
            yield _told(
                each,
                Rule.SAME_MODEL,
                f"weights {_short(each)}, but {_short(known)} in {known.table}",
            )


def _short(of: Row) -> str:
    return "none" if of.weights_sha256 is None else of.weights_sha256[:12]


def _subgroups(rows: Sequence[Row]) -> Iterator[Contradiction]:
    """Yield what does not add up; rows at other thresholds are another claim."""
    wholes = {_claim(each): each for each in rows if not each.variable}
    parts: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for each in rows:
        if each.variable and _claim(each) in wholes:
            parts[(_claim(each), each.variable)].append(each)
    for group in parts.values():
        whole = wholes[_claim(group[0])]
        yield from _sums(whole, group)
        yield from _pairs(whole, group)


def _claim(of: Row) -> tuple[object, ...]:
    return (of.stage, of.cohort, of.model, of.threshold)


def _sums(whole: Row, group: Sequence[Row]) -> Iterator[Contradiction]:
    label = group[0].variable
    for name, total, parts in (
        ("n", whole.n, [each.n for each in group]),
        ("positives", whole.positives, [each.positives for each in group]),
    ):
        known = [part for part in parts if part is not None]
        if total is not None and len(known) == len(parts) and sum(known) != total:
            added = " + ".join(map(str, known))
            why = f"{name} of {label} add up to {added}, not {total}"
            yield _told(whole, Rule.SUBGROUPS, why)
            return
    names = ("accuracy", "sensitivity", "specificity")
    differ = [text for name in names if (text := _pooled(whole, group, name))]
    if differ:
        why = f"by {label}, its subgroups pool to {', '.join(differ)}"
        yield _told(whole, Rule.SUBGROUPS, f"{why}: another model or threshold")


def _pooled(whole: Row, group: Sequence[Row], name: str) -> str:
    """Say where a rate of the cohort is not the weighted mean of its subgroups'."""
    sizes = [_whole(each, name) for each in (whole, *group)]
    if not all(sizes):
        return ""
    total, *weights = [size or 0 for size in sizes]
    shares = [_shares(each)[name] for each in group]
    pairs = list(zip(weights, shares, strict=True))
    mean = sum(size * share.percent for size, share in pairs) / total
    slack = sum(size * share.slack for size, share in pairs) / total
    printed = _shares(whole)[name]
    if abs(mean - printed.percent) <= slack + printed.slack:
        return ""
    return f"{name} {mean:.1f}%, not {printed.percent:g}%"


def _whole(of: Row, name: str) -> int | None:
    if name == "accuracy":
        return of.n
    if of.positives is None:
        return None
    return of.positives if name == "sensitivity" else of.n - of.positives


def _pairs(whole: Row, group: Sequence[Row]) -> Iterator[Contradiction]:
    """Yield an AUC that no ranking across the subgroups can give.

    An AUC is a mean over pairs: those inside subgroups are known from their AUCs,
    so those across subgroups must make up the rest, and their AUC is in [0, 1].
    """
    needed = across(whole, group)
    if needed is None or -needed.slack <= needed.auc <= 1 + needed.slack:
        return
    yield _told(
        whole,
        Rule.SUBGROUP_AUC,
        f"AUC {whole.auc:.3f} would need an AUC of {needed.auc:.3f} between the "
        f"subgroups of {group[0].variable}",
    )


class Across(NamedTuple):
    """The AUC that pairs across subgroups must have, and what rounding allows."""

    auc: float
    slack: float


def across(whole: Row, group: Iterable[Row]) -> Across | None:
    """Return which AUC pairs across subgroups must have, None where unknown."""
    pairs, inside = _pair_count(whole), 0.0
    total = pairs
    for each in group:
        own = _pair_count(each)
        if own and each.auc is None:
            return None
        inside += own * (each.auc or 0.0)
        pairs -= own
    if whole.auc is None or pairs <= 0:
        return None
    return Across(
        (whole.auc * total - inside) / pairs, 2 * AUC_ROUNDING * total / pairs
    )


def _pair_count(of: Row) -> int:
    return 0 if of.positives is None else of.positives * (of.n - of.positives)
