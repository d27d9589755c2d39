import dcurves
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from training.statistics.decision_curve import decision_curve, net_benefit_difference
from training.statistics.reliability import reliability


def sample(slope=1.0, intercept=0.0, n=3000, seed=0):
    rng = np.random.default_rng(seed)
    chances = expit(rng.normal(-1, 1.2, n))
    truth = expit(slope * logit(chances) + intercept)
    return (rng.random(n) < truth).astype(int), chances


def test_slope_and_intercept_are_those_that_made_the_labels():
    right, steep = reliability(*sample()), reliability(*sample(0.5, -0.4))

    assert right.slope.low < 1 < right.slope.high
    assert right.intercept.low < 0 < right.intercept.high
    assert right.observed_expected.low < 1 < right.observed_expected.high
    assert steep.slope.value == pytest.approx(0.5, abs=0.08)


def test_both_fits_are_the_maximum_of_the_likelihood():
    labels, chances = sample(0.7, 0.3)
    x = logit(chances)
    ours = reliability(labels, chances)

    def loss(at):
        z = at[0] * x + at[1]
        return (np.logaddexp(0, z) - labels * z).mean()

    both = minimize(loss, [1, 0], method="BFGS", options={"gtol": 1e-10}).x
    shift = minimize(lambda b: loss([1, b[0]]), [0], options={"gtol": 1e-10}).x
    assert ours.slope.value == pytest.approx(both[0], abs=1e-6)
    assert ours.intercept.value == pytest.approx(shift[0], abs=1e-6)


def test_brier_scores_and_ratio():
    labels, chances = sample()
    ours, prevalence = reliability(labels, chances), labels.mean()

    assert ours.brier.value == pytest.approx(brier_score_loss(labels, chances))
    assert ours.scaled_brier == pytest.approx(
        1 - ours.brier.value / brier_score_loss(labels, np.full(3000, prevalence))
    )
    assert ours.observed_expected.value == pytest.approx(labels.sum() / chances.sum())


def test_the_curve_holds_every_case_once_and_keeps_ties_together():
    labels, chances = sample(n=101)
    curve = reliability(labels, np.round(chances, 1)).bins

    assert sum(each.observed.n for each in curve) == 101
    assert sum(each.observed.k for each in curve) == labels.sum()
    assert [each.mean for each in curve] == sorted(each.mean for each in curve)
    assert len(reliability(labels, chances).bins) == 10


@pytest.mark.parametrize("chances", [np.full(20, 0.4), np.repeat([0.0, 1.0], 10)])
def test_what_has_no_slope_says_why(chances):
    ours = reliability(np.repeat([0, 1], 10), chances)

    assert ours.slope is None
    assert ours.note
    assert np.isfinite(ours.observed_expected).all()


def test_a_yes_no_reading_has_a_slope_though_its_scores_have_no_logit():
    labels = np.repeat([0, 1, 0, 1], [30, 5, 8, 20])

    assert reliability(labels, np.repeat([0.0, 1.0], [35, 28])).slope is not None


def test_net_benefit_is_that_of_a_second_implementation():
    labels, chances = sample(n=400)
    ours = decision_curve(labels, chances)
    frame = pd.DataFrame({"y": labels, "model": chances})
    theirs = dcurves.dca(
        data=frame, outcome="y", modelnames=["model"], thresholds=ours.thresholds
    ).set_index("model")

    for name, values in (("model", ours.net_benefit), ("all", ours.treat_all)):
        np.testing.assert_allclose(
            theirs.loc[name, "net_benefit"].to_numpy(), values, atol=1e-6
        )
    assert (theirs.loc["none", "net_benefit"] == 0).all()


def test_the_band_holds_the_curve_and_differences_are_differences():
    labels, chances = sample(n=400)
    ours = decision_curve(labels, chances, [0.2, 0.3])
    gain = net_benefit_difference(labels, chances, np.ones(400), 0.2)

    assert (ours.low < ours.net_benefit).all()
    assert (ours.net_benefit < ours.high).all()
    assert gain.value == pytest.approx(ours.net_benefit[0] - ours.treat_all[0])
    assert gain.low < gain.value < gain.high
