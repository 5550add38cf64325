"""Agents that start from a policy, and the limit on their divergence from it."""

from dataclasses import fields

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import arrays_of, block, environment, make, observations
from synthetic_choice import SETTINGS
from synthetic_choice import environment as choice_environment
from synthetic_choice import make as make_bandit
from synthetic_session_logs import eagerly

from recpolicy.agents import AGENTS, SESSION_AGENTS, agent_entry
from recpolicy.agents.divergence_limit import SoftenedLimitConfig, kl_divergence
from recpolicy.agents.experience import flatten
from recpolicy.agents.observation import read_observation
from recpolicy.agents.reference_policy import ReferencePolicy
from recpolicy.agents.replay import Batch
from recpolicy.core.errors import ConfigError
from recpolicy.training.compiled_loop import OnlineLoop
from recpolicy.training.session_trainer import SessionRunConfig, train_in_sessions
from recpolicy.workflows.initial_policy import KINDS, NETWORK_SETTINGS

SEED = tf.constant([1, 1], tf.int32)
SOFTMAX = KINDS["session"]
LIMITED = [*SOFTMAX, "dqn"]
BANDITS = (*KINDS["mlp"], *KINDS["encoded_linear"])


def learn(agent, blocks: int, *, same: bool = False) -> list[dict[str, float]]:
    """Learn from made-up blocks, or from the same one again and again; return the figures of each update."""
    learner, told = agent.learner, []
    steps = 20 if learner.whole_sessions else 6
    learner.prepare(steps * 8)
    for number in range(blocks):
        figures = learner.update(block(steps, 0 if same else number), SEED)
        told.append({name: float(value) for name, value in figures.items()})
    return told


def learned(name: str, **settings):
    agent = make(name, **settings)
    learn(agent, 2)
    return agent


def scores(agent, mask=None) -> np.ndarray:
    return agent.learner.scores(tf.constant(observations(5)), mask).numpy()


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("name", SOFTMAX)
def test_a_softmax_agent_starts_as_the_policy_of_another(name, tables):
    source = learned("behavior_cloning" if name != "behavior_cloning" else "topk_reinforce", tables=tables)
    agent = make(name, seed=3, tables=tables)
    assert np.abs(scores(agent) - scores(source)).max() > 1e-3
    agent.learner.start_from(arrays_of(source))
    np.testing.assert_allclose(scores(agent), scores(source), rtol=1e-6)
    x = tf.constant(observations(5))
    np.testing.assert_allclose(agent.learner.value(x, None), source.learner.value(x, None), rtol=1e-6)


def test_dqn_starts_with_the_values_of_another_and_the_target_follows():
    source, agent = learned("dqn", dueling=True), make("dqn", seed=3, dueling=True)
    agent.learner.start_from(arrays_of(source))
    np.testing.assert_allclose(scores(agent), scores(source), rtol=1e-6)
    target = agent.learner._values(agent.learner._target, tf.constant(observations(5)))
    np.testing.assert_allclose(target, scores(source), rtol=1e-6)


