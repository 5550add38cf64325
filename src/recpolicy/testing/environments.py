"""The contract of environments of single rounds, and helpers to play them.

B batch, A actions. Rounds are compared as plain tuples, so a failing test shows the first number that differs.
"""

import abc

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.drivers.dynamic_step_driver import DynamicStepDriver
from tf_agents.environments.tf_environment import TFEnvironment

from recpolicy.agents.baselines import BaselineConfig, make_random
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.observation import read_observation
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.environments.base import RecommendationEnvironment, Round
from recpolicy.training.compiled_loop import OnlineLoop


def random_agent(environment: RecommendationEnvironment, seed: int = 0) -> BanditAgent:
    """Return an agent that plays all allowed actions with equal probability.

    Args:
        environment: The environment whose specs the agent takes.
        seed: Seed of its actions.

    Returns:
        The agent; its reward estimates are 3 for all actions.
    """
    arms = environment.actions
    table = ItemFeatures(
        np.zeros((arms, 1), np.float32), np.full(arms, 3, np.float32), np.ones(arms, np.float32),
        np.full(arms, 3, np.float32), (1.0, 5.0),
    )  # fmt: skip
    return make_random(environment.time_step_spec(), environment.action_spec(), BaselineConfig(), table, seed)


def allowed(environment: RecommendationEnvironment, draw: Round) -> np.ndarray:
    """Return the mask of allowed actions.

    Args:
        environment: The environment.
        draw: A round of it.

    Returns:
        [B, A] bool.
    """
    everything = np.ones((environment.batch_size, environment.actions), bool)
    return everything if draw.mask is None else draw.mask.numpy()


def some_allowed(mask: np.ndarray, rng: np.random.Generator) -> tf.Tensor:
    """Draw an allowed action per row, uniformly.

    Args:
        mask: [B, A] bool.
        rng: Source of randomness.

    Returns:
        [B] int32.
    """
    return tf.constant(np.where(mask, rng.random(mask.shape), -1.0).argmax(axis=1), tf.int32)


def trace(environment: RecommendationEnvironment, steps: int) -> list[tuple[float, ...]]:
    """Play the first allowed action in the first rounds.

    Args:
        environment: The environment.
        steps: Number of rounds.

    Returns:
        One tuple a round: the rewards, then the contexts.
    """
    rows = []
    for number in range(steps):
        now = tf.constant(number, tf.int64)
        draw = environment.sample_round(now)
        reward = environment.reward(draw, tf.constant(allowed(environment, draw).argmax(axis=1), tf.int32), now)
        context = read_observation(environment.observation(draw)).context
        rows.append((*reward.numpy().tolist(), *context.numpy().ravel().tolist()))
    return rows


