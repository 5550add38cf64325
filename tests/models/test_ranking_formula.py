"""The ranking formula: frozen scaling, grids whose groups share an index, utilities worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.models.ranking_formula import (
    ActionGrid,
    HeadScaling,
    best_items,
    contenders,
    contribution_shares,
    min_max,
    operational_range,
    utility,
)

ADS = ActionGrid(("click", "long_click", "conversion", "reserve"), (0, 0, 1, 2), (0,) * 4, (9, 18, 9, 0.9), 10)


def test_three_groups_of_ten_points_are_a_thousand_distinct_actions_and_the_last_is_999():
    assert ADS.size == 1_000
    assert ADS.digits(999).tolist() == [9, 9, 9]
    assert ADS.digits(273).tolist() == [2, 7, 3]
    assert len(np.unique(ADS.all_weights, axis=0)) == 1_000


def test_members_of_a_group_share_the_index_each_within_its_own_range():
    assert ADS.weights(273) == pytest.approx([2, 4, 7, 0.3])  # click and long_click at 2/9 of 9 and of 18


@given(st.integers(0, 999))
def test_an_action_is_nearest_to_its_own_point_and_weights(action):
    assert (
        ADS.nearest(ADS.unit(action))
        == action
        == ADS.nearest_weights(ADS.weights(action))
        == ADS.action(ADS.digits(action))
    )


def test_points_outside_of_the_cube_go_to_its_edge():
    assert ADS.nearest(np.array([[-3.0, 0.5, 7.0]])).tolist() == [49]  # 0, 4.5 -> 4, 9


def test_a_grid_survives_json():
    assert ActionGrid.from_dict(ADS.as_dict()) == ADS


def test_weights_outside_of_the_grid_unknown_and_missing_ones_are_errors():
    fine = {"click": 2.0, "long_click": 4.0, "conversion": 7.0, "reserve": 0.3}
    assert ADS.check_weights(fine).tolist() == [2.0, 4.0, 7.0, 0.3]
    with pytest.raises(ConfigError, match=r"weight 'click' is 9.5, outside of its grid 0 to 9$"):
        ADS.check_weights(fine | {"click": 9.5})
    with pytest.raises(ConfigError, match=r"no weight named 'clik'\. Did you mean 'click'\?"):
        ADS.check_weights(fine | {"clik": 1.0})
    with pytest.raises(ConfigError, match="no weight of 'reserve'"):
        ADS.check_weights({name: fine[name] for name in ("click", "long_click", "conversion")})


def test_a_grid_of_more_than_ten_thousand_actions_needs_force():
    large = ActionGrid.full(["a", "b", "c", "d", "e"], [0] * 5, [1] * 5, 10)
    with pytest.raises(ConfigError, match=r"10\^5 = 100,000 actions; expected at most 10,000: .* --force"):
        large.check_size()
    large.check_size(force=True)
    ActionGrid.full(["a", "b", "c", "d"], [0] * 4, [1] * 4, 10).check_size()


def test_scaling_is_frozen_so_that_a_value_does_not_depend_on_its_batch():
    scaling = HeadScaling.fit(["a", "b"], np.array([[0.0, 10.0], [4.0, 30.0]]))
    assert scaling.scale(np.array([[1.0, 20.0]])).tolist() == [[0.25, 0.5]]
    assert scaling.scale(np.array([[9.0, 0.0]])).tolist() == [[1.0, 0.0]]  # clipped


def test_equal_bounds_scale_to_zero_and_not_to_nan():
    assert min_max(np.array([[3.0]]), np.array([3.0]), np.array([3.0])).tolist() == [[0.0]]


def test_nan_and_constant_heads_are_named():
    with pytest.raises(DataError, match="head 'b': 1 of 2 values are not finite"):
        HeadScaling.fit(["a", "b"], np.array([[0.0, np.nan], [4.0, 30.0]]))
    with pytest.raises(DataError, match="head 'a' is 4 for every user and item"):
        HeadScaling.fit(["a", "b"], np.array([[4.0, 1.0], [4.0, 30.0]]))


def test_utility_and_slate_by_hand():
    heads = np.array([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])  # [1, 3, 2]
    base = np.array([[0.0, 0.0, 0.5]])
    eligible = np.array([[True, True, False]])
    total = utility(heads, np.array([1.0, 2.0]), base, eligible)
    assert total.tolist() == [[1.0, 1.5, -np.inf]]
    assert best_items(total, 3).tolist() == [[1, 0, -1]]


@given(st.integers(1, 60), st.integers(0, 100))
def test_of_equal_scores_the_first_items_are_chosen(k, seed):
    score = np.random.default_rng(seed).integers(0, 3, (3, 60)).astype(float)
    score[2, 20:] = -np.inf
    first = np.argsort(-score, axis=1, kind="stable")[:, :k]
    assert (best_items(score, k)[:2] == first[:2]).all()
    assert best_items(score, k)[2].tolist() == [item if item < 20 else -1 for item in first[2].tolist()]


@given(st.integers(0, 100), st.booleans())
def test_the_contenders_have_the_same_slates_as_all_items(seed, ties):
    rng = np.random.default_rng(seed)
    heads, grid = rng.random((120, 3), np.float32), ActionGrid.full(["a", "b", "c"], [0.5, -1, 0], [1, 1, 2], 4)
    heads = np.round(heads, 1) if ties else heads
    weights = grid.all_weights.astype(np.float32)
    some = contenders(heads, np.array(grid.low), np.array(grid.high), 4)
    assert 4 <= len(some) < 120
    assert np.array_equal(some[best_items(weights @ heads[some].T, 4)], best_items(weights @ heads.T, 4))


def test_contribution_is_the_share_of_the_utility():
    heads = np.array([[[0.5, 0.25], [0.5, 0.25]]])  # one slate of two items
    assert contribution_shares(heads, np.array([1.0, 2.0])).tolist() == [[0.5, 0.5]]


@given(st.floats(0.05, 0.4), st.floats(0.5, 0.9), st.integers(0, 100))
def test_the_operational_range_keeps_the_contribution_between_its_limits(low, high, seed):
    rng = np.random.default_rng(seed)
    heads, weights = rng.uniform(0.1, 1, (20, 5, 3)), np.array([1.0, 0.5, 2.0])
    for weight, share in zip(operational_range(heads, weights, 1, (low, high)), (low, high), strict=True):
        weights[1] = weight
        assert contribution_shares(heads, weights)[:, 1].mean() == pytest.approx(share, abs=1e-6)
