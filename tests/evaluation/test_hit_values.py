"""Values from hits: exact on a log of every grid point, by slates as by actions, covered intervals, few false gains."""

import numpy as np
import pytest

from recpolicy.data.tuning_log import TuningFeatures, TuningLog
from recpolicy.evaluation.hit_values import Hits, HitValue, action_hits
from recpolicy.models.ads_world import AdsWorld, AdsWorldConfig
from recpolicy.models.ranking_formula import ActionGrid

STATIC = np.array([1.0, 1.0, 1.0, 0.0])
GRID = ActionGrid(("click", "long_click", "conversion", "reserve"), (0, 0, 1, 2), (0.0,) * 4, (2.0, 2.0, 2.0, 0.8), 3)


def make_log(action, reward, actions, fallback=None, unit=None):
    count, reward = len(action), np.asarray(reward, np.float64)
    features = TuningFeatures(np.zeros((count, 0), np.int32), np.zeros((count, 1), np.float32), ())
    fallback = np.zeros(count, bool) if fallback is None else fallback
    return TuningLog(
        features, np.asarray(action), np.full(count, 1 / actions), reward, reward[:, np.newaxis], ("reward",), fallback,
        actions, unit,
    )  # fmt: skip


@pytest.fixture(scope="module")
def complete():
    """A log with every grid point of 60 requests once, paid by its expected reward, so that values are exact."""
    world = AdsWorld(AdsWorldConfig(ads=5, slate_size=2))
    requests = world.requests(60, np.random.default_rng(0))
    many = requests.take(np.repeat(np.arange(60), GRID.size))
    action = np.tile(np.arange(GRID.size), 60)
    slate, fallback = world.serve(many, GRID.weights(action), STATIC)
    reward = world.expected(many, slate).sum(axis=1)
    share = world.slate_shares(many, slate, GRID, STATIC)
    return world, many, slate, share, make_log(action, reward, GRID.size, fallback)


def test_a_complete_log_gives_the_true_value_of_any_policy_fallbacks_included(complete):
    world, many, slate, share, log = complete
    served = np.repeat(np.random.default_rng(1).integers(GRID.size, size=60), GRID.size)
    shown, fallback = world.serve(many, GRID.weights(served), STATIC)
    assert 0 < fallback.mean() < 1
    truth = world.expected(many, shown).sum(axis=1).mean()
    by_slate = Hits((shown == slate).all(axis=1), share)
    baseline = np.repeat(np.random.default_rng(2).normal(size=60), GRID.size)
    for hits in (action_hits(log, served), by_slate):
        assert HitValue.of_hits(log, hits).value == pytest.approx(truth)
        assert HitValue.of_hits(log, hits, baseline).value == pytest.approx(truth)
    kept = Hits((log.action == served) & ~log.fallback, log.propensity)
    assert abs(HitValue.of_hits(log, kept).value / truth - 1) > 0.02  # leaving fallbacks out is another value
    assert by_slate.effective_count > 2 * action_hits(log, served).effective_count


def test_hits_by_hand():
    # Two grid points of three show slate x, the third y. Policy x: weights 1.5 on rounds 0 and 1, rewards 1 and 3.
    log = make_log([0, 1, 2], [1.0, 3.0, 8.0], 3)
    hits = Hits(np.array([True, True, False]), np.array([2 / 3, 2 / 3, 1 / 3]))
    value = HitValue.of_hits(log, hits)
    assert (value.value, hits.count, hits.effective_count) == (pytest.approx(2.0), 2, pytest.approx(2.0))
    assert value.influence == pytest.approx([-1.5, 1.5, 0.0])  # w / mean w (r - 2)
    other = HitValue.of_hits(log, Hits(~hits.match, hits.propensity))
    assert (other.value, other.effective_count) == (8.0, pytest.approx(1.0))
    assert HitValue.of_hits(log, Hits(np.zeros(3, bool), hits.propensity)).effective_count == 0


def test_unequal_weights_are_worth_fewer_hits():
    hits = Hits(np.array([True, True]), np.array([0.5, 0.01]))
    assert hits.effective_count == pytest.approx(102**2 / (2**2 + 100**2))


def small_world(rng, gain, users=None):
    """Return a log whose policy truly gains `gain` over the static action, with slate and action hits of both.

    Twelve grid points show three slates; which points share one differs by request.
    """
    count, actions = 3_000, 12
    unit = None if users is None else rng.integers(users, size=count)
    group = (np.arange(actions) + rng.integers(actions, size=(count, 1))) % actions // 4  # [N, A], slates of 4 points
    action, served, row = rng.integers(actions, size=count), rng.integers(actions, size=count), np.arange(count)
    static = np.zeros(count, int)
    level = rng.gamma(2.0, 0.5, count if unit is None else users)  # mean 1, differs by request or user
    level = level if unit is None else level[unit]
    shown = group[row, action]
    better = (shown == group[row, served]) & (group[row, served] != group[row, static])
    chance = np.minimum(0.2 * level * (1 + 1.5 * gain * better), 1.0)
    log = make_log(action, rng.random(count) < chance, actions, unit=unit)
    third = np.full(count, 4 / actions)
    by_slate = [Hits(shown == group[row, choice], third) for choice in (served, static)]
    return log, by_slate, [action_hits(log, choice) for choice in (served, static)], level


@pytest.mark.parametrize("users", [None, 150])
def test_intervals_cover_no_gain_and_rarely_show_one(users):
    rng, worlds = np.random.default_rng(3), 200
    inside, false, width = np.zeros((3, worlds)), np.zeros((3, worlds)), np.zeros((3, worlds))
    for world in range(worlds):
        log, by_slate, by_action, level = small_world(rng, 0.0, users)
        for place, (hits, baseline) in enumerate(((by_action, None), (by_slate, None), (by_slate, 0.2 * level))):
            policy, static = (HitValue.of_hits(log, part, baseline) for part in hits)
            lift = policy.relative_to(static, log)
            inside[place, world], false[place, world] = lift.lo <= 0 <= lift.hi, lift.lo > 0
            width[place, world] = lift.hi - lift.lo
    assert (inside.mean(axis=1) > 0.91).all()  # nominal .95, standard error .015
    assert (false.mean(axis=1) < 0.06).all()  # nominal .025, standard error .011
    action, slate, with_baseline = width.mean(axis=1)
    assert slate < 0.6 * action
    assert with_baseline < slate


def test_a_true_gain_is_found_by_slates_and_not_by_actions():
    rng, worlds = np.random.default_rng(4), 60
    found, truth = np.zeros((2, worlds)), []
    for world in range(worlds):
        log, by_slate, by_action, _ = small_world(rng, 0.3)
        for place, hits in enumerate((by_action, by_slate)):
            policy, static = (HitValue.of_hits(log, part) for part in hits)
            lift = policy.relative_to(static, log)
            found[place, world] = lift.lo > 0
        truth.append(lift.value)
    assert found[0].mean() < 0.6 < 0.8 < found[1].mean()
    # A gain of 1.5 * .3 on the two thirds of requests whose slates differ; chances above 1 are cut.
    assert np.mean(truth) == pytest.approx(0.3, abs=0.03)
