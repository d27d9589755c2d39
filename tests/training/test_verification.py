import numpy as np
import pytest

from training.statistics.verification import verification


def cases(table):
    """(high, label) of each patient; label -1 is unverified."""
    rows = [(high, label) for (high, label), n in table.items() for _ in range(n)]
    return tuple(np.array(column) for column in zip(*rows, strict=True))


HEPATIC = {(1, 1): 231, (1, 0): 32, (1, -1): 166, (0, 1): 27, (0, 0): 54, (0, -1): 140}


def test_the_published_example_of_hepatic_scintigraphy():
    """Drum and Christacopoulos 1972, as corrected by Begg and Greenes 1983."""
    ours = verification(*cases(HEPATIC))

    assert ours.sensitivity.value == pytest.approx(0.895, abs=5e-4)
    assert ours.specificity.value == pytest.approx(0.628, abs=5e-4)
    assert ours.corrected_sensitivity.value == pytest.approx(0.836, abs=6e-4)
    assert ours.corrected_specificity.value == pytest.approx(0.738, abs=6e-4)
    assert (ours.high.k, ours.high.n, ours.low.k, ours.low.n) == (263, 429, 81, 221)
    assert "verification bias" in ours.warning


def test_the_correction_and_its_interval_hold_where_the_naive_rate_fails():
    truth, hits, naive = 0.6, 0, 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        ill = rng.random(900) < 0.3
        high = rng.random(900) < np.where(ill, truth, 0.15)
        seen = rng.random(900) < np.where(high, 0.9, 0.35)
        ours = verification(high, np.where(seen, ill.astype(int), -1))
        hits += (
            ours.corrected_sensitivity.low <= truth <= ours.corrected_sensitivity.high
        )
        naive += ours.sensitivity.low <= truth <= ours.sensitivity.high

    assert 0.91 <= hits / 150 <= 0.99
    assert naive < 15


def test_full_verification_needs_no_correction_and_no_warning():
    ours = verification(*cases({(1, 1): 20, (1, 0): 9, (0, 1): 4, (0, 0): 40}))

    assert ours.corrected_sensitivity.value == pytest.approx(ours.sensitivity.value)
    assert ours.corrected_specificity.value == pytest.approx(ours.specificity.value)
    assert not ours.warning


def test_a_group_without_verified_cases_cannot_be_corrected():
    ours = verification(*cases({(1, 1): 20, (1, 0): 9, (0, -1): 40}))

    assert ours.corrected_sensitivity is None
    assert ours.low.value == 0
    assert "verification bias" in ours.warning
