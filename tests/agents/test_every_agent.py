"""What every agent of the registry keeps: true probabilities, masks, seeds, and that it learns.

One compiled training a name, shared by all tests of the module; 20,000 draws at a time, eagerly.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from synthetic_choice import ARMS, BATCH, PosteriorChoice, environment, make
from tf_agents.policies.tf_policy import TFPolicy
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from recpolicy.agents import AGENTS, BASELINES, agent_entry
from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.observation import read_observation
from recpolicy.core.errors import ConfigError
from recpolicy.testing import AgentContract, learning_actions
from recpolicy.training.compiled_loop import OnlineLoop, Rounds

LEARNING = [name for name in AGENTS if name not in BASELINES]
ROUNDS = 240
MANY = 20_000
RANDOM_REWARD = (5 + 4 * 1.5) / 5
"""Of five allowed arms one pays 5 and four pay 1.5 on average."""


@dataclass
class Trained:
    agent: BanditAgent
    rounds: Rounds | None
    """None for baselines: they never learn."""


@pytest.fixture(scope="module", params=list(AGENTS))
def trained(request: pytest.FixtureRequest) -> Trained:
    agent = make(request.param)
    if request.param in BASELINES:
        return Trained(agent, None)
    world = PosteriorChoice() if AGENTS[request.param].user_posteriors else environment()
    return Trained(agent, OnlineLoop(world, agent).run(ROUNDS))


@pytest.fixture(scope="module")
def observation() -> dict[str, tf.Tensor]:
    """One round's observation, [B, ...]."""
    one = environment(seed=5)
    return one.observation(one.sample_round(tf.constant(0, tf.int64)))


def crowd(observation: dict[str, tf.Tensor], row: int) -> ts.TimeStep:
    """MANY users with the same observation."""
    many = {key: tf.repeat(value[row : row + 1], MANY, axis=0) for key, value in observation.items()}
    return ts.restart(many, MANY)


def assert_frequencies(action: tf.Tensor, probability: np.ndarray) -> None:
    """Every arm's share of MANY draws within 4.5 standard errors of its probability; of probability 0 none."""
    share = np.bincount(action, minlength=ARMS) / MANY
    error = np.sqrt(probability * (1 - probability) / MANY)
    # 2e-4: float32 sums and the Thompson integral.
    np.testing.assert_array_less(np.abs(share - probability), 4.5 * error + 2e-4)
    np.testing.assert_array_equal(share[probability == 0], 0)


def experience(observation: dict[str, tf.Tensor], policy: TFPolicy, seed: int) -> trajectory.Trajectory:
    """[B, 1, ...]: what the policy does, and rewards that have nothing to do with it."""
    step = policy.action(ts.restart(observation, BATCH), (), seed=tf.constant([seed, 1], tf.int32))
    reward = tf.constant(np.random.default_rng(seed).integers(1, 6, BATCH), tf.float32)
    one = trajectory.single_step(observation, step.action, step.info, reward, tf.zeros(BATCH))
    return tf.nest.map_structure(lambda part: part[:, tf.newaxis], one)


def state(agent: BanditAgent) -> dict[str, np.ndarray]:
    return agent.learner.export().arrays


class TestEveryAgent(AgentContract):
    """The public contract, untrained."""

    @pytest.fixture(params=list(AGENTS))
    def make_agent(self, request: pytest.FixtureRequest):
        return lambda seed: make(request.param, seed)

    def make(self, seed: int = 0) -> BanditAgent:
        return make("linucb", seed)

    def make_environment(self, seed: int = 0):
        return environment(seed)


