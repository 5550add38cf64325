"""The off-policy actor-critic: its gradients, the dial, its heads and targets, and settings that cannot be."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import block, gradients, make, observations, rounds, small_specs

from recpolicy.agents.categorical import log_probability
from recpolicy.agents.experience import flatten
from recpolicy.agents.offpolicy_actor_critic import OffPolicyActorCriticConfig, make_offpolicy_actor_critic
from recpolicy.agents.topk_reinforce import TopKReinforceConfig, make_topk_reinforce
from recpolicy.core.errors import ConfigError

SEED = tf.constant([1, 1], tf.int32)
UNCLIPPED = 1e6
LOGITS = np.array([0.2, -0.1, 0.4, 0.0], np.float32)
REWARD = np.array([0.5, 0.4, 0.3, 0.9])
COUNTS = np.array([5, 3, 2, 0])
"""The log never shows the last of four items."""
PLAIN = {"layers": (1,), "head": "plain", "ent_coef": 0.0, "max_weight": UNCLIPPED, "gamma": 0.0}
TABLE = {"dueling": False}
"""A bias of a critic is then the value of an item."""


def bias_of(network) -> tf.Variable:
    return network.trainable_variables[-1]


def bandit(values: np.ndarray, **settings):
    """Return an agent whose biases are all there is: logits of the policy and values [E, A] of the critics."""
    config = OffPolicyActorCriticConfig(**(PLAIN | TABLE | {"critics": len(values)} | settings))
    agent = make_offpolicy_actor_critic(*small_specs(1, len(LOGITS)), config)
    bias = bias_of(agent.learner._policy.network)
    bias.assign(LOGITS)
    for head, value in zip(agent.learner._critics.heads, values, strict=True):
        bias_of(head.network).assign(value.astype(np.float32))
    return agent, bias


def shown(counts: np.ndarray, reward: np.ndarray):
    """Every action as often as its count says, logged with that share: means over the block are expectations."""
    action = np.repeat(np.arange(len(counts)), counts)
    share = np.log(np.maximum(counts, 1) / counts.sum())
    return rounds(action, reward[action].astype(np.float32), share[action], len(counts))


def softmax(scores: np.ndarray) -> np.ndarray:
    weight = np.exp(scores - scores.max())
    return weight / weight.sum()


@pytest.mark.parametrize(("k", "max_weight"), [(1, UNCLIPPED), (3, 0.8)])
def test_with_the_reward_for_its_value_it_is_topk_reinforce_with_the_same_baseline(k, max_weight):
    """gamma 0, baseline sum_b pi Q(b), not standardized; each action has one reward, and the critic knows it."""
    agent, bias = bandit(np.tile(REWARD, (2, 1)), k=k, max_weight=max_weight)
    config = PLAIN | {"k": k, "max_weight": max_weight, "n_epochs": 1, "baseline": True, "normalize_advantage": False}
    other = make_topk_reinforce(*small_specs(1, 4), TopKReinforceConfig(**config))
    theirs = bias_of(other.learner._policy.network)
    theirs.assign(LOGITS)
    bias_of(other.learner._value).assign([softmax(LOGITS) @ REWARD])
    played = shown(COUNTS, REWARD)
    found, expected = gradients(agent, played)[id(bias)], gradients(other, played)[id(theirs)]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("actor", ["logged", "all_actions"])
def test_a_shift_of_the_critics_moves_no_policy(actor):
    values = np.array([REWARD, REWARD * 1.5])
    found = []
    for shift in (0.0, 3.0):
        agent, bias = bandit(values + shift, actor=actor, kappa=-1.0)
        found.append(gradients(agent, shown(COUNTS, REWARD))[id(bias)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("actor", ["logged", "all_actions"])
def test_the_mass_of_unlogged_items_grows_with_kappa(actor):
    """The critics agree about logged items and disagree about the other: one step from the same weights."""
    values, mass = np.array([REWARD, REWARD]), []
    values[:, 3] = [0.1, 0.7]
    for kappa in (-2.0, -1.0, 0.0, 1.0):
        agent, bias = bandit(values, actor=actor, kappa=kappa)
        slope = gradients(agent, shown(COUNTS, REWARD))[id(bias)]
        mass.append(softmax(LOGITS - 0.5 * slope)[3])
    assert np.all(np.diff(mass) > 1e-4)
    same = [
        gradients(agent, shown(COUNTS, REWARD))[id(bias)]
        for agent, bias in (bandit(np.array([REWARD, REWARD]), actor=actor, kappa=kappa) for kappa in (-2.0, 1.0))
    ]
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)


def test_support_is_the_most_pessimistic_end():
    """The unlogged item, which the critics find best, counts as the worst logged one."""
    values = np.tile(REWARD, (2, 1))
    slopes = []
    for support in (0.0, 0.05):
        agent, bias = bandit(values, actor="all_actions", support=support)
        bias_of(agent.learner._behavior.network).assign([5.0, 4.0, 4.0, -5.0])
        slopes.append(gradients(agent, shown(COUNTS, REWARD))[id(bias)])
    assert slopes[0][3] < 0 < slopes[1][3]
    own, worst = softmax(LOGITS), np.array([0.5, 0.4, 0.3, 0.3])
    np.testing.assert_allclose(slopes[1], -own * (worst - own @ worst), atol=1e-6)


def test_the_gradient_over_all_actions_has_no_variance_from_the_logged_action():
    """It is the same for every logged action; that of the logged form is not."""
    spread = {}
    for actor in ("logged", "all_actions"):
        agent, bias = bandit(np.tile(REWARD, (2, 1)), actor=actor)
        each = [gradients(agent, shown(np.eye(4, dtype=int)[action], REWARD))[id(bias)] for action in range(3)]
        spread[actor] = float(np.std(each, axis=0).max())
    assert spread["all_actions"] < 1e-7 < 1e-2 < spread["logged"]


def test_without_weights_the_figures_of_weights_are_those_of_the_behavior_head():
    """A log without propensities has zeros in their place; the head says 1/4 each, and so does the policy."""
    agent, bias = bandit(np.tile(REWARD, (2, 1)), actor="all_actions")
    bias.assign(tf.zeros(4))
    bias_of(agent.learner._behavior.network).assign(tf.zeros(4))
    played = shown(COUNTS, REWARD)
    figures = agent.learner.update(played._replace(log_probability=tf.zeros_like(played.log_probability)), SEED)
    assert float(figures["effective_share"]) == pytest.approx(1.0)
    wild = bandit(np.tile(REWARD, (2, 1)), actor="logged")[0].learner.update(played, SEED)
    assert float(wild["effective_share"]) < 0.99


def test_the_actor_teaches_the_critics_nothing_and_they_regress_on_the_target():
    """Critic e's gradient: vf_coef times the mean over critics and steps of value - target, within the Huber band."""
    values = np.array([REWARD + 0.2, REWARD - 0.1])
    agent, _ = bandit(values, kappa=-1.0, vf_coef=0.5)
    found = gradients(agent, shown(COUNTS, REWARD))
    for head, error in zip(agent.learner._critics.heads, (0.2, -0.1), strict=True):
        expected = 0.5 * 0.5 * error * COUNTS / COUNTS.sum()
        np.testing.assert_allclose(found[id(bias_of(head.network))], expected, atol=1e-6)


