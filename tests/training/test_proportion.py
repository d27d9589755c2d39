import pytest
from scipy.stats import binomtest

from dicom_node.findings import Proportion


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 7), (97, 140), (379, 519)]
)
def test_the_interval_is_that_of_scipy(k, n):
    ours = Proportion.wilson(k, n)
    theirs = binomtest(k, n).proportion_ci(method="wilson")

    assert ours.value == k / n
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (2, 1), (-1, 3)])
def test_what_is_no_proportion_is_refused(k, n):
    with pytest.raises(ValueError, match="not a proportion"):
        Proportion.wilson(k, n)
