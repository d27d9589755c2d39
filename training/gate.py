"""May a challenger take the place of the champion? A pure function of the evidence.

Champion, challenger and anchor are scored on identical held-out cases by the same
preprocessing. The anchor is the first model that was ever approved and never changes,
so that many small losses do not add up. Each check says in a sentence what it found.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from dicom_node.findings import Stage
from training.policy import Policy
from training.power import PowerRow, power_table
from training.statistics.auc import auc, auc_interval, compare
from training.statistics.bootstrap import percentiles, resample
from training.statistics.paired import mcnemar
from training.statistics.reliability import reliability
from worker.manifest import CHANCE_AUC

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_OF_EACH = 2  # a variance needs two
ROUNDING = 1e-12


class Scope(StrEnum):
    """What a failed check forbids: any promotion, or one without a person."""

    ANY = "any"
    AUTOMATIC = "automatic"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition, whether it holds, and the numbers behind it."""

    code: str
    holds: bool
    scope: Scope
    sentence: str
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A model on the held-out cases: probabilities (n,), and its frozen cut-off."""

    reference: str
    probabilities: Floats
    threshold: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What the challenger learned from; `leaked` held-out cases are among them.

    All are None when nothing is known of it.
    """

    cases: int | None = None
    positives: int | None = None
    leaked: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the gate looks at; `labels` (n,) are 0 or 1.

    `groups` name for each case the subgroup that it belongs to, by what divides them.
    `parity` is the largest difference between the scores that were stored when the
    model was made and those of its files now, None when none were stored. `looks`
    counts comparisons on these held-out cases with this one, `promotions` those of the
    last year without a person.
    """

    stage: Stage
    holdout_id: str
    labels: Labels
    challenger: Contender
    champion: Contender | None
    anchor: Contender | None
    groups: Mapping[str, tuple[str, ...]]
    parity: float | None
    learned: Learned
    looks: int
    promotions: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the gate found; `promotable` with a person's signature, or without."""

    stage: Stage
    holdout_id: str
    n: int
    positives: int
    challenger: str
    champion: str | None
    anchor: str | None
    looks: int
    checks: tuple[Check, ...]
    power: tuple[PowerRow, ...]
    policy: Policy

    @property
    def promotable(self) -> bool:
        """Whether a person may promote the challenger."""
        return all(one.holds for one in self.checks if one.scope is Scope.ANY)

    @property
    def automatic(self) -> bool:
        """Whether it may be promoted without a person."""
        return all(one.holds for one in self.checks)

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that forbid a promotion by anybody."""
        return tuple(
            one for one in self.checks if one.scope is Scope.ANY and not one.holds
        )

    def document(self) -> dict[str, Any]:
        """Return the report as plain values, as it is stored and printed."""
        return asdict(self) | {
            "power": [row._asdict() for row in self.power],
            "promotable": self.promotable,
            "automatic": self.automatic,
            "codes": [one.code for one in self.checks if not one.holds],
        }


def judge(evidence: Evidence, policy: Policy) -> Report:
    """Put a challenger to every check of the policy."""
    labels = evidence.labels
    positives = int(labels.sum())
    judgeable = min(positives, len(labels) - positives) >= MIN_OF_EACH
    checks = [_classes(evidence, judgeable=judgeable), _leak(evidence)]
    checks.append(_parity(evidence, policy))
    if judgeable:
        checks += _performance(evidence, policy)
    checks += _without_a_person(evidence, policy)
    return Report(
        stage=evidence.stage,
        holdout_id=evidence.holdout_id,
        n=len(labels),
        positives=positives,
        challenger=evidence.challenger.reference,
        champion=evidence.champion.reference if evidence.champion else None,
        anchor=evidence.anchor.reference if evidence.anchor else None,
        looks=evidence.looks,
        checks=tuple(checks),
        power=_power(evidence, policy) if judgeable else (),
        policy=policy,
    )


def _classes(evidence: Evidence, *, judgeable: bool) -> Check:
    positives = int(evidence.labels.sum())
    negatives = len(evidence.labels) - positives
    return Check(
        "holdout_one_class",
        judgeable,
        Scope.ANY,
        f"The holdout has {positives} positive and {negatives} negative cases; "
        f"{MIN_OF_EACH} of each are the least that can be compared.",
        {"positives": positives, "negatives": negatives},
    )


def _leak(evidence: Evidence) -> Check:
    leaked = evidence.learned.leaked
    if leaked is None:
        sentence = (
            "It is not known which patients the challenger learned from, so held-out "
            "ones may be among them: publish it with its snapshot."
        )
        return Check("lineage_unknown", holds=False, scope=Scope.ANY, sentence=sentence)
    sentence = (
        f"{leaked} held-out cases are of patients, or have the pixels, that the "
        "challenger learned from."
    )
    return Check("holdout_leak", leaked == 0, Scope.ANY, sentence, {"leaked": leaked})


def _parity(evidence: Evidence, policy: Policy) -> Check:
    if evidence.parity is None:
        sentence = "No golden scores were stored with the challenger: publish it again."
        return Check("golden_missing", holds=False, scope=Scope.ANY, sentence=sentence)
    return Check(
        "golden_parity",
        evidence.parity <= policy.parity,
        Scope.ANY,
        f"Read back from disk the challenger scores its golden cases at most "
        f"{evidence.parity:.2g} apart from when it was made "
        f"(allowed {policy.parity:g}).",
        {"difference": evidence.parity, "allowed": policy.parity},
    )


def _performance(evidence: Evidence, policy: Policy) -> Iterator[Check]:
    if evidence.champion is None:
        yield _beats_chance(evidence)
    else:
        yield _not_below(evidence, evidence.champion)
        yield _not_inferior(evidence, evidence.champion, "champion", policy)
        yield _sensitivity(evidence, evidence.champion, policy)
        yield from _subgroups(evidence, evidence.champion, policy)
    if evidence.anchor is not None:
        yield _not_inferior(evidence, evidence.anchor, "anchor", policy)
    yield from _calibration(evidence, policy)


def _beats_chance(evidence: Evidence) -> Check:
    """The rule of a first model: there is nothing to compare it with but chance."""
    area = auc_interval(evidence.labels, evidence.challenger.probabilities)
    return Check(
        "no_better_than_chance",
        area.low > CHANCE_AUC,
        Scope.ANY,
        f"The first model of the stage has AUC {area.value:.3f} (95% CI "
        f"{area.low:.3f}-{area.high:.3f}), which must lie above 0.5.",
        area._asdict(),
    )


def _not_below(evidence: Evidence, champion: Contender) -> Check:
    ours = auc(evidence.labels, evidence.challenger.probabilities)
    theirs = auc(evidence.labels, champion.probabilities)
    return Check(
        "auc_below_champion",
        ours >= theirs - ROUNDING,
        Scope.ANY,
        f"The challenger has AUC {ours:.3f}, the champion {theirs:.3f} on the same "
        f"{len(evidence.labels)} cases; it must not be below.",
        {"challenger": ours, "champion": theirs},
    )


def _not_inferior(
    evidence: Evidence, other: Contender, role: str, policy: Policy
) -> Check:
    found = compare(
        evidence.labels, evidence.challenger.probabilities, other.probabilities
    )
    low = found.value - float(norm.ppf(1 - policy.alpha)) * found.se
    return Check(
        f"auc_inferior_{role}",
        low > -policy.margin,
        Scope.ANY,
        f"Against the {role} {other.reference} the AUC differs by {found.value:+.3f}; "
        f"with {1 - policy.alpha:.0%} confidence (DeLong, one-sided) it is not worse "
        f"by more than {max(-low, 0.0):.3f}, allowed is {policy.margin:g}.",
        {"difference": found.value, "lower": low, "p": found.p},
    )


def _sensitivity(evidence: Evidence, champion: Contender, policy: Policy) -> Check:
    """Compare at each model's own frozen cut-off, on the positive cases."""
    positive = evidence.labels == 1
    ours, theirs = (
        (one.probabilities >= one.threshold)[positive]
        for one in (evidence.challenger, champion)
    )
    test = mcnemar(ours, theirs)
    n = int(positive.sum())
    difference = (test.only_first - test.only_second) / n
    draws = resample(evidence.labels).positives @ (ours.astype(float) - theirs) / n
    interval = percentiles(difference, draws)
    return Check(
        "sensitivity_lower",
        difference >= -policy.sensitivity_drop - ROUNDING,
        Scope.ANY,
        f"At the frozen cut-offs the challenger finds {int(ours.sum())}/{n} positive "
        f"cases, the champion {int(theirs.sum())}/{n}: {difference:+.1%} (bootstrap "
        f"{interval.low:+.1%} to {interval.high:+.1%}, McNemar exact p = "
        f"{test.p:.3f}); a loss of {policy.sensitivity_drop:.0%} is allowed.",
        {
            "difference": difference,
            "low": interval.low,
            "high": interval.high,
            "p": test.p,
        },
    )


