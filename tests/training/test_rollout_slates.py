"""Pages that a policy fills: what is drawn, with what propensity, and which items users like."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
from recpolicy.models.session_world import SessionWorld
from recpolicy.testing import planted_sessions
from recpolicy.testing.synthetic_sessions import ITEMS
from recpolicy.training import rollout_slates as module
from recpolicy.training.rollout_slates import SlateRollout, cascade_clicks, draw, independent_clicks, rollout_slates

PAYING = planted_sessions().world
WORLD = replace(PAYING, known=None)
ACTION_ITEMS = np.arange(1, ITEMS, 2, dtype=np.int32)
"""Every other item, so that arms are no items."""
ARMS = len(ACTION_ITEMS)
SHELVES = np.arange(ARMS, dtype=np.int16) % 3
EVERYTHING = np.arange(ARMS)


def skewed(user, arms, mask):
    """The larger the number of an item, the likelier."""
    weight = np.broadcast_to(1.0 + arms, (len(user), len(arms))) * (1 if mask is None else mask)
    return weight / weight.sum(axis=1, keepdims=True)


def nobody_likes(person, arm, _):
    return np.zeros(arm.shape, bool)


@pytest.mark.parametrize("shelves", [SHELVES, None])
def test_pages_are_filled_as_the_policy_says_and_the_propensity_is_that_of_the_draw(shelves):
    pages = 40_000
    played = rollout_slates(WORLD, skewed, nobody_likes, shelves, (pages, 2), ARMS, 0, False)
    assert set(played.user) <= set(WORLD.users)
    among = EVERYTHING[SHELVES == 0] if shelves is not None else EVERYTHING
    wanted = (1.0 + among) / (1.0 + among).sum()
    found = np.bincount(played.arm[:, 0], minlength=ARMS)[among] / pages
    np.testing.assert_allclose(found, wanted, atol=5 * np.sqrt(0.25 / pages))
    np.testing.assert_allclose(played.log_propensity[:, 0], np.log((1.0 + played.arm[:, 0]) / (1.0 + among).sum()))
    if shelves is not None:
        assert (SHELVES[played.arm] == [0, 1]).all()
    else:
        left = (1.0 + EVERYTHING).sum() - (1.0 + played.arm[:, 0])
        assert (played.arm[:, 0] != played.arm[:, 1]).all()
        np.testing.assert_allclose(played.log_propensity[:, 1], np.log((1.0 + played.arm[:, 1]) / left))


def test_the_mean_of_one_over_the_propensity_counts_the_pages_that_there_are():
    played = rollout_slates(WORLD, skewed, nobody_likes, None, (40_000, 2), ARMS, 1, False)
    weight = np.exp(-played.log_propensity.sum(axis=1))
    error = weight.std() / np.sqrt(len(weight))
    assert abs(weight.mean() - ARMS * (ARMS - 1)) < 4 * error


def chances(played: SlateRollout, world: SessionWorld = WORLD) -> np.ndarray:
    """How likely each item shown [N, K] was to be liked, had it stood alone."""
    person = np.searchsorted(world.users, played.user)
    return 1 / (1 + np.exp(-world.like[person[:, None], ACTION_ITEMS[played.arm]].astype(float)))


def misfit(liked: np.ndarray, chance: np.ndarray, group: np.ndarray) -> float:
    """Mean square of the standardised errors of the groups' likes; about 1 if the chances are right."""
    off, variance = (np.bincount(group, values) for values in (liked - chance, chance * (1 - chance)))
    there = variance > 1
    return float(np.mean(off[there] ** 2 / variance[there]))


