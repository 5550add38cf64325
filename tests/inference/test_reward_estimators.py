"""Estimators in NumPy: numbers worked out by hand, and laws; test_save_and_load.py holds them to every agent's own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recpolicy.inference.reward_estimators import ESTIMATORS, PolicyInput, pack_symmetric, quadratic

SITUATION = PolicyInput(
    context=np.array([[1.0, 2.0]]), embedding=np.array([[0.5, 0.0], [0.0, -1.0]]), offset=np.array([3.0, 4.0]),
    rating=np.array([[3.5, 2.0]]),
)  # fmt: skip
EYE = pack_symmetric(np.stack([np.eye(3), 4 * np.eye(3)]))

numbers = st.integers(-16, 16).map(float)


@given(matrices=arrays(float, (3, 4, 4), elements=numbers), x=arrays(float, (2, 4), elements=numbers))
def test_packed_forms_are_the_full_ones(matrices, x):
    positive = matrices @ matrices.transpose(0, 2, 1)
    full = np.einsum("nd,ade,ne->na", x, positive, x)
    np.testing.assert_allclose(quadratic(pack_symmetric(positive), x), full)


def test_packing_keeps_the_upper_triangle_with_doubled_off_diagonals():
    np.testing.assert_array_equal(pack_symmetric(np.array([[[1.0, 2.0], [2.0, 5.0]]])), [[1, 4, 5]])


def test_rounding_never_makes_a_width_of_nothing():
    assert quadratic(pack_symmetric(np.array([[[-1e-9]]])), np.array([[1.0]])) == 0


def test_linear_appends_a_constant_where_it_was_trained_with_one():
    arrays = {"bias": np.array(True), "theta": np.array([[1.0, 1.0, 0.5], [0.0, 1.0, 2.0]]), "covariance": EYE}
    estimate = ESTIMATORS["linear"](arrays, SITUATION)
    np.testing.assert_allclose(estimate.mean, [[3.5, 4.0]])  # 1 + 2 + .5, 2 + 2
    np.testing.assert_allclose(estimate.width, [[6**0.5, 24**0.5]])  # |(1, 2, 1)|^2 = 6
    assert estimate.std_ratio is None


def test_a_warm_start_remembers_how_sure_it_began():
    arrays = {"bias": np.array(True), "theta": np.zeros((2, 3)), "covariance": EYE, "prior_precision": np.array(0.25)}
    # The prior covariance was 4 I: half of the first arm's width is left, all of the second's.
    np.testing.assert_allclose(ESTIMATORS["linear"](arrays, SITUATION).std_ratio, [[0.5, 1.0]])


def test_shared_weighs_products_offset_and_constant():
    arrays = {"theta": np.array([1.0, 1.0, 0.5, 2.0]), "covariance": np.eye(4), "prior_precision": np.array(1.0)}
    estimate = ESTIMATORS["shared"](arrays, SITUATION)
    # z = (.5, 0, 3, 1) and (0, -2, 4, 1)
    np.testing.assert_allclose(estimate.mean, [[4.0, 2.0]])
    np.testing.assert_allclose(estimate.width, [[10.25**0.5, 21**0.5]])
    np.testing.assert_allclose(estimate.std_ratio, 1)


def test_hybrid_without_cross_terms_is_shared_plus_own():
    z_and_x = [10.25 + 6, 21 + 4 * 6]  # squared lengths of z as above; x = (1, 2, 1) under I and 4 I
    arrays = {
        "cross": np.zeros((2, 3, 4)), "beta": np.array([1.0, 1.0, 0.5, 2.0]),
        "center": np.array([[0, 0, 1.0], [1, 0, 0]]),
        "shared_covariance": np.eye(4), "covariance": EYE, "prior_precision": np.array([1.0, 1.0]),
    }  # fmt: skip
    estimate = ESTIMATORS["hybrid"](arrays, SITUATION)
    np.testing.assert_allclose(estimate.mean, [[5.0, 3.0]])
    np.testing.assert_allclose(estimate.width, np.sqrt([z_and_x]))
    np.testing.assert_allclose(estimate.std_ratio, np.sqrt([[1.0, 45 / 27]]))


@pytest.mark.parametrize("estimator", ["linear", "shared", "hybrid"])
def test_without_widths_the_means_are_the_same(estimator):
    square, rng = 3 if estimator == "linear" else 4, np.random.default_rng(0)
    arrays = {
        "bias": np.array(True), "theta": rng.normal(size=(2, 3) if estimator == "linear" else 4),
        "covariance": EYE if estimator != "shared" else np.eye(square), "prior_precision": np.array([1.0, 2.0]),
        "cross": rng.normal(size=(2, 3, 4)), "beta": rng.normal(size=4), "center": rng.normal(size=(2, 3)),
        "shared_covariance": np.eye(4),
    }  # fmt: skip
    whole, quick = (ESTIMATORS[estimator](arrays, replace(SITUATION, widths=widths)) for widths in (True, False))
    assert whole.width is not None
    assert quick.width is quick.std_ratio is None
    np.testing.assert_array_equal(quick.mean, whole.mean)
    np.testing.assert_array_equal(quick.score, whole.score)


def test_layers_are_rectified_between_but_not_after_the_last():
    arrays = {
        "kernel_0": np.array([[1.0, -1.0], [1.0, -1.0]]), "bias_0": np.zeros(2),
        "kernel_1": np.array([[-1.0, 0.0], [5.0, 5.0]]), "bias_1": np.array([0.0, 1.0]),
    }  # fmt: skip
    np.testing.assert_allclose(ESTIMATORS["mlp"](arrays, SITUATION).mean, [[-3.0, 1.0]])  # hidden (3, 0)


def test_dot_product_network_corrects_the_embedding():
    tables = {"embedding": SITUATION.embedding, "offset": SITUATION.offset}
    arrays = {"kernel_0": np.zeros((2, 2)), "bias_0": np.array([2.0, 1.0]), **tables}
    np.testing.assert_allclose(ESTIMATORS["mlp"](arrays, SITUATION).mean, [[4.5, 1.0]])  # (3, 3) on the embeddings


@pytest.mark.parametrize(("given", "greedy_in"), [({}, "mean"), ({"weight": np.array([7.0, 8.0])}, "weight")])
def test_arms_are_greedy_in_weights_where_they_have_them(given, greedy_in):
    arrays = {"mean": np.array([3.0, 4.0]), "width": np.array([0.1, 0.2]), **given}
    np.testing.assert_array_equal(ESTIMATORS["arms"](arrays, SITUATION).score, [arrays[greedy_in]])


def test_baselines_estimate_what_the_rating_model_does_and_choose_by_their_scores():
    estimate = ESTIMATORS["rating_model"]({"score": np.array([9.0, 1.0])}, SITUATION)
    np.testing.assert_array_equal(estimate.mean, SITUATION.rating)
    np.testing.assert_array_equal(estimate.score, [[9.0, 1.0]])
    np.testing.assert_array_equal(ESTIMATORS["rating_model"]({}, SITUATION).score, SITUATION.rating)
