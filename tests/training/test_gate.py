"""The gate is a pure function: each condition is broken by itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from dicom_node.findings import Stage
from training.gate import Contender, Evidence, Learned, judge
from training.policy import POLICY
from training.power import power_table
from training.statistics.auc import compare

AUTOMATIC = replace(POLICY, automatic=True)
N = 400


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """A calibrated champion and a challenger that ranks almost as it does."""
    rng = np.random.default_rng(5)
    truth = rng.normal(-1.4, 1.6, N)
    labels = (rng.random(N) < expit(truth)).astype(np.int64)
    champion = expit(truth + rng.normal(0, 0.1, N))
    challenger = expit(truth)
    size = tuple("<=2" if i % 2 else ">2" for i in range(N))
    return Evidence(
        stage=Stage.SLN,
        holdout_id="0" * 64,
        labels=labels,
        challenger=Contender("new@2", challenger, 0.2),
        champion=Contender("old@1", champion, 0.2),
        anchor=Contender("first@0", champion, 0.2),
        groups={"size": size},
        parity=1e-7,
        learned=Learned(cases=900, positives=250, leaked=0),
        looks=1,
        promotions=0,
    )


def failed(evidence, policy=AUTOMATIC) -> set[str]:
    return {one.code for one in judge(evidence, policy).checks if not one.holds}


def challenger(evidence, probabilities, threshold=0.2) -> Evidence:
    return replace(evidence, challenger=Contender("new@2", probabilities, threshold))


def test_a_better_model_passes_and_every_check_is_a_sentence(evidence):
    report = judge(evidence, AUTOMATIC)

    assert report.promotable
    assert report.automatic
    assert report.refusals == ()
    assert all(one.sentence.endswith(".") for one in report.checks)
    assert {one.code for one in report.checks} >= {
        "auc_below_champion",
        "auc_inferior_champion",
        "auc_inferior_anchor",
        "sensitivity_lower",
        "subgroup_size",
        "calibration_slope",
        "calibration_in_the_large",
        "golden_parity",
        "holdout_leak",
    }


def test_without_a_policy_for_it_a_person_must_sign(evidence):
    report = judge(evidence, POLICY)

    assert report.promotable
    assert not report.automatic
    assert report.document()["codes"] == ["sign_off"]


def test_a_worse_ranking_is_refused_for_each_reason(evidence):
    rng = np.random.default_rng(1)
    worse = expit(
        np.log(
            evidence.challenger.probabilities / (1 - evidence.challenger.probabilities)
        )
        + rng.normal(0, 3, N)
    )
    found = failed(challenger(evidence, worse))

    assert found >= {"auc_below_champion", "auc_inferior_champion"}
    assert "auc_inferior_anchor" in found


def test_a_slow_decline_is_caught_by_the_anchor(evidence):
    """The champion is as bad as the challenger; the first model was better."""
    rng = np.random.default_rng(2)
    poor = expit(np.log(1e-9 + evidence.challenger.probabilities) + rng.normal(0, 3, N))
    declined = replace(
        challenger(evidence, poor), champion=Contender("old@1", poor, 0.2)
    )

    assert "auc_inferior_anchor" in failed(declined)
    assert "auc_inferior_champion" not in failed(declined)


def test_a_higher_cut_off_that_misses_more_is_refused(evidence):
    assert failed(challenger(evidence, evidence.challenger.probabilities, 0.6)) == {
        "sensitivity_lower"
    }


@pytest.mark.parametrize(
    ("factor", "shift", "code"),
    [
        (0.5, 0.0, "calibration_slope"),
        (2.5, 0.0, "calibration_slope"),
        (1.0, 2.0, "calibration_in_the_large"),
        (1.0, -1.0, "calibration_in_the_large"),
    ],
)
def test_probabilities_that_do_not_mean_what_they_say_are_refused(
    evidence, factor, shift, code
):
    p = evidence.challenger.probabilities
    p = expit(factor * np.log(p / (1 - p)) + shift)

    assert code in failed(challenger(evidence, p, threshold=0.0))


def test_a_subgroup_that_loses_is_seen_behind_a_good_whole(evidence):
    p = evidence.challenger.probabilities.copy()
    small = np.array(evidence.groups["size"]) == "<=2"
    p[small] = np.random.default_rng(3).permutation(p[small])
    lost = challenger(evidence, p)

    assert "subgroup_size" in failed(lost)
    policy = replace(AUTOMATIC, subgroup_positives=10_000)
    assert "subgroup_size" not in failed(lost, policy)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"learned": Learned(900, 250, leaked=1)}, "holdout_leak"),
        ({"learned": Learned()}, "lineage_unknown"),
        ({"parity": 1e-3}, "golden_parity"),
        ({"parity": None}, "golden_missing"),
        ({"promotions": 4}, "promotions_used_up"),
    ],
)
def test_each_condition_around_the_scores(evidence, change, code):
    assert failed(replace(evidence, **change)) == {code}


def test_a_small_holdout_needs_a_person(evidence):
    rows = slice(0, 199)
    cut = lambda one: replace(one, probabilities=one.probabilities[rows])  # noqa: E731
    small = replace(
        evidence,
        labels=evidence.labels[rows],
        challenger=cut(evidence.challenger),
        champion=cut(evidence.champion),
        anchor=cut(evidence.anchor),
        groups={},
    )

    assert "holdout_small" in failed(small)


def test_stage_two_waits_for_cases_before_it_promotes_itself(evidence):
    few = replace(
        evidence, stage=Stage.NSLN, learned=Learned(cases=399, positives=99, leaked=0)
    )
    report = judge(few, AUTOMATIC)

    assert report.promotable
    assert failed(few) == {"nsln_few"}


def test_a_first_model_must_beat_chance_and_always_needs_a_person(evidence):
    first = replace(evidence, champion=None, anchor=None)
    chance = challenger(first, np.random.default_rng(4).permutation(
        first.challenger.probabilities
    ))  # fmt: skip

    assert judge(first, AUTOMATIC).promotable
    assert failed(first) == {"sign_off"}
    assert "no_better_than_chance" in failed(chance)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_a_sentence_and_no_crash(evidence, label):
    report = judge(replace(evidence, labels=np.full(N, label)), AUTOMATIC)

    assert not report.promotable
    assert report.refusals[0].code == "holdout_one_class"
    assert report.power == ()


def test_the_power_is_that_of_the_design():
    """AUC .88, prevalence 24%: n=129 60%, n=200 77%, n=300 90%."""
    table = {row.n: row for row in power_table(0.88, 0.24, 129, POLICY)}

    assert table[129].power == pytest.approx(0.60, abs=0.005)
    assert table[200].power == pytest.approx(0.77, abs=0.005)
    assert table[300].power == pytest.approx(0.90, abs=0.005)
    assert table[300].positives == 72


def test_an_equal_challenger_passes_as_often_as_the_power_says():
    """Both rank with the same quality and a correlation near 0.8: 300 cases, 90%."""
    rng = np.random.default_rng(7)
    passed = []
    for _ in range(300):
        labels = np.repeat([1, 0], [72, 228])
        shared = labels * 1.66 + rng.normal(0, np.sqrt(0.8), 300)
        ours, theirs = (shared + rng.normal(0, np.sqrt(0.2), 300) for _ in "ab")
        found = compare(labels, ours, theirs)
        passed.append(found.value - 1.645 * found.se > -POLICY.margin)

    assert 0.84 <= np.mean(passed) <= 0.96
