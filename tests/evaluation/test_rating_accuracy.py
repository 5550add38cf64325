import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import DataError
from recpolicy.evaluation.rating_accuracy import mae, rmse

pairs = st.lists(st.tuples(st.floats(1, 5), st.floats(1, 5)), min_size=1, max_size=50).map(np.array)


def test_both_measures_on_three_ratings():
    # errors -1, 0, 2: squares sum to 5, absolute values to 3
    predicted, actual = np.array([3.0, 4.0, 5.0]), np.array([4.0, 4.0, 3.0])
    assert rmse(predicted, actual) == pytest.approx(np.sqrt(5 / 3), abs=1e-15)
    assert mae(predicted, actual) == 1


def test_estimates_are_neither_rounded_nor_clipped():
    assert mae(np.array([5.75]), np.array([5.0])) == 0.75


def test_rmse_of_the_mean_is_the_standard_deviation():
    actual = np.array([1.0, 2.0, 2.0, 5.0])
    assert rmse(np.full(4, actual.mean()), actual) == pytest.approx(actual.std())


def test_single_precision_estimates_are_compared_in_double():
    actual = np.full(100_000, 3, np.float32)
    predicted = np.full(100_000, 3.1, np.float32)
    assert rmse(predicted, actual) == pytest.approx(float(np.float32(3.1)) - 3, rel=1e-12)


@given(pairs)
def test_mae_is_at_most_rmse_and_order_does_not_matter(rows):
    predicted, actual = rows.T
    assert mae(predicted, actual) <= rmse(predicted, actual) + 1e-12
    assert rmse(predicted[::-1], actual[::-1]) == pytest.approx(rmse(predicted, actual))


@pytest.mark.parametrize("measure", [rmse, mae])
@pytest.mark.parametrize(
    ("predicted", "actual", "message"),
    [
        ([], [], "no ratings to compare"),
        ([3.0, 3.0], [3.0], "one each"),
        ([[3.0]], [[3.0]], "one each"),
        ([3.0, np.nan, np.inf], [3.0, 3.0, 3.0], "2 of 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(measure, predicted, actual, message):
    with pytest.raises(DataError, match=message):
        measure(np.array(predicted), np.array(actual))
