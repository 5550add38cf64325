import numpy as np
import pytest

from recpolicy.core.errors import DataError
from recpolicy.evaluation.rating_accuracy import rating_calibration


def test_bias_and_bins_by_hand():
    # bins of the two lowest and the two highest: off by (1 - 2 + 1 - 4) / 2 = -2 and (5 - 4 + 5 - 4) / 2 = 1
    found = rating_calibration(np.array([1.0, 5, 1, 5]), np.array([2.0, 4, 4, 4]), bins=2)
    assert found.bias == pytest.approx(-0.5)
    assert found.error == pytest.approx((2 + 1) / 2)


def test_calibrated_estimates_have_no_error_however_little_they_tell():
    actual = np.tile([1.0, 5.0], 500)
    assert rating_calibration(np.full(1000, 3.0), actual, bins=1).error == pytest.approx(0)


def test_overconfident_estimates_are_unbiased_but_not_calibrated():
    rng = np.random.default_rng(0)
    truth = rng.uniform(2, 4, 20_000)
    found = rating_calibration(3 + 2 * (truth - 3), truth + rng.normal(0, 0.3, 20_000))
    assert abs(found.bias) < 0.02
    # the estimate is off by |truth - 3|, 1/2 on average; in the middle bins both signs stay apart, too
    assert found.error == pytest.approx(0.5, abs=0.02)


def test_fewer_ratings_than_bins_are_compared_one_by_one():
    assert rating_calibration(np.array([1.0, 2.0]), np.array([2.0, 1.0])).error == pytest.approx(1)


@pytest.mark.parametrize("predicted", [[], [1.0], [np.nan, 1.0]])
def test_what_cannot_be_compared_is_refused(predicted):
    with pytest.raises(DataError, match="rating accuracy"):
        rating_calibration(np.array(predicted), np.array([1.0, 2.0])[: len(predicted) and 2])