def test_who_reads_everything_likes_each_item_with_their_own_chance():
    played = rollout_slates(
        WORLD, skewed, independent_clicks(WORLD, ACTION_ITEMS, 0), SHELVES, (60_000, 3), ARMS, 0, False
    )
    chance = chances(played)
    for group in (np.repeat(played.user, 3), played.arm.ravel()):
        assert misfit(played.liked.ravel(), chance.ravel(), group) < 2
    strangers = chances(played._replace(user=np.roll(played.user, 1)))
    assert misfit(played.liked.ravel(), strangers.ravel(), np.repeat(played.user, 3)) > 5  # negative control
    off = played.liked - chance
    assert np.abs(np.corrcoef(off.T) - np.eye(3)).max() < 4 / np.sqrt(60_000)  # slots do not interact
    assert played.liked.sum(axis=1).max() > 1


def test_real_ratings_that_a_world_pays_decide_who_likes_what():
    played = rollout_slates(
        PAYING, skewed, independent_clicks(PAYING, ACTION_ITEMS, 0), None, (5_000, 2), ARMS, 0, False
    )
    level = PAYING.known[np.searchsorted(PAYING.users, played.user)[:, None], ACTION_ITEMS[played.arm]]
    assert (level >= 0).any()
    np.testing.assert_array_equal(played.liked[level >= 0], level[level >= 0] >= 3)


@pytest.fixture(scope="module")
def in_turn():
    config = SlateConfig(
        slate_size=3, continuation_probability=0.6, batch_size=module.SLATES_PER_BLOCK, max_episode_steps=1
    )
    blind = np.zeros((WORLD.users.max() + 1, 1), np.float32), np.zeros((ITEMS, 1), np.float32)
    browsing_model = cascade_clicks(SlateEnvironment(WORLD, *blind, ACTION_ITEMS, config, 0))
    return rollout_slates(WORLD, skewed, browsing_model, SHELVES, (30_000, 3), ARMS, 0, False)


def test_who_reads_in_turn_likes_at_most_one_item_and_the_first_as_if_it_stood_alone(in_turn):
    assert in_turn.liked.sum(axis=1).max() == 1
    chance = chances(in_turn)[:, 0]
    for group in (in_turn.user, in_turn.arm[:, 0]):
        assert misfit(in_turn.liked[:, 0], chance, group) < 2
    strangers = chances(in_turn._replace(user=np.roll(in_turn.user, 1)))[:, 0]
    assert misfit(in_turn.liked[:, 0], strangers, in_turn.user) > 3  # negative control


def test_patience_keeps_readers_from_the_slots_below(in_turn):
    """The second slot is read by `continuation_probability` of those who did not like the first."""
    alone = chances(in_turn)
    reached = 0.6 * (1 - alone[:, 0])
    bound = (reached * alone[:, 1]).mean()  # misses above bear a little on those below
    assert 0.5 * bound < in_turn.liked[:, 1].mean() < 1.5 * bound
    assert in_turn.liked[:, 2].mean() < in_turn.liked[:, 1].mean()


@pytest.mark.parametrize("pages", [1, module.SLATES_PER_BLOCK, module.SLATES_PER_BLOCK + 1])
def test_the_last_block_may_be_short(pages):
    played = rollout_slates(WORLD, skewed, independent_clicks(WORLD, ACTION_ITEMS, 0), None, (pages, 2), ARMS, 0, False)
    assert played.arm.shape == played.liked.shape == (pages, 2)


def test_the_same_seed_plays_the_same_pages():
    one, other, third = (
        rollout_slates(WORLD, skewed, independent_clicks(WORLD, ACTION_ITEMS, seed), None, (500, 2), ARMS, seed, False)
        for seed in (3, 3, 4)
    )
    for mine, yours in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, yours)
    assert (one.arm != third.arm).any()


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1e-12, 0.25, 3.0]), min_size=4, max_size=4), min_size=1, max_size=5),
    st.floats(0, 1, exclude_max=True),
)
def test_an_arm_of_no_probability_is_never_drawn(rows, point):
    probability = np.array([[*row, 0.5, 0.0] for row in rows])
    arm, log_propensity = draw(probability, np.full(len(rows), point))
    chosen = probability[np.arange(len(rows)), arm]
    assert (chosen > 0).all()
    np.testing.assert_allclose(np.exp(log_propensity), chosen / probability.sum(axis=1))
