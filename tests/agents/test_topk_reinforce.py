"""Top-K off-policy REINFORCE: weights, the multiplier, fixed points, the behavior head."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from session_blocks import block, gradients, make, rounds, small_specs

from recpolicy.agents.actor_critic import flatten
from recpolicy.agents.categorical import log_probability
from recpolicy.agents.topk_reinforce import (
    TopKReinforceConfig,
    effective_share,
    importance,
    make_topk_reinforce,
    top_k_multiplier,
    transform_weights,
)
from recpolicy.core.errors import ConfigError

SEED = tf.constant([1, 1], tf.int32)
UNCLIPPED = 1e6
TEN = np.arange(1, 11)
BETA = (11 - TEN) / 55
"""Of ten items the behavior shows those most that pay least: item i pays i."""


def bandit(actions: int, **given):
    """A trunk that is 0, so that the heads' biases are all there is: a table of logits."""
    plain = {
        "layers": (1,),
        "head": "plain",
        "baseline": False,
        "ent_coef": 0.0,
        "n_epochs": 1,
        "max_weight": UNCLIPPED,
    }
    agent = make_topk_reinforce(*small_specs(1, actions), TopKReinforceConfig(**(plain | given)))
    bias = agent.learner._policy.network.trainable_variables[-1]
    bias.assign(np.zeros(actions, np.float32))
    return agent, bias


def policy_of(bias: tf.Variable) -> np.ndarray:
    return tf.nn.softmax(bias).numpy()


def shown(counts: np.ndarray, reward: np.ndarray):
    """Every action as often as its count says, logged with that share: means over the block are expectations."""
    action = np.repeat(np.arange(len(counts)), counts)
    return rounds(action, reward[action].astype(np.float32), np.log(counts / counts.sum())[action], len(counts))


def learn_until_still(agent, played) -> None:
    """As many gradient steps as the agent takes passes over a block."""
    tf.function(agent.learner.update, autograph=False)(played, SEED)


FOLLOWING = TEN * BETA / np.sum(TEN * BETA)
"""Where the policy ends that takes logged pairs as they come: pi = r beta / sum r beta."""


def test_uncorrected_the_policy_that_follows_the_behavior_has_no_gradient_left():
    """With all weights at the same limit nothing is corrected."""
    expected = [0.045, 0.082, 0.109, 0.127, 0.136, 0.136, 0.127, 0.109, 0.082, 0.045]
    np.testing.assert_allclose(FOLLOWING, expected, atol=6e-4)
    agent, bias = bandit(10, max_weight=1e-3)
    played = shown(11 - TEN, TEN)
    assert np.abs(gradients(agent, played)[id(bias)]).max() > 1e-5
    bias.assign(np.log(FOLLOWING).astype(np.float32))
    np.testing.assert_allclose(gradients(agent, played)[id(bias)], 0, atol=1e-7)


def test_uncorrected_it_ends_where_the_behavior_leads():
    agent, bias = bandit(10, max_weight=1e-3, learning_rate=0.05, n_epochs=600, max_grad_norm=0.0)
    learn_until_still(agent, shown(11 - TEN, TEN))
    np.testing.assert_allclose(policy_of(bias), FOLLOWING, atol=0.003)


def test_corrected_it_goes_to_the_best_item_whatever_the_behavior():
    agent, bias = bandit(10, learning_rate=0.05, n_epochs=400)
    learn_until_still(agent, shown(11 - TEN, TEN))
    assert policy_of(bias)[-1] > 0.97


@pytest.mark.parametrize(("k", "expected"), [(1, [1.0, 0.0]), (2, [10 / 19, 9 / 19])])
def test_for_a_slate_of_two_it_splits_between_the_two_best(k, expected):
    """10 lambda(p1) = 9 lambda(p2) with lambda = 2 (1 - p) and p1 + p2 = 1."""
    reward = np.array([10, 9] + [1] * 8)
    agent, bias = bandit(10, k=k, learning_rate=0.05, n_epochs=600)
    learn_until_still(agent, shown(np.ones(10, int), reward))
    np.testing.assert_allclose(policy_of(bias)[:2], expected, atol=0.03)


def alpha(logits: np.ndarray, k: int) -> np.ndarray:
    """The chance that each item is in a slate of k draws, in float64."""
    weight = np.exp(logits - logits.max())
    return 1 - (1 - weight / weight.sum()) ** k