def test_the_behavior_heads_loss_has_no_gradient_in_the_trunk():
    agent, played = make("offpolicy_actor_critic", tables=False), block(5)
    learner = agent.learner
    with tf.GradientTape() as tape:
        scores = learner.behavior_scores(flatten(played.observation), flatten(played.mask))
        loss = -tf.reduce_mean(log_probability(scores, flatten(played.action)))
    trunk, head = learner._critics.trunk.trainable_variables, learner._behavior.network.trainable_variables
    found = tape.gradient(loss, [*trunk, *head])
    assert all(part is None for part in found[: len(trunk)])
    assert all(np.abs(part).max() > 0 for part in found[len(trunk) :])


@pytest.mark.parametrize("tables", [False, True], ids=["plain", "dot"])
def test_critics_disagree_from_the_start(tables):
    """Equal critics would learn the same for ever, and kappa would have no effect."""
    values = make("offpolicy_actor_critic", tables=tables).learner.action_values(tf.constant(observations(20)))
    assert values.shape == (2, 20, 24)
    assert float(tf.reduce_min(tf.math.reduce_std(values, axis=0))) > 0


@pytest.mark.parametrize("tables", [False, True], ids=["plain", "dot"])
def test_the_mean_of_a_dueling_critic_over_items_is_its_value_of_the_state(tables):
    learner = make("offpolicy_actor_critic", tables=tables).learner
    x = tf.constant(observations(20))
    level = [head.network(learner._critics.trunk(x))[:, -1] for head in learner._critics.heads]
    np.testing.assert_allclose(tf.reduce_mean(learner.action_values(x), axis=2), level, atol=1e-5)


