"""Drift statistics by simulation: rarely an alarm without drift, soon one with it."""

import numpy as np
import pytest

from dicom_node.findings import Proportion
from training import drift
from training.drift import (
    ALPHA,
    inputs,
    jointly,
    kolmogorov_smirnov,
    labelled,
    population_stability,
    rate_change,
)
from training.lineage import reference
from worker.manifest import Performance

RUNS = 1000


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("test", [population_stability, kolmogorov_smirnov])
@pytest.mark.parametrize("n", [100, 300])
def test_without_drift_one_window_in_a_hundred_alarms(rng, test, n):
    alarms = [
        test(reference(rng.gamma(3, 5, 500)), rng.gamma(3, 5, n)).alarm
        for _ in range(RUNS)
    ]

    assert np.mean(alarms) == pytest.approx(ALPHA, abs=0.01)


def features(rng, n, shift=0.0, spread=1.0):
    size = rng.gamma(3, 5, n)
    return {
        "roi_mm": size,
        "window_high": 800 * spread + shift + 120 * spread * rng.normal(size=n),
        "crop_mean": 0.4 + 0.05 * rng.normal(size=n),
        "crop_sd": 0.2 + 0.02 * rng.normal(size=n) * spread,
    }


def report(rng, **kind):
    known = {name: reference(v) for name, v in features(rng, 500).items()}
    return jointly(inputs(known, features(rng, 100, **kind)))


def test_a_whole_report_without_drift_alarms_about_once_in_a_hundred(rng):
    alarms = [any(one.alarm for one in report(rng)) for _ in range(300)]

    assert np.mean(alarms) <= 0.03


def test_another_scanner_is_seen_in_one_window(rng):
    seen = [
        any(one.alarm for one in report(rng, shift=150.0, spread=1.2))
        for _ in range(100)
    ]

    assert np.mean(seen) >= 0.95


def test_a_window_that_is_too_small_says_nothing(rng):
    known = {"roi_mm": reference(rng.gamma(3, 5, 500))}

    assert inputs(known, {"roi_mm": rng.gamma(3, 5, 99)}) == []
    assert inputs(known, {"unknown": rng.gamma(3, 5, 200)}) == []


def test_values_that_are_not_numbers_and_constants_do_not_crash(rng):
    known = {"roi_mm": reference(np.full(300, 2.0))}
    window = np.r_[np.full(150, 2.0), np.full(20, np.nan)]

    found = inputs(known, {"roi_mm": window})

    assert [one.alarm for one in found] == [False, False]
    assert {one.n for one in found} == {150}


def test_many_values_are_kept_as_quantiles(rng):
    kept = reference(rng.normal(size=9000))

    assert kept.n == 9000
    assert len(kept.values) == 2000
    assert list(kept.values) == sorted(kept.values)


def test_a_rate_is_compared_exactly():
    assert not rate_change("mri_positive", (40, 100), (400, 1000)).alarm
    assert rate_change("mri_positive", (70, 100), (400, 1000)).alarm
    assert not rate_change("mri_positive", (0, 100), (0, 1000)).alarm


def promised(rng, n=300, separation=1.8):
    labels = np.arange(n) % 4 == 0
    scores = 1 / (1 + np.exp(-(labels * separation - 1.6 + rng.normal(size=n))))
    yes, no = np.sort(scores[labels]), np.sort(scores[~labels])
    return Performance(
        dataset="made up",
        n=n,
        auc=0.9,
        auc_low=0.8,
        auc_high=0.95,
        sensitivity=Proportion.wilson(1, len(yes)),
        specificity=Proportion.wilson(1, len(no)),
        positives=tuple(yes),
        negatives=tuple(no),
    )


def draw(rng, n, separation=1.8):
    p = rng.beta(1, 3, n)
    del separation
    return (rng.random(n) < p).astype(int), p


def test_labels_that_agree_alarm_rarely(rng):
    alarms = []
    for _ in range(500):
        labels, p = draw(rng, 100)
        (ratio, *_) = labelled(labels, p, promised(rng))
        alarms.append(ratio.alarm)

    assert np.mean(alarms) <= 0.02


def test_the_rolling_auc_alarms_when_it_is_lost_and_not_when_it_holds(rng):
    lost, held = [], []
    for _ in range(200):
        labels = np.arange(100) % 4 == 0
        good = 1 / (1 + np.exp(-(labels * 1.8 - 1.6 + rng.normal(size=100))))
        for scores, into in ((good, held), (rng.permutation(good), lost)):
            found = labelled(labels.astype(int), scores, promised(rng))
            (area,) = [one for one in found if one.statistic == "auc"]
            into.append(area.alarm)

    assert np.mean(held) <= 0.04
    assert np.mean(lost) >= 0.95


def test_twice_as_many_positives_as_expected_alarm(rng):
    p = np.full(100, 0.2)
    labels = (np.arange(100) < 40).astype(int)

    (ratio,) = [
        one
        for one in labelled(labels, p, promised(rng))
        if one.statistic == "observed_expected"
    ]

    assert ratio.value == pytest.approx(2.0)
    assert ratio.alarm
    assert "observed 40, expected 20.0" in ratio.detail


def test_only_the_last_hundred_labels_count(rng):
    labels = np.r_[np.ones(500, dtype=int), np.arange(100) % 5 == 0].astype(int)

    found = labelled(labels, np.full(600, 0.2), promised(rng))

    assert {one.n for one in found} == {drift.LABELLED}