def _subgroups(
    evidence: Evidence, champion: Contender, policy: Policy
) -> Iterator[Check]:
    for name, values in evidence.groups.items():
        members = np.array(values)
        for value in sorted(set(values) - {""}):
            rows = members == value
            labels = evidence.labels[rows]
            enough = labels.sum() >= policy.subgroup_positives
            if enough and (labels == 0).sum() >= MIN_OF_EACH:
                ours = auc(labels, evidence.challenger.probabilities[rows])
                theirs = auc(labels, champion.probabilities[rows])
                yield Check(
                    f"subgroup_{name}",
                    theirs - ours <= policy.subgroup_drop + ROUNDING,
                    Scope.ANY,
                    f"In the subgroup {name} {value} (n = {len(labels)}, "
                    f"{int(labels.sum())} positive) the AUC is {ours:.3f}, the "
                    f"champion's {theirs:.3f}; a loss of "
                    f"{policy.subgroup_drop:.2f} is allowed.",
                    {"challenger": ours, "champion": theirs, "n": len(labels)},
                )


def _calibration(evidence: Evidence, policy: Policy) -> Iterator[Check]:
    found = reliability(evidence.labels, evidence.challenger.probabilities)
    low, high = policy.slope
    slope = None if found.slope is None else found.slope.value
    said = found.note or f"The calibration slope is {slope:.2f}"
    yield Check(
        "calibration_slope",
        slope is not None and low <= slope <= high,
        Scope.ANY,
        f"{said}; {low:g} to {high:g} is allowed.",
        {"slope": slope},
    )
    ratio = found.observed_expected.value
    yield Check(
        "calibration_in_the_large",
        abs(ratio - 1) < policy.observed_expected,
        Scope.ANY,
        f"Observed over expected positive cases is {ratio:.2f}; it must be within "
        f"{policy.observed_expected:g} of 1.",
        {"observed_expected": ratio},
    )