def test_every_learning_agent_beats_chance_and_its_regret_falls(trained):
    """240 rounds of 8: chance pays 2.2 with a standard error of .035; the demand is 10 of them."""
    if trained.rounds is not None:
        late = trained.rounds.reward[-ROUNDS // 3 :].mean()
        assert late > RANDOM_REWARD + 0.35
        assert trained.rounds.regret[-ROUNDS // 3 :].mean() < trained.rounds.regret[: ROUNDS // 3].mean()


@pytest.mark.parametrize("explores", [True, False])
def test_rows_of_probabilities_sum_to_one_and_masked_arms_have_exactly_none(trained, observation, explores):
    policy = trained.agent.collect_policy if explores else trained.agent.policy
    probability = policy.probabilities(observation).numpy()
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    assert (probability >= 0).all()
    np.testing.assert_array_equal(probability[observation["mask"].numpy() == 0], 0)


@pytest.mark.parametrize("row", [0, 1])
def test_the_reported_log_probability_is_that_of_the_action(trained, observation, row):
    policy = trained.agent.collect_policy
    step = policy.action(crowd(observation, row), (), seed=tf.constant([row, 2], tf.int32))
    probability = policy.probabilities(observation).numpy()[row]
    np.testing.assert_allclose(np.exp(step.info.log_probability), probability[step.action.numpy()], rtol=1e-4)
    assert_frequencies(step.action, probability)
    assert observation["mask"].numpy()[row, step.action.numpy()].all()


@pytest.mark.parametrize("row", [0, 1])
def test_the_fast_draw_of_the_loop_has_the_probabilities_of_explore(trained, observation, row):
    read = read_observation(crowd(observation, row).observation)
    action = trained.agent.learner.sample_action(read, tf.constant([3, row], tf.int32))
    assert_frequencies(action, trained.agent.learner.behavior_probabilities(read).numpy()[0])


def test_estimates_and_exported_arrays_are_finite(trained, observation):
    estimate = trained.agent.learner.estimate(read_observation(observation))
    assert np.isfinite(estimate.mean).all()
    assert (estimate.width.numpy() >= 0).all()
    exported = trained.agent.learner.export()
    for name, array in exported.arrays.items():
        assert np.isfinite(array).all(), name
    assert all(np.isfinite(value) for value in exported.settings.values())


@pytest.mark.parametrize("name", AGENTS)
def test_before_any_feedback_the_reported_probabilities_are_true_as_well(name, observation):
    """Ties, infinite bounds and flat posteriors."""
    agent = make(name)
    step = agent.collect_policy.action(crowd(observation, 2), (), seed=tf.constant([4, 4], tf.int32))
    assert_frequencies(step.action, agent.collect_policy.probabilities(observation).numpy()[2])


@pytest.mark.parametrize("name", AGENTS)
def test_training_through_tf_agents_is_the_learners_own_update(name, observation):
    """agent.train on a trajectory [B, 1] and learner.learn on the batch end in the same state."""
    public, own = make(name), make(name)
    played = experience(observation, own.collect_policy, seed=1)
    loss = public.train(played).loss
    expected = own.learner.update(read_observation(observation), played.action[:, 0], played.reward[:, 0])
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert int(public.train_step_counter.numpy()) == 1
    for key, array in state(own).items():
        np.testing.assert_allclose(state(public)[key], array, rtol=0, atol=2e-5, err_msg=key)
    if name in LEARNING:
        before = state(make(name))
        assert any(not np.array_equal(before[key], array) for key, array in state(own).items())


@pytest.mark.parametrize("name", LEARNING)
def test_a_checkpoint_holds_everything_it_has_learnt(name, observation, tmp_path):
    learnt, fresh = make(name, seed=0), make(name, seed=1)
    for seed in range(3):
        played = experience(observation, learnt.collect_policy, seed)
        learnt.learner.update(read_observation(observation), played.action[:, 0], played.reward[:, 0])
    path = tf.train.Checkpoint(learner=learnt.learner).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(learner=fresh.learner).read(path).assert_consumed()
    for key, array in state(learnt).items():
        np.testing.assert_array_equal(state(fresh)[key], array, err_msg=key)
    read = read_observation(observation)
    np.testing.assert_array_equal(
        fresh.learner.behavior_probabilities(read), learnt.learner.behavior_probabilities(read)
    )
    # The optimizer's moments as well: one more update leaves both in the same state.
    for agent in (learnt, fresh):
        agent.learner.update(read, tf.constant(read.mask.numpy().argmax(axis=1), tf.int32), tf.fill([BATCH], 2.0))
    for key, array in state(learnt).items():
        np.testing.assert_array_equal(state(fresh)[key], array, err_msg=key)


def learned(name: str, seed: int) -> list[list[int]]:
    return learning_actions(make(name, seed), environment(seed=0))


@pytest.mark.parametrize("name", [*LEARNING, "random"])
def test_the_seed_fixes_what_it_does(name):
    reference = learned(name, seed=3)
    assert learned(name, seed=3) == reference
    assert learned(name, seed=4) != reference


def test_policies_report_their_estimates(observation):
    step = make("rating_model").policy.action(ts.restart(observation, BATCH))
    assert isinstance(step, policy_step.PolicyStep)
    group = observation["global"].numpy().argmax(axis=1)
    expected = np.full((BATCH, ARMS), 3.0)
    expected[np.arange(BATCH), group] = 2.5
    np.testing.assert_allclose(step.info.predicted_rewards_mean, expected)


def test_example_weights_are_refused_rather_than_ignored(observation):
    agent = make("ucb1")
    with pytest.raises(ValueError, match="weights"):
        agent.train(experience(observation, agent.collect_policy, 0), weights=tf.ones(BATCH))


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    assert agent_entry("lints") is AGENTS["lints"]
    with pytest.raises(ConfigError, match="Did you mean 'linucb'"):
        agent_entry("linucbb")
