import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_curve,
)
from statsmodels.stats.contingency_tables import mcnemar as reference
from statsmodels.stats.proportion import proportion_confint

from training.statistics.confusion import DEFINITIONS, Counts, Metric, count, rates
from training.statistics.paired import mcnemar
from training.statistics.proportion import clopper_pearson
from training.statistics.roc import precision_recall, roc, youden


def sample(n=200, seed=0):
    rng = np.random.default_rng(seed)
    chances = np.round(rng.random(n), 2)
    return (rng.random(n) < chances).astype(int), chances


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (1, 1), (107, 140), (52, 279)])
def test_the_exact_interval_is_that_of_statsmodels_and_of_the_beta_law(k, n):
    ours = clopper_pearson(k, n)

    assert (ours.low, ours.high) == pytest.approx(
        proportion_confint(k, n, method="beta"), abs=1e-9
    )
    if 0 < k < n:
        assert ours.low == pytest.approx(beta.ppf(0.025, k, n - k + 1), abs=1e-9)


def test_published_clopper_pearson_limits():
    """10 of 10: the one-sided 97.5% bound is 0.025^(1/10)."""
    assert clopper_pearson(10, 10).low == pytest.approx(0.6915, abs=1e-4)
    with pytest.raises(ValueError, match="not a proportion"):
        clopper_pearson(1, 0)


def test_counts_are_those_of_scikit_learn_and_the_threshold_itself_is_high():
    labels, chances = sample()
    at = float(chances[3])
    ours = count(labels, chances, at)

    tn, fp, fn, tp = confusion_matrix(labels, chances >= at).ravel().tolist()
    assert ours == Counts(tp, fp, fn, tn)
    assert count([1], [0.5], 0.5).tp == 1


def test_each_formula_is_what_is_computed():
    counts = Counts(tp=42, fp=148, fn=52, tn=227)
    names = {"TP": 42, "FP": 148, "FN": 52, "TN": 227, "n": 469}
    for metric, found in rates(counts).items():
        formula = DEFINITIONS[metric].formula
        assert found.value == eval(formula, {}, names)  # noqa: S307 - our own text
    assert sum(rates(counts)[m].value for m in (Metric.PPV, Metric.FDR)) == 1


def test_a_rate_of_nobody_is_none():
    assert rates(Counts(0, 0, 3, 5))[Metric.PPV] is None


def test_curves_are_those_of_scikit_learn():
    labels, chances = sample()
    ours, precision = roc(labels, chances), precision_recall(labels, chances)

    fpr, tpr, _ = roc_curve(labels, chances, drop_intermediate=False)
    np.testing.assert_array_equal([ours.fpr, ours.tpr], [fpr, tpr])
    assert np.trapezoid(ours.tpr, ours.fpr) == pytest.approx(ours.auc.value, abs=1e-9)
    np.testing.assert_array_equal(
        precision.precision, precision_recall_curve(labels, chances)[0]
    )
    assert precision.average_precision == average_precision_score(labels, chances)


def test_youden_is_the_best_of_all_cuts_and_says_that_it_is_optimistic():
    labels, chances = sample()
    best = youden(labels, chances)
    found = [rates(count(labels, chances, c)) for c in np.unique(chances)]
    sums = [r[Metric.SENSITIVITY].value + r[Metric.SPECIFICITY].value for r in found]

    own = rates(best.counts)
    assert own[Metric.SENSITIVITY].value + own[Metric.SPECIFICITY].value == max(sums)
    assert "optimistic" in best.note


def test_mcnemar_is_that_of_statsmodels():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 90)) < [[0.7], [0.5]]
    ours = mcnemar(first, second)

    table = [[0, ours.only_first], [ours.only_second, 0]]
    assert ours.p == pytest.approx(reference(table, exact=True).pvalue, abs=1e-12)
    assert mcnemar(first, first).p == 1


def test_mcnemar_of_a_textbook():
    """Agresti: of 59 + 16 discordant pairs the exact p is far below 0.001."""
    first = np.r_[np.ones(6, bool), np.zeros(16, bool)]

    assert mcnemar(first, ~first).p == pytest.approx(0.0525, abs=1e-4)
