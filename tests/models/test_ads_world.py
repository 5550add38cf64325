"""The synthetic world of ads: what is shown, paid and expected, and the reserve."""

from dataclasses import replace

import numpy as np
import pytest

from recpolicy.models.ads_world import FULL, GROUPED, AdRequests, AdsWorld, AdsWorldConfig

STATIC = np.array([1.0, 1.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def world():
    return AdsWorld(AdsWorldConfig(ads=5, slate_size=2))


@pytest.fixture(scope="module")
def requests(world):
    return world.requests(400, np.random.default_rng(0))


def test_the_grids_have_a_thousand_and_ten_thousand_actions_and_share_their_ends():
    assert (GROUPED.size, FULL.size) == (1_000, 10_000)
    assert GROUPED.weights(999).tolist() == FULL.weights(9_999).tolist()


def test_probabilities_are_nested(requests):
    for chance in (requests.predicted, requests.true):
        assert (chance > 0).all()
        assert (chance < 1).all()
        assert (chance[..., 1] <= chance[..., 0]).all()
        assert (chance[requests.type != 1][:, 2] < 1e-6).all()


def test_drawn_rewards_have_their_expectation(world, requests):
    rng, slate = np.random.default_rng(1), world.serve(requests, np.tile(STATIC, (400, 1)), STATIC)[0]
    expected = world.expected(requests, slate).mean(axis=0)
    drawn = np.stack([world.draw(requests, slate, rng).mean(axis=0) for _ in range(200)])
    assert drawn.mean(axis=0) == pytest.approx(expected, abs=4 * drawn.std(axis=0).max() / np.sqrt(200))


def test_a_reserve_shows_fewer_ads_and_one_above_all_falls_back(world, requests):
    ads = []
    for reserve in (0.0, 0.2, 0.5):
        slate, fallback = world.serve(requests, np.tile([1.0, 1.0, 1.0, reserve], (400, 1)), STATIC)
        ads.append((slate[~fallback] >= 0).sum())
    assert ads[0] > ads[1] > ads[2]
    slate, fallback = world.serve(requests, np.tile([0.0, 0.0, 0.0, 1.1], (400, 1)), STATIC)
    assert fallback.all()
    assert np.array_equal(slate, world.serve(requests, np.tile(STATIC, (400, 1)), STATIC)[0])


def test_enumeration_agrees_with_serving(world, requests):
    few = requests.take(slice(0, 7))
    values = world.action_values(few, GROUPED, STATIC)
    for action in (0, 273, 999):
        slate, _ = world.serve(few, GROUPED.weights(np.full(7, action)), STATIC)
        assert values[:, action] == pytest.approx(world.expected(few, slate), abs=1e-5)


def test_worth_by_hand(world):
    def one(kind):
        base = world.requests(1, np.random.default_rng(0)).take(slice(0, 1))
        ads = {"type": np.array([[kind]], np.int8), "bid": np.array([[2.0]], np.float32)}
        chance = np.array([[[0.5, 0.2, 0.1]]], np.float32)
        appetite, organic = np.array([[1.0, 1.0, 2.0]], np.float32), np.array([0.3], np.float32)
        return replace(base, **ads, predicted=chance, true=chance, appetite=appetite, organic=organic)

    # A fifth of a bid is revenue. Click: .2 * .5 * 2, value .5 + .5 * .2. Conversion: .2 * .1 * 2, value
    # .1 * .5 + .4 * .2 + .5 * .1 * 2. The second place shows organic content of .3.
    slate = np.array([[0, -1]], np.int32)
    assert isinstance(one(0), AdRequests)
    assert world.expected(one(0), slate)[0] == pytest.approx([0.2, 0.9])
    assert world.expected(one(1), slate)[0] == pytest.approx([0.04, 0.53])


def test_the_same_seed_gives_the_same_world():
    first, second = (AdsWorld().requests(10, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.organic, second.organic)


@pytest.mark.parametrize("grid", [GROUPED, FULL], ids=["grouped", "full"])
def test_the_share_of_grid_points_with_the_same_slate_agrees_with_enumeration(world, requests, grid):
    few = requests.take(slice(0, 12))
    action = np.random.default_rng(0).integers(grid.size, size=12)
    slate, fallback = world.serve(few, grid.weights(action), STATIC)
    assert fallback.any()
    assert (slate[~fallback] < 0).any()
    many = few.take(np.repeat(np.arange(12), grid.size))
    every, _ = world.serve(many, np.tile(grid.all_weights, (12, 1)), STATIC)
    same = (every.reshape(12, grid.size, -1) == slate[:, np.newaxis]).all(axis=2)
    assert world.slate_shares(few, slate, grid, STATIC) == pytest.approx(same.mean(axis=1))
