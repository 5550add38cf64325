"""UCB1, EXP3 and the baselines: agents that know arms, not contexts."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_choice import ARMS, BATCH, make, misleading_arms, specs

from recpolicy.agents.baselines import BaselineConfig, make_random
from recpolicy.agents.exp3 import EXP3, EXP3Config
from recpolicy.agents.observation import Observation
from recpolicy.agents.ucb1 import UCB1, ArmMeans, UCB1Config, upper_bounds
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in, uniform

UNIT = {"min_reward": 0.0, "max_reward": 1.0}


def somebody(rows: int = 1, mask: np.ndarray | None = None) -> Observation:
    return Observation(tf.zeros([rows, 1]), None, None if mask is None else tf.constant(mask))


def test_ucb1_index_is_the_published_one():
    """xbar .5, n = 10, N = 100 on [0, 1]: .5 + sqrt(2 ln 100 / 10) = 1.459705; on 1..5 the bonus is 4 times that."""
    count, mean = tf.constant([10.0, 90.0, 0.0]), tf.constant([0.5, 0.5, 0.0])
    assert float(upper_bounds(count, mean, 1.0, 1.0)[0]) == pytest.approx(1.459705, abs=1e-6)
    assert float(upper_bounds(count, mean, 1.0, 4.0)[0]) == pytest.approx(0.5 + 4 * 0.959705, abs=1e-5)
    # c = sqrt(2) is the constant 2 in front of sqrt(ln N / n): 1.857228.
    assert float(upper_bounds(count, mean, 2**0.5, 1.0)[0]) == pytest.approx(1.857228, abs=1e-6)
    assert float(upper_bounds(count, mean, 1.0, 1.0)[2]) > 1e8


def test_ucb1_tries_every_arm_once_before_any_twice():
    agent, played = UCB1(ARMS, UCB1Config()), []
    for number in range(ARMS):
        action = agent.sample_action(somebody(), fold_in(tf.constant([1, 2]), number))
        agent.update(somebody(), action, tf.constant([5.0]))
        played.append(int(action[0]))
    assert sorted(played) == list(range(ARMS))
    assert played != sorted(played)  # ties are drawn, not taken in order


@pytest.mark.parametrize("batch", [1, 7])
def test_means_are_means_however_the_rewards_come(batch):
    rng = np.random.default_rng(0)
    action, reward = rng.integers(0, 3, 70).astype(np.int32), rng.uniform(1, 5, 70).astype(np.float32)
    arms = ArmMeans(4, "arms")
    for start in range(0, 70, batch):
        arms.update(tf.constant(action[start : start + batch]), tf.constant(reward[start : start + batch]))
    np.testing.assert_array_equal(arms.count, np.bincount(action, minlength=4))
    np.testing.assert_allclose(arms.mean[:3], [reward[action == arm].mean() for arm in range(3)], rtol=1e-5)
    assert float(arms.mean[3]) == 0


def test_ucb1_keeps_below_its_regret_bound_on_bernoulli_arms():
    """Auer et al. 2002, theorem 1: 8 sum ln n / gap + (1 + pi^2 / 3) sum gap; the mean of 12 plays of 1,000 rounds."""
    probability = np.array([0.9, 0.6, 0.5], np.float32)
    rounds, plays = 1000, 12
    gap = probability.max() - probability
    bound = 8 * np.sum(np.log(rounds) / gap[gap > 0]) + (1 + np.pi**2 / 3) * gap.sum()

    def play(seed: tf.Tensor) -> tf.Tensor:
        def one(t, count, mean, regret):
            arm = tf.argmax(upper_bounds(count, mean, 1.0, 1.0), output_type=tf.int32)
            reward = tf.cast(uniform([], fold_in(seed, t)) < tf.gather(probability, arm), tf.float32)
            chosen = tf.one_hot(arm, 3)
            count += chosen
            return t + 1, count, mean + chosen * (reward - mean) / tf.maximum(count, 1.0), regret + tf.gather(gap, arm)

        return tf.while_loop(lambda t, *_: t < rounds, one, (0, tf.zeros(3), tf.zeros(3), 0.0))[-1]

    seeds = tf.stack([tf.range(plays), tf.range(plays) + 99], axis=1)
    regret = tf.function(lambda s: tf.map_fn(play, s, fn_output_signature=tf.float32))(seeds).numpy()
    assert regret.mean() < bound
    assert regret.mean() < 0.25 * rounds * gap.mean()  # and the bound is not the only thing that it keeps below


@settings(max_examples=30)
@given(
    weights=st.lists(st.floats(-30, 30), min_size=ARMS, max_size=ARMS),
    gamma=st.floats(0.01, 1),
    allowed=st.lists(st.booleans(), min_size=ARMS, max_size=ARMS).filter(any),
)
def test_exp3_probabilities_sum_to_one_and_keep_the_floor(weights, gamma, allowed):
    agent, mask = EXP3(ARMS, EXP3Config(gamma=gamma)), np.array([allowed])
    agent._weight.assign(weights)
    probability = agent.behavior_probabilities(somebody(mask=mask)).numpy()[0]
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    assert probability[mask[0]].min() >= gamma / mask.sum() * (1 - 1e-5)
    np.testing.assert_array_equal(probability[~mask[0]], 0)


def test_exp3_importance_weighting_is_unbiased_by_enumeration():
    """Sum over arms of probability times the change it causes: gamma / A times every arm's reward, none left out."""
    start = np.array([0.0, 0.7, -0.5, 0.2], np.float32)
    reward, gamma = np.array([0.2, 0.9, 0.4, 1.0], np.float32), 0.3
    expected = np.zeros(4)
    for arm in range(4):
        agent = EXP3(4, EXP3Config(gamma=gamma, **UNIT))
        agent._weight.assign(start)
        probability = float(agent.behavior_probabilities(somebody())[0, arm])
        agent.update(somebody(), tf.constant([arm]), tf.constant(reward[arm : arm + 1]))
        change = agent._weight.numpy() - start
        others = change[np.arange(4) != arm]
        np.testing.assert_allclose(others, others[0], atol=1e-6)  # only a common shift
        expected[arm] = probability * (change[arm] - others[0])
    np.testing.assert_allclose(expected, gamma / 4 * reward, rtol=1e-4)


