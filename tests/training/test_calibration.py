import numpy as np
import pytest

from training.statistics.calibration import fit_platt, threshold_at_sensitivity


def sample(slope, intercept, n=20_000):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, n)
    chance = 1 / (1 + np.exp(-(slope * logits + intercept)))
    return (rng.random(n) < chance).astype(np.int64), logits


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -1.5), (2.5, 1.0)])
def test_the_curve_that_made_the_labels_comes_back(slope, intercept):
    fitted = fit_platt(*sample(slope, intercept))

    assert fitted.slope == pytest.approx(slope, rel=0.05)
    assert fitted.intercept == pytest.approx(intercept, abs=0.06)


def test_separable_cases_keep_a_finite_slope():
    labels = np.repeat([0, 1], 20)
    fitted = fit_platt(labels, np.where(labels == 1, 5.0, -5.0))

    assert fitted.slope < 2
    assert fitted.probability(5.0) == pytest.approx(21 / 22, abs=1e-3)


def test_a_ranking_is_never_turned_around():
    labels, logits = sample(-1.0, 0.0)

    assert fit_platt(labels, logits).slope > 0


def test_one_class_cannot_be_calibrated():
    with pytest.raises(ValueError, match="both classes"):
        fit_platt(np.zeros(5, np.int64), np.arange(5.0))


@pytest.mark.parametrize("sensitivity", [0.5, 0.9, 1.0])
def test_the_threshold_is_the_highest_that_reaches_the_sensitivity(sensitivity):
    labels, logits = sample(1.0, 0.0, n=500)
    probabilities = 1 / (1 + np.exp(-logits))
    threshold = threshold_at_sensitivity(labels, probabilities, sensitivity)
    found = probabilities[labels == 1]

    assert (found >= threshold.value).mean() >= sensitivity
    assert (found > threshold.value).mean() < sensitivity
    assert f"{sensitivity:.0%}" in threshold.how
