"""DeLong's paired test against MLstatkit and the bootstrap; the bootstrap itself."""

import numpy as np
import pytest
from MLstatkit import Delong_test
from sklearn.metrics import brier_score_loss, roc_auc_score

from training.statistics import bootstrap
from training.statistics.auc import (
    AucCases,
    compare,
    compare_means,
    compare_unpaired,
    delong_variance,
)


def readings(seed, positives=40, negatives=70, *, ties=False):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(positives, int), np.zeros(negatives, int)]
    shared = rng.normal(size=len(labels)) + labels
    scores = [1 / (1 + np.exp(-shared - rng.normal(size=len(labels)))) for _ in "ab"]
    return labels, *(np.round(s, 1) if ties else s for s in scores)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_paired_test_is_that_of_a_second_implementation(seed, ties):
    labels, first, second = readings(seed, ties=ties)
    ours = compare(labels, first, second)
    z, p = Delong_test(labels, second, first, return_ci=False, return_auc=False)[:2]

    assert ours.z == pytest.approx(z, abs=1e-6)
    assert ours.p == pytest.approx(p, abs=1e-6)
    assert ours.value == pytest.approx(
        roc_auc_score(labels, first) - roc_auc_score(labels, second)
    )


def test_a_difference_has_the_sign_of_the_first():
    labels, first, second = readings(1)
    ours, turned = compare(labels, first, second), compare(labels, second, first)

    assert ours.value == -turned.value
    assert ours.p == turned.p
    assert ours.low == pytest.approx(-turned.high)


def test_the_same_ranking_twice_is_no_difference():
    labels, first, _ = readings(2)

    assert compare(labels, first, first**3)[:1] + compare(labels, first, first)[3:] == (
        0.0,
        0.0,
        1.0,
    )


def test_means_are_compared_by_the_contrast_of_all_aucs():
    """DeLong's L S L' of four AUCs, their covariance written out pair by pair."""
    labels, a, b = readings(8)
    _, c, d = readings(9)
    scores, weights = [a, c, b, d], np.array([0.5, 0.5, -0.5, -0.5])
    truth = labels == 1
    wins = np.array(
        [
            (s[truth][:, None] > s[~truth]) + 0.5 * (s[truth][:, None] == s[~truth])
            for s in scores
        ]
    )
    covariance = (
        np.cov(wins.mean(2)) / truth.sum() + np.cov(wins.mean(1)) / (~truth).sum()
    )
    ours = compare_means(labels, [(a, b), (c, d)])

    assert ours.value == pytest.approx(weights @ wins.mean((1, 2)))
    assert ours.se**2 == pytest.approx(weights @ covariance @ weights)


def test_no_pair_is_no_comparison():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_means([0, 1], [])


def test_unpaired_groups_add_their_variances():
    one, two = readings(3)[:2], readings(4)[:2]
    ours = compare_unpaired(AucCases(*one), AucCases(*two))

    assert ours.se**2 == pytest.approx(delong_variance(*one) + delong_variance(*two))


def test_the_bootstrap_agrees_with_delong():
    labels, first, second = readings(5, 150, 250)
    delong = compare(labels, first, second)
    drawn = bootstrap.auc_difference(labels, first, second)

    assert drawn.value == pytest.approx(delong.value)
    assert drawn.high - drawn.low == pytest.approx(delong.high - delong.low, rel=0.1)


def test_a_resample_counts_what_drawing_rows_counts():
    labels, first, _ = readings(6, 7, 9, ties=True)
    drawn = bootstrap.resample(labels, times=20, seed=3)
    for i, auc in enumerate(drawn.auc(first)):
        times = np.r_[drawn.positives[i], drawn.negatives[i]].astype(int)
        rows = np.repeat(np.arange(16), times)
        assert len(rows) == 16
        assert auc == pytest.approx(roc_auc_score(labels[rows], first[rows]))
        assert drawn.mean(first)[i] == pytest.approx(first[rows].mean())


def test_a_seed_fixes_the_interval():
    labels, first, second = readings(7)

    assert bootstrap.brier(labels, first) == bootstrap.brier(labels, first)
    assert bootstrap.brier(labels, first) != bootstrap.brier(labels, first, seed=2)
    assert bootstrap.brier(labels, first).value == pytest.approx(
        brier_score_loss(labels, first)
    )
    difference = bootstrap.brier_difference(labels, first, second)
    assert difference.low < difference.value < difference.high