class EnvironmentContract(abc.ABC):
    """Checks that every environment of single rounds must pass; inherit, define `make`, and adapt the numbers."""

    reward_range = (1.0, 5.0)
    most_users_at_once = 20_000
    """Largest batch; one round of it is the sample of the rewards."""

    @abc.abstractmethod
    def make(self, seed: int, batch_size: int = 8) -> RecommendationEnvironment:
        """Return a fresh environment."""

    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls) -> RecommendationEnvironment:
        return cls().make(0)

    @pytest.fixture(scope="class")
    @classmethod
    def crowd(cls) -> RecommendationEnvironment:
        return cls().make(1, cls.most_users_at_once)

    def test_steps_obey_the_specs(self, environment):
        assert isinstance(environment, TFEnvironment)
        spec, batch = environment.time_step_spec(), environment.batch_size
        step = environment.reset()
        for _ in range(3):
            for part, wanted in zip(tf.nest.flatten(step), tf.nest.flatten(spec), strict=True):
                assert part.dtype == wanted.dtype
                assert part.shape == (batch, *wanted.shape)
                assert np.isfinite(part.numpy()).all()
            tf.nest.assert_same_structure(step, spec)
            first = allowed(environment, environment.sample_round(environment.round)).argmax(axis=1)
            step = environment.step(tf.constant(first, tf.int32))
            low, high = self.reward_range
            assert low <= step.reward.numpy().min() <= step.reward.numpy().max() <= high

    def test_current_time_step_is_the_last_one_and_every_step_ends_an_episode(self, environment):
        first = environment.reset()
        assert first.is_first().numpy().all()
        tf.nest.map_structure(np.testing.assert_array_equal, environment.current_time_step(), first)
        mask = allowed(environment, environment.sample_round(environment.round))
        last = environment.step(some_allowed(mask, np.random.default_rng(0)))
        assert last.is_last().numpy().all()
        tf.nest.map_structure(np.testing.assert_array_equal, environment.current_time_step(), last)

    def test_reset_alone_does_not_move_the_rounds_on(self, environment):
        before = environment.round.numpy()
        seen = [environment.reset().observation for _ in range(2)]
        tf.nest.map_structure(np.testing.assert_array_equal, *seen)
        assert environment.round.numpy() == before

    def test_a_tf_agents_driver_plays_it(self, environment):
        agent, seen = random_agent(environment), []

        def watch(trajectory):
            seen.append(1)  # at tracing
            return tf.debugging.assert_greater_equal(trajectory.reward, self.reward_range[0])

        start, batch = int(environment.round.numpy()), environment.batch_size
        environment.reset()
        DynamicStepDriver(environment, agent.collect_policy, observers=[watch], num_steps=3 * batch).run()
        assert seen
        assert int(environment.round.numpy()) == start + 3

    def test_the_seed_fixes_the_trace(self):
        reference = trace(self.make(7), 4)
        assert trace(self.make(7), 4) == reference
        assert trace(self.make(8), 4) != reference

    def test_rounds_differ_from_each_other(self, environment):
        users = {tuple(environment.sample_round(tf.constant(t, tf.int64)).user.numpy().tolist()) for t in range(10)}
        assert len(users) == 10

    def test_the_batch_size_is_honored(self):
        environment = self.make(0, batch_size=3)
        step = environment.reset()
        assert environment.batch_size == 3
        assert {part.shape[0] for part in tf.nest.flatten(step)} == {3}
        with pytest.raises(ConfigError, match="batch_size"):
            self.make(0, batch_size=0)

    def test_every_mask_allows_an_action_and_is_what_the_policy_sees(self, environment):
        for number in range(20):
            draw = environment.sample_round(tf.constant(number, tf.int64))
            mask = allowed(environment, draw)
            assert mask.any(axis=1).all()
            seen = read_observation(environment.observation(draw)).mask
            np.testing.assert_array_equal(mask, np.ones_like(mask) if seen is None else seen.numpy())

    def test_regret_is_zero_for_the_best_allowed_action_and_never_negative(self, environment):
        now = tf.constant(5, tf.int64)
        draw = environment.sample_round(now)
        mask = allowed(environment, draw)
        actions = [tf.fill([environment.batch_size], action) for action in range(environment.actions)]
        regret = np.stack([environment.regret(draw, action, now).numpy() for action in actions], axis=1)  # [B, A]
        regret = np.where(mask, regret, np.inf)
        np.testing.assert_array_equal(regret.min(axis=1), 0)
        expected = np.where(mask, environment.expected_rewards(draw, now).numpy(), -np.inf)
        np.testing.assert_array_equal(regret.argmin(axis=1), expected.argmax(axis=1))

    def test_rewards_have_the_expected_rewards_as_its_mean(self, crowd):
        """Check that 20,000 rewards average to their expectation, each arm within 4.5 standard errors."""
        now = tf.constant(3, tf.int64)
        draw = crowd.sample_round(now)
        action = some_allowed(allowed(crowd, draw), np.random.default_rng(2))
        expected = tf.gather(crowd.expected_rewards(draw, now), action, batch_dims=1).numpy()
        rest = crowd.reward(draw, action, now).numpy() - expected
        for arm in np.unique(action):
            mine = rest[action.numpy() == arm].astype(np.float64)
            assert abs(mine.mean()) <= 4.5 * mine.std() / np.sqrt(len(mine)) + 1e-6

    def test_the_compiled_loop_sees_the_rounds_that_stepping_sees(self):
        rounds = 5
        compiled = self.make(4)
        agent = random_agent(compiled, seed=9)
        outcome = OnlineLoop(compiled, agent, learns=False).run(rounds)

        stepped = self.make(4)
        step, rewards, pulls = stepped.reset(), [], np.zeros(stepped.actions, int)
        for number in range(rounds):
            seed = fold_in(agent.action_seed, number)
            action = agent.collect_policy.sample_action(step.observation, seed)
            pulls += np.bincount(action, minlength=stepped.actions)
            step = stepped.step(action)
            rewards.append(step.reward.numpy().mean())
        np.testing.assert_array_equal(outcome.pulls, pulls)
        np.testing.assert_allclose(outcome.reward, rewards, rtol=1e-6)
        assert compiled.round.numpy() == stepped.round.numpy() == rounds