def test_exp3_adds_up_the_gains_of_a_batch():
    agent = EXP3(2, EXP3Config(gamma=0.5, **UNIT))
    agent.update(somebody(3), tf.constant([0, 0, 1]), tf.constant([1.0, 0.5, 0.25]))
    # Each probability is 1/2: the gains are 3 and .5, times gamma / A = 1/4; the difference of the weights is .625.
    weight = agent._weight.numpy()
    assert weight[0] - weight[1] == pytest.approx(0.625)


def test_exp3_weights_stay_finite_where_one_arm_always_pays():
    agent = EXP3(2, EXP3Config(gamma=1.0, **UNIT))
    for _ in range(100):
        agent.update(somebody(64), tf.zeros(64, tf.int32), tf.ones(64))
    assert np.isfinite(agent._weight).all()
    np.testing.assert_allclose(agent.greedy_probabilities(somebody()), [[1, 0]], atol=1e-6)


def test_untried_arms_are_expected_to_pay_the_middle_of_the_scale():
    for agent in (UCB1(ARMS, UCB1Config()), EXP3(ARMS, EXP3Config())):
        agent.update(somebody(), tf.constant([2]), tf.constant([5.0]))
        np.testing.assert_allclose(agent.estimate(somebody(2)).mean, [[3, 3, 5, 3, 3, 3]] * 2)


@pytest.mark.parametrize(
    ("name", "best"), [("popular", [5]), ("highest_mean", [5]), ("rating_model", [0, 2, 3, 4, 5]), ("random", range(6))]
)
def test_baselines_play_what_their_tables_say(name, best):
    """A user of group 1: counts and means grow with the arm, and the tables expect 2.5 of arm 1 and 3 of the others."""
    context = tf.one_hot(tf.fill([BATCH], 1), 4)
    probability = make(name).learner.behavior_probabilities(Observation(context, None, None)).numpy()
    expected = np.zeros(ARMS)
    expected[list(best)] = 1 / len(best)
    np.testing.assert_allclose(probability, np.tile(expected, (BATCH, 1)), atol=1e-6)


def test_arms_give_a_linear_model_the_rating_model_as_its_start():
    prior = misleading_arms().linear_prior(context_width=6, bias=True)  # 4 embedding entries, 2 demographics, a bias
    np.testing.assert_array_equal(prior[:, :4], misleading_arms().embedding)
    np.testing.assert_array_equal(prior[:, 4:6], 0)
    np.testing.assert_array_equal(prior[:, 6], misleading_arms().offset)


@pytest.mark.parametrize(
    ("make_one", "named"),
    [
        (lambda: UCB1(2, UCB1Config(min_reward=2, max_reward=2)), "max_reward"),
        (lambda: EXP3(2, EXP3Config(gamma=0)), "gamma"),
        (lambda: EXP3(2, EXP3Config(gamma=1.5)), "gamma"),
        (lambda: make_random(*specs(), BaselineConfig(), None), "random needs the arms"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make_one, named):
    with pytest.raises(ConfigError, match=named):
        make_one()