@pytest.mark.parametrize("k", [1, 2, 3, 16])
def test_the_multiplier_gives_the_gradient_of_the_expected_slate_reward(k):
    """sum_a pi lambda_K r (1[a] - pi) against finite differences of sum_a r alpha_a, all in float64."""
    rng = np.random.default_rng(k)
    logits, reward = rng.normal(size=6), rng.normal(size=6)
    probability = alpha(logits, 1)
    weighted = probability * reward * top_k_multiplier(tf.constant(probability, tf.float64), k).numpy()
    found = weighted - probability * weighted.sum()
    h = 1e-5
    expected = [
        (reward @ alpha(logits + step, k) - reward @ alpha(logits - step, k)) / (2 * h) for step in h * np.eye(6)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_multiplier_goes_from_k_to_0():
    np.testing.assert_allclose(top_k_multiplier(tf.constant([0.0, 1.0, 0.5]), 4), [4, 0, 0.5])
    np.testing.assert_array_equal(top_k_multiplier(tf.constant([0.0, 1.0, 0.5]), 1), 1)


probabilities = st.lists(st.floats(0.02, 1), min_size=3, max_size=3).map(lambda p: np.array(p) / np.sum(p))
rewards = st.lists(st.floats(-5, 5), min_size=3, max_size=3).map(np.array)


@settings(max_examples=100)
@given(own=probabilities, behavior=probabilities, reward=rewards)
def test_uncapped_weights_are_unbiased_for_the_on_policy_gradient(own, behavior, reward):
    """Every action of a three-armed bandit, weighted by how often it is logged, in float64."""
    weight = importance(tf.constant(np.log(own)), tf.constant(np.log(behavior)))
    weight = transform_weights(weight, tf.ones(3, tf.float64), "clipped", UNCLIPPED).numpy()
    slope = np.eye(3) - own  # row a: d log pi(a) / d logits
    off_policy = (behavior * weight * reward) @ slope
    on_policy = (own * reward) @ slope
    np.testing.assert_allclose(off_policy, on_policy, atol=1e-9)


@pytest.mark.parametrize("k", [1, 3])
def test_the_agents_gradient_off_policy_is_that_on_policy(k):
    """Logged by (.5, .3, .2), enumerated; at another policy: minus p lambda (r - ...)."""
    own, reward = np.array([0.1, 0.2, 0.7]), np.array([2.0, -1.0, 1.0])
    agent, bias = bandit(3, k=k)
    bias.assign(np.log(own).astype(np.float32))
    weighted = own * k * (1 - own) ** (k - 1) * reward
    found = gradients(agent, shown(np.array([5, 3, 2]), reward))[id(bias)]
    np.testing.assert_allclose(found, -(weighted - own * weighted.sum()), atol=1e-6)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), limit=st.floats(0.1, 50))
def test_clipped_weights_are_at_most_the_limit_and_others_untouched(seed, limit):
    raw = np.exp(np.random.default_rng(seed).normal(0, 3, 20)).astype(np.float32)
    transformed = transform_weights(tf.constant(raw), tf.ones(20), "clipped", limit).numpy()
    assert (transformed <= np.float32(limit)).all()
    np.testing.assert_array_equal(transformed[raw < limit], raw[raw < limit])


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_self_normalized_weights_sum_to_their_number(seed):
    rng = np.random.default_rng(seed)
    raw, counts = np.exp(rng.normal(0, 3, 20)).astype(np.float32), rng.integers(0, 2, 20).astype(np.float32)
    counts[0] = 1
    every = transform_weights(tf.constant(raw), tf.ones(20), "self_normalized", 1.0).numpy()
    assert every.sum() == pytest.approx(20, rel=1e-4)
    np.testing.assert_allclose(every / every[0], raw / raw[0], rtol=1e-4)
    some = transform_weights(tf.constant(raw), tf.constant(counts), "self_normalized", 1.0).numpy()
    assert (counts * some).sum() == pytest.approx(counts.sum(), rel=1e-4)


def test_weights_that_would_overflow_stay_finite():
    assert np.isfinite(importance(tf.constant([0.0]), tf.constant([-1e9]))).all()


def test_effective_share():
    assert float(effective_share(tf.constant([2.0, 2.0, 2.0, 2.0]))) == pytest.approx(1)
    assert float(effective_share(tf.constant([1.0, 0.0, 0.0, 0.0]))) == pytest.approx(0.25)


def test_what_is_capped_and_what_remains_is_reported():
    """Logged with 1/3 each, own (.8, .1, .1): weights 2.4, .3, .3, of which one exceeds 2."""
    agent, bias = bandit(3, max_weight=2.0)
    bias.assign(np.log([0.8, 0.1, 0.1]).astype(np.float32))
    told = agent.learner.update(shown(np.ones(3, int), np.ones(3)), SEED)
    assert float(told["clipped_share"]) == pytest.approx(1 / 3)
    assert float(told["effective_share"]) == pytest.approx(1 / (0.8**2 + 0.1**2 + 0.1**2) / 3, rel=1e-4)


