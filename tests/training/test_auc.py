import itertools

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from training.statistics.auc import auc, auc_interval, delong_variance


def cases(seed, positives=17, negatives=23, *, ties=True):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(positives, int), np.zeros(negatives, int)]
    scores = rng.normal(size=len(labels)) + labels
    return labels, np.round(scores, 1) if ties else scores


def brute_force(labels, scores):
    """U statistics by counting every pair (DeLong 1988, equations 2 and 3)."""
    x, y = scores[labels == 1], scores[labels == 0]
    psi = np.array([[(a > b) + 0.5 * (a == b) for b in y] for a in x])
    variance = psi.mean(axis=1).var(ddof=1) / len(x) + psi.mean(axis=0).var(
        ddof=1
    ) / len(y)
    return psi.mean(), variance


@pytest.mark.parametrize(
    ("seed", "ties"), list(itertools.product(range(5), [True, False]))
)
def test_midranks_give_what_counting_every_pair_gives(seed, ties):
    labels, scores = cases(seed, ties=ties)
    value, variance = brute_force(labels, scores)

    assert auc(labels, scores) == pytest.approx(value, abs=1e-12)
    assert delong_variance(labels, scores) == pytest.approx(variance, abs=1e-12)


def test_the_value_is_that_of_scikit_learn():
    labels, scores = cases(9)

    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    truth, hits = 0.7602, 0  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for seed in range(400):
        interval = auc_interval(*cases(seed, 40, 60, ties=False))
        hits += interval.low <= truth <= interval.high

    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, 0.0)])
def test_a_perfect_ranking_still_has_an_interval_within_bounds(sign, value):
    labels = np.repeat([0, 1], 10)
    interval = auc_interval(labels, sign * np.arange(20.0))

    assert interval.value == value
    assert 0 <= interval.low < interval.high <= 1
    exact = binomtest(10 if value else 0, 10).proportion_ci(method="exact")
    assert interval[1:] == pytest.approx((exact.low, exact.high))


def test_the_interval_of_a_perfect_ranking_narrows_with_the_smaller_class():
    def low(positives, negatives):
        labels = np.repeat([0, 1], [negatives, positives])
        return auc_interval(labels, np.arange(len(labels))).low

    assert low(3, 500) == pytest.approx(low(500, 3))
    assert low(3, 500) < low(10, 500) < low(60, 500)
    assert low(60, 500) > 0.93


def test_scores_that_are_all_equal_say_nothing():
    labels = np.repeat([0, 1], 10)

    assert auc(labels, np.zeros(20)) == 0.5


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1]])
def test_a_missing_class_or_length_is_refused(labels):
    with pytest.raises(ValueError, match="AUC"):
        auc(labels, [0.1, 0.2, 0.3])


def test_one_case_of_a_class_has_no_variance():
    with pytest.raises(ValueError, match="two cases"):
        delong_variance([0, 0, 1], [0.1, 0.2, 0.3])
