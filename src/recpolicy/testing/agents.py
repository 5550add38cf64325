"""The contract of agents of single rounds."""

import abc

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.agents.tf_agent import TFAgent
from tf_agents.policies.tf_policy import TFPolicy
from tf_agents.trajectories import time_step as ts

from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.observation import read_observation
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.environments.base import RecommendationEnvironment


def learning_actions(agent: BanditAgent, environment: RecommendationEnvironment, rounds: int = 4) -> list[list[int]]:
    """Let an agent act and learn, eagerly.

    Args:
        agent: The agent; it learns from each round.
        environment: The environment.
        rounds: Number of rounds.

    Returns:
        The actions of each round, [rounds][B].
    """
    actions = []
    for number in range(rounds):
        now = tf.constant(number, tf.int64)
        draw = environment.sample_round(now)
        seen = environment.observation(draw)
        action = agent.collect_policy.sample_action(seen, fold_in(agent.action_seed, number))
        agent.learner.update(read_observation(seen), action, environment.reward(draw, action, now))
        actions.append(action.numpy().tolist())
    return actions


class AgentContract(abc.ABC):
    """Checks that every agent of single rounds must pass; inherit, define `make` and `make_environment`."""

    draws = 20_000
    """Sampled actions per check of probabilities."""

    @abc.abstractmethod
    def make(self, seed: int = 0) -> BanditAgent:
        """Return a fresh agent for the specs of `make_environment`."""

    @abc.abstractmethod
    def make_environment(self, seed: int = 0) -> RecommendationEnvironment:
        """Return a fresh environment."""

    @pytest.fixture
    def make_agent(self):
        """Return the factory of the agent under test; override it to test several agents with one class."""
        return self.make

    @pytest.fixture
    def observation(self):
        """Return the observation [B, ...] of a round."""
        environment = self.make_environment(5)
        return environment.observation(environment.sample_round(tf.constant(0, tf.int64)))

    def test_it_is_a_tf_agent_with_tf_policies(self, make_agent):
        agent = make_agent(0)
        assert isinstance(agent, TFAgent)
        assert isinstance(agent.policy, TFPolicy)
        assert isinstance(agent.collect_policy, TFPolicy)
        assert agent.policy.action_spec == agent.action_spec

    @pytest.mark.parametrize("explores", [True, False])
    def test_rows_of_probabilities_sum_to_one_and_masked_actions_have_none(self, make_agent, observation, explores):
        agent = make_agent(0)
        policy = agent.collect_policy if explores else agent.policy
        probability = policy.probabilities(observation).numpy()
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
        assert (probability >= 0).all()
        mask = read_observation(observation).mask
        if mask is not None:
            np.testing.assert_array_equal(probability[~mask.numpy()], 0)

    def test_the_reported_probability_is_that_of_the_action(self, make_agent, observation):
        """Check `draws` actions of one user: the reported and the observed frequencies."""
        policy = make_agent(0).collect_policy
        many = tf.nest.map_structure(lambda part: tf.repeat(part[:1], self.draws, axis=0), observation)
        step = policy.action(ts.restart(many, self.draws), (), seed=tf.constant([0, 2], tf.int32))
        probability = policy.probabilities(observation).numpy()[0]
        np.testing.assert_allclose(np.exp(step.info.log_probability), probability[step.action.numpy()], rtol=1e-4)
        share = np.bincount(step.action, minlength=len(probability)) / self.draws
        error = np.sqrt(probability * (1 - probability) / self.draws)
        # 2e-4 allows for float32 sums and numerical integrals.
        np.testing.assert_array_less(np.abs(share - probability), 4.5 * error + 2e-4)
        np.testing.assert_array_equal(share[probability == 0], 0)

    def test_estimates_and_exported_arrays_are_finite(self, make_agent, observation):
        learner = make_agent(0).learner
        estimate = learner.estimate(read_observation(observation))
        assert np.isfinite(estimate.mean).all()
        assert (estimate.width.numpy() >= 0).all()
        exported = learner.export()
        for name, array in exported.arrays.items():
            assert np.isfinite(array).all(), name
        assert all(np.isfinite(value) for value in exported.settings.values())

    def test_the_seed_fixes_the_actions(self, make_agent):
        first, second = (learning_actions(make_agent(3), self.make_environment(0)) for _ in range(2))
        assert first == second
