import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from recpolicy.core.errors import DataError
from recpolicy.models.logistic import fit_logistic, sigmoid

RNG = np.random.default_rng(5)
COLUMNS = np.column_stack([np.ones(800), RNG.normal(size=(800, 2))])
TRUTH = np.array([0.3, 1.2, -0.7])
OUTCOME = RNG.random(800) < sigmoid(COLUMNS @ TRUTH)


def test_penalised_weights_are_those_of_scikit_learn():
    other = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1000).fit(COLUMNS, OUTCOME)
    ours = fit_logistic(COLUMNS, OUTCOME, penalty=np.eye(3) / 0.5)
    np.testing.assert_allclose(ours.weight, other.coef_[0], atol=1e-4)


def test_an_offset_takes_the_place_of_a_known_weight():
    free = fit_logistic(COLUMNS, OUTCOME).weight
    rest = fit_logistic(COLUMNS[:, [0, 2]], OUTCOME, offset=free[1] * COLUMNS[:, 1]).weight
    np.testing.assert_allclose(rest, free[[0, 2]], atol=1e-5)


def test_the_truth_lies_within_standard_errors():
    fit = fit_logistic(COLUMNS, OUTCOME)
    errors = (fit.weight - TRUTH) / np.sqrt(np.diag(fit.covariance))
    assert np.abs(errors).max() < 3.5


def test_separable_classes_end_in_finite_weights():
    fit = fit_logistic(np.array([[1.0, -1], [1, -2], [1, 1], [1, 2]]), np.array([False, False, True, True]))
    assert np.isfinite(fit.weight).all()
    assert fit.weight[1] > 3


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        fit_logistic(np.ones((0, 2)), np.ones(0, bool))
