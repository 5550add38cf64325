"""`compare_in_sessions`: paired sessions of two policies, of either kind, in the evaluation world."""

import numpy as np
import pytest
from randomized_policies import policy
from trained_policies import loaded, miniature_split

from recpolicy.core.errors import ConfigError
from recpolicy.evaluation.groups import make_groups
from recpolicy.workflows.session_comparison import GREEDY_RATING_MODEL, compare_in_sessions


@pytest.fixture(scope="module")
def against_linucb():
    return compare_in_sessions(policy("ppo", "last_n"), loaded("linucb"), miniature_split())


def test_without_an_incumbent_the_baseline_is_the_greedy_rating_model():
    """A policy of chance loses to it: the negative control."""
    result = compare_in_sessions(loaded("random"), None, miniature_split())
    assert result.baseline == GREEDY_RATING_MODEL
    assert result.gain.hi < 0


def test_the_gain_is_paired_and_has_no_preferred_side(against_linucb):
    other = compare_in_sessions(loaded("linucb"), policy("ppo", "last_n"), miniature_split())
    np.testing.assert_allclose(other.gain_by_user, -against_linucb.gain_by_user)
    assert against_linucb.gain.value == pytest.approx(against_linucb.reward.value - other.reward.value)
    assert against_linucb.gain.hi - against_linucb.gain.lo < against_linucb.reward.hi - against_linucb.reward.lo


def test_a_policy_gains_nothing_over_itself():
    same = policy("dqn", "last_item")
    assert compare_in_sessions(same, same, miniature_split()).gain_by_user.tolist() == [0.0] * 30


def test_groups_and_chosen_users_partition_the_sessions(against_linucb):
    users = len(miniature_split().train.users)
    half = np.arange(users) % 2 == 0
    first, second = (
        compare_in_sessions(policy("ppo", "last_n"), loaded("linucb"), miniature_split(), users=chosen)
        for chosen in (half, ~half)
    )
    assert first.users + second.users == against_linucb.users
    both = np.concatenate([first.gain_by_user, second.gain_by_user])
    assert sorted(both) == sorted(against_linucb.gain_by_user)
    split = miniature_split()
    groups = make_groups(split.train.users, np.bincount(split.train.user, minlength=users))
    figures = against_linucb.group_gains(groups)
    parts = [figures[name] for name in ("fewer ratings", "more ratings") if name in figures]
    assert sum(part.users for part in parts) <= against_linucb.users
    with pytest.raises(ConfigError, match="none of the evaluation world's users counts"):
        compare_in_sessions(policy("ppo", "last_n"), None, split, users=np.zeros(users, bool))


def test_one_list_for_all_users_has_the_diversity_of_one_item():
    """A session never repeats an item, so its steps are described apart."""
    split = miniature_split()
    items = len(loaded("highest_mean").artifact.action_items)
    same = compare_in_sessions(loaded("highest_mean"), None, split).actions
    assert same.actions == items
    assert same.diversity < 3 / items  # nearly one item a step; responses end sessions at different steps only
    assert compare_in_sessions(loaded("random"), None, split).actions.diversity > 10 / items
