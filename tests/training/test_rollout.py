"""Rounds that are logged: the propensities are the probabilities with which the items were drawn."""

import numpy as np
import pytest
from synthetic_choice import environment as masked_environment
from synthetic_world import USERS, planted

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.environments.catalog_bandit import CatalogBandit, CatalogBanditConfig
from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.models.pair_features import PairFeatures
from recpolicy.training.rollout import RoundRollout, rollout_rounds

ACTION_ITEMS = np.array([1, 2, 4, 7, 8, 11], np.int32)
ARMS, MANY = len(ACTION_ITEMS), 60_000


def world(seed: int = 0, batch: int = 8) -> ItemBandit:
    one = planted(known=0.0)
    return ItemBandit(one.world, one.user, ACTION_ITEMS, ItemBanditConfig(batch_size=batch), seed)


def uneven() -> np.ndarray:
    """Probabilities [U, A] between .0005 and .9; every user lacks one arm, the last one included."""
    weight = np.random.default_rng(3).exponential(size=(USERS, ARMS)) ** 3 + 2e-3
    weight[np.arange(USERS), np.arange(USERS) % ARMS] = 0.0
    return weight / weight.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def played() -> RoundRollout:
    return rollout_rounds(world(batch=64), uneven(), MANY, seed=0)


def test_the_propensity_is_the_probability_of_the_arm_to_the_last_bit(played):
    np.testing.assert_array_equal(played.propensity, uneven()[played.user, played.arm])
    assert played.propensity.dtype == np.float64


def test_arms_are_shown_as_often_as_the_propensities_say(played):
    """Per user 1,500 rounds; shares within 5 standard errors, and arms of probability 0 never."""
    count = np.zeros((USERS, ARMS))
    np.add.at(count, (played.user, played.arm), 1)
    rounds = count.sum(axis=1, keepdims=True)
    assert rounds.min() > 1_200
    probability = uneven()
    error = np.sqrt(probability * (1 - probability) / rounds)
    assert (np.abs(count / rounds - probability) <= 5 * error).all()
    assert (count[probability == 0] == 0).all()
    # Of 200 free shares a third are beyond one standard error: the test above is not slack.
    beyond = np.abs(count / rounds - probability)[probability > 0] > error[probability > 0]
    assert 0.2 < beyond.mean() < 0.45


def test_rewards_are_those_of_the_world(played):
    expected = planted(known=0.0).world.expected[:, ACTION_ITEMS][played.user, played.arm]
    gap = played.reward - expected
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(MANY)
    assert set(np.unique(played.reward)) == {1, 2, 3, 4, 5}


def test_weighting_by_propensities_gives_the_value_of_another_policy(played):
    """One that prefers what users like, among the arms that are ever shown; its value within 5 standard errors."""
    expected = planted(known=0.0).world.expected[:, ACTION_ITEMS]
    target = (uneven() > 0) * np.exp(2 * expected)
    target /= target.sum(axis=1, keepdims=True)
    truth = (target * expected).sum(axis=1).mean()
    terms = target[played.user, played.arm] / played.propensity * played.reward
    assert abs(terms.mean() - truth) < 5 * terms.std() / np.sqrt(MANY)
    assert truth - played.reward.mean() > 0.15  # the plain mean is that of the logging policy
    own = uneven()[played.user, played.arm] / played.propensity * played.reward
    assert own.mean() == pytest.approx(played.reward.mean(), rel=1e-6)


def test_a_policy_without_doubt_is_logged_with_propensity_one():
    arm = np.arange(USERS) * 5 % ARMS
    log = rollout_rounds(world(), np.eye(ARMS)[arm], 500, seed=0)
    np.testing.assert_array_equal(log.arm, arm[log.user])
    assert (log.propensity == 1.0).all()


def test_the_seed_fixes_the_log_and_its_length_is_as_asked(played):
    again, other = (rollout_rounds(world(batch=64), uneven(), 777, seed) for seed in (0, 1))
    for name in RoundRollout._fields:
        assert len(getattr(again, name)) == 777
        np.testing.assert_array_equal(getattr(again, name), getattr(played, name)[:777], err_msg=name)
    assert (other.arm != again.arm).mean() > 0.3


def test_a_second_log_of_one_environment_goes_on(played):
    one = world(batch=64)
    first, second = rollout_rounds(one, uneven(), 128, seed=0), rollout_rounds(one, uneven(), 100, seed=0)
    assert int(one.round.numpy()) == 4
    np.testing.assert_array_equal(np.concatenate([first.user, second.user]), played.user[:228])
    np.testing.assert_array_equal(first.arm, played.arm[:128])
    assert (first.arm[:100] != second.arm).mean() > 0.3


def changing() -> CatalogBandit:
    one = planted()
    config = CatalogBanditConfig(max_candidates=ARMS, min_candidates=ARMS)
    return CatalogBandit(one.world, one.user, PairFeatures(one.item, one.offset), config)


@pytest.mark.parametrize("make", [masked_environment, changing])
def test_an_environment_whose_candidates_change_is_refused(make):
    with pytest.raises(ConfigError, match="its candidates change; rounds are logged from a fixed catalog only"):
        rollout_rounds(make(), uneven(), 8, seed=0)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (uneven()[:, 1:], r"probabilities \(40, 5\); expected >= 0 for each of 6 arms"),
        (uneven()[0], r"probabilities \(6,\)"),
        (uneven() - 0.01, "expected >= 0"),
        (np.full((USERS, ARMS), np.nan), "expected >= 0"),
        (uneven() * (1 + 1e-6), "do not sum to 1"),
    ],
)
def test_what_is_no_policy_is_refused(probabilities, message):
    with pytest.raises(DataError, match=message):
        rollout_rounds(world(), probabilities, 8, seed=0)