def test_the_target_critics_see_through_the_trunk_of_the_policy():
    source, agent = learned("a2c"), make("offpolicy_actor_critic", seed=3)
    agent.learner.start_from(arrays_of(source))
    for ours, theirs in zip(agent.learner._critics.weights, agent.learner._targets.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", BANDITS)
def test_a_bandit_starts_with_the_estimates_of_another(name):
    source = make_bandit(name if name == "neural_linucb" else "boltzmann")
    settings = {"model": "neural", "layers": SETTINGS["boltzmann"]["layers"]} if name == "squarecb" else {}
    OnlineLoop(choice_environment(), source).run(20)
    agent = make_bandit(name, **settings)
    agent.learner.start_from(source.learner.export().arrays)
    one = choice_environment(seed=5)
    seen = read_observation(one.observation(one.sample_round(tf.constant(0, tf.int64))))
    found, expected = (part.learner.estimate(seen).mean for part in (agent, source))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", [*SOFTMAX, "dqn"])
def test_another_network_is_refused_and_nothing_is_copied(name):
    agent = make(name)
    before = arrays_of(agent)
    other = "dqn" if name == "dqn" else "a2c"
    with pytest.raises(ConfigError, match=r"another network: kernel_\d has the shape .*, here it is"):
        agent.learner.start_from(arrays_of(make(other, layers=(7,))))
    for key, array in arrays_of(agent).items():
        np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("name", SOFTMAX)
def test_of_networks_that_fit_in_part_nothing_is_copied(name):
    agent, arrays = make(name), arrays_of(learned("a2c", seed=3))
    before = arrays_of(agent)
    for wrong in ("kernel_0", "value/bias_1"):
        with pytest.raises(ConfigError, match=f"another network: {wrong} has the shape"):
            agent.learner.start_from(arrays | {wrong: arrays[wrong][:-1]})
        for key, array in arrays_of(agent).items():
            np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("name", ["q_learning", "linucb", "squarecb"])
def test_an_agent_without_a_network_starts_from_none(name):
    agent = make(name) if name == "q_learning" else make_bandit(name)
    with pytest.raises(ConfigError, match="has no network that could start from a policy"):
        agent.learner.start_from({})


def test_kinds_are_those_of_the_exported_policies():
    for name, entry in SESSION_AGENTS.items():
        estimator = make(name).learner.export().estimator
        assert (name in KINDS.get(estimator, ())) == hasattr(entry.config, "layers")
    for name, entry in AGENTS.items():
        if name == "squarecb":
            assert name in KINDS[make_bandit(name, model="neural").learner.export().estimator]
        elif hasattr(entry.config, "layers"):
            assert name in KINDS[make_bandit(name).learner.export().estimator]


def test_the_settings_of_a_kind_are_those_of_all_its_agents():
    for kind, names in KINDS.items():
        for name in names:
            assert set(NETWORK_SETTINGS[kind]) <= {field.name for field in fields(agent_entry(name).config)}


def test_the_divergence_is_the_sum_over_allowed_actions():
    """pi = (.5, .5), rho = (.25, .75): .5 ln 2 + .5 ln(2/3) = .143841; the masked third action adds nothing."""
    own = tf.constant([[0.0, 0.0, -1e9], [0.0, 0.0, -1e9]])
    other = tf.constant([[0.0, np.log(3.0), -1e9], [0.0, 0.0, -1e9]], tf.float32)
    np.testing.assert_allclose(kl_divergence(own, other), [0.143841, 0.0], atol=1e-6)


@pytest.mark.parametrize("tables", [True, False])
def test_a_reference_scores_as_the_policy_that_it_was_made_from(tables):
    source = learned("topk_reinforce", tables=tables)
    x, mask = tf.constant(observations(5)), tf.constant(np.arange(24) % 3 > 0)[tf.newaxis]
    found = ReferencePolicy(source.learner.export().arrays).scores(x, mask)
    np.testing.assert_allclose(found, source.learner.scores(x, mask), rtol=1e-6)


def limited(name: str, coefficient: float, maximum: float, **settings):
    """An agent at its start, limited to that start."""
    agent = make(name, **settings)
    agent.learner.limit_divergence(ReferencePolicy(agent.learner.export().arrays), coefficient, maximum)
    return agent


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_that_does_not_bind_only_reports(name):
    free, agent = make(name), limited(name, 0.0, 1e5)
    without, told = learn(free, 2), learn(agent, 2)
    assert told[0].keys() - without[0].keys() == {"reference_kl"}
    assert told[-1]["reference_kl"] > 0
    assert not agent.learner.stopped
    for key, array in arrays_of(agent).items():
        np.testing.assert_allclose(array, arrays_of(free)[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LIMITED)
def test_a_penalty_keeps_the_policy_near(name):
    free, near = learn(limited(name, 0.0, 1e5), 6)[-1], learn(limited(name, 100.0, 0.0), 6)[-1]
    assert near["reference_kl"] < 0.5 * free["reference_kl"]


@pytest.mark.parametrize("name", LIMITED)
def test_at_the_hard_limit_the_policy_stops_within_it(name):
    maximum, whole = 0.0005, {"minibatch_size": 48} if name == "ppo" else {}
    agent = limited(name, 0.0, maximum, learning_rate=0.001, **whole)
    assert 0 < learn(agent, 20, same=True)[-1]["reference_kl"] <= maximum
    assert agent.learner.stopped
    before = arrays_of(agent)
    learn(agent, 1)
    for key, array in arrays_of(agent).items():
        np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("dueling", [False, True])
def test_the_divergence_of_values_is_that_of_their_softmax_over_the_allowed_items(dueling):
    """Both by NumPy, at the temperature .5; the items of the next step and the shown one are allowed."""
    source, agent = (make("dqn", seed=seed, dueling=dueling, reference_temperature=0.5) for seed in (3, 0))
    learn(source, 2)
    agent.learner.limit_divergence(ReferencePolicy(arrays_of(source)), 0.0, 1e5)
    played = block(6)
    batch = Batch(*(flatten(getattr(played, name)) for name in Batch._fields))
    mask = batch.next_mask.numpy()
    mask[np.arange(len(mask)), batch.action] = True
    own, other = (
        np.where(mask, part.learner.scores(batch.observation, None), -np.inf) / 0.5 for part in (agent, source)
    )
    own, other = (part - np.logaddexp.reduce(part, axis=1, keepdims=True) for part in (own, other))
    expected = np.where(mask, np.exp(own) * (np.where(mask, own, 0) - np.where(mask, other, 0)), 0).sum(axis=1).mean()
    found = agent.learner.update_batch(batch)
    assert float(found["reference_kl"]) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.001


def test_a_training_taken_up_after_it_reached_the_limit_stays_there(tmp_path):
    run = SessionRunConfig(total_timesteps=2_000, log_rows=50, checkpoint_every_steps=2_000)
    steps, policies = [], []
    for _ in range(2):
        agent = limited("a2c", 0.0, 0.0005, learning_rate=0.002)
        with eagerly():
            steps.append(train_in_sessions(environment(), agent, run, tmp_path, show_progress=False))
        assert agent.learner.stopped
        policies.append(arrays_of(agent))
    assert steps[0] == steps[1] < 2_000
    for key, array in policies[0].items():
        np.testing.assert_array_equal(policies[1][key], array)


def test_a_saved_policy_has_no_trace_of_the_limit():
    agent, free = limited("ppo", 1.0, 1.0), make("ppo")
    learn(agent, 1)
    agent.learner.release()
    assert [part.shape for part in agent.learner.variables] == [part.shape for part in free.learner.variables]
    assert agent.learner.figures == type(agent.learner).figures


REWARD_MODELS = {
    "eps_greedy": {"layers": (16,), "learning_rate": 0.02},
    "boltzmann": {"layers": (16,), "learning_rate": 0.02},
    "squarecb": {"layers": (16,), "learning_rate": 0.02, "model": "neural"},
}


def limited_bandit(name: str, coefficient: float, maximum: float, rounds: int = 8):
    """An agent that learned the same round several times under a limit, and the divergence before each time."""
    settings = {"reference_kl_coef": coefficient, "max_reference_kl": maximum, "reference_temperature": 0.5}
    agent, world = make_bandit(name, **REWARD_MODELS[name], **settings), choice_environment(seed=5)
    agent.learner.limit_divergence(SoftenedLimitConfig(**settings))
    told = []
    network = agent.learner._model if name == "squarecb" else agent.learner
    seen = read_observation(world.observation(world.sample_round(tf.constant(0, tf.int64))))
    for _ in range(rounds):
        action = tf.zeros_like(agent.learner.sample_action(seen, SEED))
        agent.learner.update(seen, action, 5.0 * tf.ones_like(action, tf.float32))
        told.append(float(network._divergence))
    return agent, told


@pytest.mark.parametrize("name", REWARD_MODELS)
def test_a_reward_network_is_limited_by_the_softmax_of_its_rewards(name):
    free, told = limited_bandit(name, 0.0, 1e5)
    _, near = limited_bandit(name, 100.0, 0.0)
    assert told[0] == pytest.approx(0.0, abs=1e-6)
    assert 0 < near[-1] < 0.5 * told[-1]
    maximum = told[-1] / 3
    agent, stopped = limited_bandit(name, 0.0, maximum)
    assert max(stopped) <= maximum
    assert agent.learner.end_limit() == {"reference_kl": pytest.approx(stopped[-1]), "stopped_at_limit": True}
    assert free.learner.end_limit()["stopped_at_limit"] is False
    plain = make_bandit(name, **REWARD_MODELS[name])
    assert [part.shape for part in agent.learner.variables] == [part.shape for part in plain.learner.variables]
    assert agent.learner.end_limit() == {}


def test_the_divergence_of_rewards_is_that_of_their_softmax():
    """By NumPy, at the temperature .5: of the network after two rounds from the one before them."""
    agent, _ = limited_bandit("boltzmann", 0.0, 1e5, rounds=2)
    first = make_bandit("boltzmann", **REWARD_MODELS["boltzmann"])
    world = choice_environment(seed=5)
    seen = read_observation(world.observation(world.sample_round(tf.constant(7, tf.int64))))
    mask = np.ones((*seen.context.shape[:1], 1), bool) if seen.mask is None else seen.mask.numpy()
    own, other = (part.learner.estimate(seen).mean.numpy() / 0.5 for part in (agent, first))
    own, other = (
        part - np.logaddexp.reduce(np.where(mask, part, -np.inf), axis=1, keepdims=True) for part in (own, other)
    )
    action = tf.zeros([len(own)], tf.int32)
    agent.learner.update(seen, action, tf.ones([len(own)]))
    expected = np.where(mask, np.exp(own) * (own - other), 0).sum(axis=1).mean()
    assert agent.learner.end_limit()["reference_kl"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["linucb", "neural_linucb", "squarecb"])
def test_a_bandit_without_such_a_limit_says_so(name):
    with pytest.raises(ConfigError, match="has no limit of the divergence"):
        make_bandit(name).learner.limit_divergence(SoftenedLimitConfig(max_reference_kl=1.0))