def _without_a_person(evidence: Evidence, policy: Policy) -> Iterator[Check]:
    yield Check(
        "sign_off",
        policy.automatic and evidence.champion is not None,
        Scope.AUTOMATIC,
        "A person must sign the promotion off, unless automatic promotion is enabled; "
        "the first model of a stage always needs one.",
    )
    n = len(evidence.labels)
    yield Check(
        "holdout_small",
        n >= policy.automatic_holdout,
        Scope.AUTOMATIC,
        f"The holdout has {n} cases; {policy.automatic_holdout} are needed to promote "
        "without a person. On fewer, weigh the out-of-fold results too.",
        {"n": n},
    )
    yield Check(
        "promotions_used_up",
        evidence.promotions < policy.automatic_promotions,
        Scope.AUTOMATIC,
        f"{evidence.promotions} automatic promotions rest on this holdout within a "
        f"year, {policy.automatic_promotions} are allowed; after them rotate new, "
        f"prospective cases in. It was looked at {evidence.looks} times.",
        {"promotions": evidence.promotions, "looks": evidence.looks},
    )
    if evidence.stage is Stage.NSLN:
        cases = evidence.learned.cases
        known = "an unknown number of" if cases is None else str(cases)
        yield Check(
            "nsln_few",
            cases is not None and cases >= policy.nsln_automatic,
            Scope.AUTOMATIC,
            f"Stage II learned from {known} SLN-positive cases; "
            f"{policy.nsln_automatic} are needed to promote without a person.",
            {"cases": cases},
        )


def _power(evidence: Evidence, policy: Policy) -> tuple[PowerRow, ...]:
    labels = evidence.labels
    reference = evidence.champion or evidence.challenger
    return power_table(
        auc(labels, reference.probabilities), float(labels.mean()), len(labels), policy
    )