@pytest.fixture
def agent():
    """With weights everywhere: the dot heads start at 0, which would let no gradient through to the trunk."""
    return make("topk_reinforce", tables=False, n_epochs=1)


def trunk_gradients(agent, played) -> list[np.ndarray]:
    found = gradients(agent, played)
    return [found[id(weight)] for weight in agent.learner._trunk.trainable_variables]


@pytest.mark.parametrize("behavior", ["logged", "head"])
def test_the_behavior_heads_loss_has_no_gradient_in_the_trunk(behavior):
    agent = make("topk_reinforce", tables=False, n_epochs=1, behavior=behavior)
    learner, played = agent.learner, block(8)
    with tf.GradientTape() as tape:
        scores = learner.behavior_scores(flatten(played.observation), flatten(played.mask))
        loss = -tf.reduce_mean(log_probability(scores, flatten(played.action)))
    trunk, head = learner._trunk.trainable_variables, learner._behavior.network.trainable_variables
    found = tape.gradient(loss, [*trunk, *head])
    assert all(part is None for part in found[: len(trunk)])
    assert all(np.abs(part).max() > 0 for part in found[len(trunk) :])


def test_perturbing_the_behavior_head_leaves_the_trunks_gradients_alone(agent):
    played = block(8)
    before = trunk_gradients(agent, played)
    for weight in agent.learner._behavior.network.trainable_variables:
        weight.assign_add(np.random.default_rng(0).normal(size=weight.shape).astype(np.float32))
    after = trunk_gradients(agent, played)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(one).max() > 0 for one in before)


def test_unrewarded_steps_teach_the_behavior_head_and_not_the_policy():
    agent, bias = bandit(3, learning_rate=0.05, n_epochs=300)
    counts = np.array([5, 3, 2])
    played = shown(counts, np.zeros(3))
    learn_until_still(agent, played)
    np.testing.assert_array_equal(bias, 0)
    found = tf.nn.softmax(agent.learner.behavior_scores(tf.zeros([1, 1]), None)).numpy()[0]
    np.testing.assert_allclose(found, counts / 10, atol=0.01)


def test_the_behavior_head_can_stand_in_for_the_logged_probability():
    """Once it has learnt them, wrong logs do no harm: the gradient is that with the true ones."""
    counts, reward = np.array([5, 3, 2]), np.array([2.0, -1.0, 1.0])
    found = []
    for behavior in ("logged", "head"):
        agent, bias = bandit(3, behavior=behavior)
        head = agent.learner._behavior.network.trainable_variables[-1]
        head.assign(np.log(counts / 10).astype(np.float32))
        played = shown(counts, reward)
        if behavior == "head":
            played = played._replace(log_probability=played.log_probability - 1.0)
        found.append(gradients(agent, played)[id(bias)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_only_first_sessions_count():
    """What follows the first end in a column changes nothing; the last of 8 steps does here."""
    first, second = block(8, 0, ends=0.0), block(8, 1, ends=0.0)
    terminated = np.zeros((8, 8), bool)
    terminated[3] = True
    first = first._replace(terminated=tf.constant(terminated))
    mixed = tf.nest.map_structure(lambda one, other: tf.concat([one[:4], other[4:]], axis=0), first, second)
    agent = make("topk_reinforce", tables=False)
    before, after = gradients(agent, first), gradients(agent, mixed)
    for one, other in zip(before.values(), after.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    changed = gradients(agent, first._replace(reward=1.0 - first.reward))
    assert any(not np.allclose(before[key], changed[key]) for key in before)


def test_later_passes_over_a_block_are_off_policy():
    """After one pass the policy has moved: the weights are 1 at first and not after."""
    agent = make("topk_reinforce", tables=False, n_epochs=1, learning_rate=0.05)
    played = block(8)
    own = log_probability(
        agent.learner.scores(flatten(played.observation), flatten(played.mask)), flatten(played.action)
    )
    played = played._replace(log_probability=tf.reshape(own, [8, 8]))
    first = float(agent.learner.update(played, SEED)["effective_share"])
    assert first == pytest.approx(1, abs=1e-4)
    assert float(agent.learner.update(played, SEED)["effective_share"]) < 0.999


@pytest.mark.parametrize("wrong", [{"gamma": 2.0}, {"k": 0}, {"n_epochs": 0}, {"max_weight": 0.0}, {"ent_coef": -1.0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TopKReinforceConfig(**wrong)


def test_heads_without_a_trunk_are_refused():
    with pytest.raises(ConfigError, match="layers"):
        make("topk_reinforce", layers=())