def test_the_offset_of_an_item_without_a_logged_step_keeps_its_random_start():
    """Dot heads share what they learn about items; the offsets do not, so only data removes their disagreement."""
    agent, unlogged = make("offpolicy_actor_critic", item_offset_std=0.5, learning_rate=0.001), slice(20, None)
    offsets = agent.learner._critics.offsets
    start = offsets.numpy()
    assert start.std() == pytest.approx(0.5, abs=0.15)
    np.testing.assert_allclose(agent.learner._targets.offsets, start)
    for number in range(10):
        played = block(6, number)
        agent.learner.update(played._replace(action=played.action % 20), SEED)
    np.testing.assert_array_equal(offsets.numpy()[:, unlogged], start[:, unlogged])
    assert (offsets.numpy() != start)[:, :20].any(axis=0).all()
    moved, x = offsets.numpy(), tf.constant(observations(9))
    values = agent.learner.action_values(x)
    offsets.assign(tf.zeros_like(offsets))
    added = tf.broadcast_to(moved[:, np.newaxis], values.shape)
    np.testing.assert_allclose(values - agent.learner.action_values(x), added, atol=1e-5)


def test_values_that_grow_change_items_less_with_a_separate_level():
    """Every item pays 5, so values rise by some 4; what else changes is the order of the items."""
    spread = {}
    for dueling in (False, True):
        learner = make("offpolicy_actor_critic", gamma=0.0, dueling=dueling).learner
        x, played = tf.constant(observations(50)), block(20, ends=0.0)
        before = learner.action_values(x).numpy()
        update = tf.function(learner.update, autograph=False)
        for _ in range(60):
            update(played._replace(reward=5.0 + tf.zeros_like(played.reward)), SEED)
        change = learner.action_values(x).numpy() - before
        assert change.mean() > 3
        spread[dueling] = change.std(axis=2).mean()
    assert spread[True] < 0.6 * spread[False]


def test_targets_follow_the_critics_by_tau():
    agent, played = make("offpolicy_actor_critic", tables=False, tau=0.1), block(5)
    learner = agent.learner
    before = [weight.numpy() for weight in learner._targets.weights]
    for old, new in zip(before, learner._critics.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    learner.update(played, SEED)
    moved = 0.0
    for old, target, new in zip(before, learner._targets.weights, learner._critics.weights, strict=True):
        np.testing.assert_allclose(target, 0.9 * old + 0.1 * new.numpy(), atol=1e-6)
        moved = max(moved, float(np.abs(new.numpy() - old).max()))
    assert moved > 1e-3


def test_items_already_shown_have_no_later_value():
    """A huge critic value of an item matters to the targets only where the next mask allows it."""
    agent, played = make("offpolicy_actor_critic", tables=False, dueling=False), block(5, ends=0.0)
    learner = agent.learner
    means = []
    for allowed in (True, False):
        mask = played.next_mask.numpy().copy()
        mask[..., 3], mask[..., 4] = allowed, True
        for head in learner._targets.heads:
            bias_of(head.network).assign(tf.one_hot(3, 24) * 1e3)
        means.append(float(learner._step(flat(played._replace(next_mask=tf.constant(mask))))["target_mean"]))
    assert means[0] > 10 > means[1]


def flat(played):
    return type(played)(*(flatten(part) for part in played))


def test_the_value_network_follows_the_policys_value():
    values = np.tile(REWARD, (2, 1))
    agent, bias = bandit(values, learning_rate=0.05, n_epochs=300, max_grad_norm=0.0)
    tf.function(agent.learner.update, autograph=False)(shown(np.array([5, 3, 2, 1]), REWARD), SEED)
    own = softmax(bias.numpy())
    critics = np.mean([bias_of(head.network).numpy() for head in agent.learner._critics.heads], axis=0)
    found = float(agent.learner.value(tf.zeros([1, 1]), None)[0])
    assert found == pytest.approx(own @ critics, abs=0.02)
    assert found == pytest.approx(0.9, abs=0.05)  # it has found the best item


WRONG = [
    {"gamma": 2.0}, {"k": 0}, {"critics": 0}, {"n_epochs": 0}, {"max_weight": 0.0}, {"tau": 0.0}, {"support": 2.0},
    {"actor": "none"}, {"behavior": "none"}, {"kappa": float("nan")}, {"batch_size": 0}, {"value_temperature": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OffPolicyActorCriticConfig(**wrong)


def test_heads_without_a_trunk_and_a_deviation_of_one_critic_are_refused():
    with pytest.raises(ConfigError, match="layers"):
        make("offpolicy_actor_critic", layers=())
    with pytest.raises(ConfigError, match="kappa: one critic has no standard deviation"):
        make("offpolicy_actor_critic", critics=1, kappa=-1.0)
