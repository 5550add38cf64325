"""The contract of session environments, and helpers to play them.

T steps, B sessions, A items. The contract plays the planted world of synthetic_sessions.py, so a subclass needs only
a function that makes its environment in a given world.
"""

import abc
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.drivers.dynamic_episode_driver import DynamicEpisodeDriver
from tf_agents.drivers.dynamic_step_driver import DynamicStepDriver
from tf_agents.environments.tf_environment import TFEnvironment
from tf_agents.policies.tf_policy import TFPolicy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.environments.session_base import Session, SessionEnvironmentBase, Step
from recpolicy.testing.synthetic_sessions import ITEMS, STEPS, USERS, PlantedSessions, planted_sessions

_SEED = tf.constant([5, 6], tf.int32)


def planted_environment(
    planted: PlantedSessions | None = None, seed: int = 0, batch_size: int = 8, **config: Any
) -> SessionEnvironment:
    """Return an environment in the planted world that offers all its items.

    Args:
        planted: The world; the default world if None.
        seed: Seed of users and responses.
        batch_size: Number of parallel sessions.
        config: Further settings of SessionConfig; `max_episode_steps` is the world's number of steps unless given.

    Returns:
        The environment.
    """
    planted = planted or planted_sessions()
    settings = SessionConfig(**{"batch_size": batch_size, "max_episode_steps": planted.world.steps, **config})
    return SessionEnvironment(planted.world, planted.context, planted.embedding, planted.candidates, settings, seed)


class SessionRecord(NamedTuple):
    """One step of B sessions; the ended ones restart before the next step. All parts are arrays."""

    before: Session
    action: np.ndarray  # [B], or [B, K] for slates
    step: Step
    over: np.ndarray  # [B] bool


def record_sessions(
    environment: SessionEnvironmentBase,
    steps: int,
    choose: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> list[SessionRecord]:
    """Play sessions by the environment's pure functions.

    Args:
        environment: The environment.
        steps: Number of steps.
        choose: Function of features [B, O], mask [B, A] and step number that returns actions; None draws allowed
            items uniformly.

    Returns:
        One record per step.
    """

    @tf.function(autograph=False)
    def play_step(session, number):
        features, mask = environment.observe(session)
        action = choose(features, mask, number) if choose else draw_allowed_items(environment, mask, number)
        noise = environment.noise(number)
        step = environment.transition(session, action, noise)
        over = step.terminated | step.truncated
        return environment.restart(step.session, over, noise), SessionRecord(session, action, step, over)

    session, records = environment.restart(None, None, environment.noise(tf.constant(0))), []
    for number in range(1, steps + 1):
        session, record = play_step(session, tf.constant(number))
        records.append(tf.nest.map_structure(lambda part: part.numpy(), record))
    return records


def draw_allowed_items(environment: SessionEnvironmentBase, mask: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Return distinct allowed items, drawn uniformly: [B], or [B, K] for slates."""
    shape = environment.action_spec().shape
    points = uniform([environment.batch_size, environment.actions], fold_in(_SEED, number))
    best = tf.math.top_k(tf.where(mask, points, -1.0), k=shape[0] if shape.rank else 1).indices
    return best if shape.rank else best[:, 0]


def first_session_lengths(records: list[SessionRecord]) -> np.ndarray:
    """Return the steps [B] of the first session of each row; all must have ended, so no length is over-represented."""
    over = np.stack([record.over for record in records])  # [T, B]
    assert over.any(axis=0).all()
    return over.argmax(axis=0) + 1


class _RandomPolicy(TFPolicy):
    """A policy that draws allowed items uniformly and counts its actions."""

    def __init__(self, environment: SessionEnvironmentBase):
        super().__init__(environment.time_step_spec(), environment.action_spec(), automatic_state_reset=False)
        self._environment, self.number = environment, tf.Variable(0)

    def _action(self, time_step, policy_state, seed):  # noqa: ARG002 - the environment draws
        number = self.number.assign_add(1)
        mask = tf.cast(time_step.observation["mask"], tf.bool)
        return policy_step.PolicyStep(draw_allowed_items(self._environment, mask, number), policy_state)

    def _distribution(self, time_step, policy_state):
        raise NotImplementedError


def _trace_by_stepping(environment: SessionEnvironmentBase, steps: int) -> list[tuple[np.ndarray, ...]]:
    """Return type, reward, discount, mask and features of each time step of TF-Agents' eager `step`."""
    time_step, rows = environment.current_time_step(), []
    for number in range(1, steps + 1):
        mask = tf.cast(time_step.observation["mask"], tf.bool)
        time_step = environment.step(draw_allowed_items(environment, mask, tf.constant(number)))
        seen = time_step.observation
        rows.append((time_step.step_type, time_step.reward, time_step.discount, seen["mask"], seen["global"]))
    return [tuple(part.numpy() for part in row) for row in rows]


def _trace_compiled(environment: SessionEnvironmentBase, steps: int) -> tuple[np.ndarray, ...]:
    """Return the parts of `_trace_by_stepping`, each [steps, B, ...], from the pure functions in one XLA program."""

    def play_step(number, session, ended, parts):
        _, mask = environment.observe(session)
        noise = environment.noise(number)
        step = environment.transition(session, draw_allowed_items(environment, mask, number), noise)
        session = environment.restart(step.session, ended, noise)
        over = (step.terminated | step.truncated) & ~ended
        step_type = tf.where(ended, ts.StepType.FIRST, tf.where(over, ts.StepType.LAST, ts.StepType.MID))
        features, mask = environment.observe(session)
        discount = 1.0 - tf.cast(step.terminated & ~ended, tf.float32)
        values = (step_type, tf.where(ended, 0.0, step.reward), discount, tf.cast(mask, tf.int32), features)
        parts = [part.write(number - 1, value) for part, value in zip(parts, values)]  # noqa: B905 - XLA traces it
        return number + 1, session, over, parts

    @tf.function(autograph=False, jit_compile=True)
    def play_all():
        session = environment.restart(None, None, environment.noise(tf.constant(0)))
        shapes = [spec.shape for spec in tf.nest.flatten(environment.time_step_spec().observation)]
        width, actions = shapes[0], shapes[1]
        kinds = [(tf.int32, ()), (tf.float32, ()), (tf.float32, ()), (tf.int32, actions), (tf.float32, width)]
        batch = environment.batch_size
        parts = [tf.TensorArray(kind, steps, element_shape=(batch, *shape)) for kind, shape in kinds]
        start = (tf.constant(1), session, tf.zeros([batch], tf.bool), parts)
        *_, parts = tf.while_loop(lambda number, *_: number <= steps, play_step, start)
        return tuple(part.stack() for part in parts)

    return tuple(part.numpy() for part in play_all())


class SessionEnvironmentContract(abc.ABC):
    """Checks that every session environment must pass; inherit and define `make`."""

    @abc.abstractmethod
    def make(
        self, planted: PlantedSessions, seed: int = 0, batch_size: int = 8, **config: Any
    ) -> SessionEnvironmentBase:
        """Return a fresh environment in the planted world; `config` has settings of SessionConfig."""

    def expected_reward(self, value: np.ndarray, response: Any) -> np.ndarray:  # noqa: ARG002 - for overrides
        """Return the reward [B] of a response whose like, watch fraction or rating is `value` [B]."""
        return value

    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls) -> SessionEnvironmentBase:
        return cls().make(planted_sessions())

    @pytest.fixture(scope="class")
    @classmethod
    def records(cls) -> list[SessionRecord]:
        """Return 32 random steps of 64 sessions."""
        return record_sessions(cls().make(planted_sessions(), 3, 64), 4 * STEPS)

    def test_steps_obey_the_specs(self, environment):
        assert isinstance(environment, TFEnvironment)
        spec, batch = environment.time_step_spec(), environment.batch_size
        time_step = environment.reset()
        for number in range(5):
            tf.nest.assert_same_structure(time_step, spec)
            for part, wanted in zip(tf.nest.flatten(time_step), tf.nest.flatten(spec), strict=True):
                assert (part.dtype, part.shape) == (wanted.dtype, (batch, *wanted.shape))
                assert np.isfinite(part.numpy()).all()
            mask = tf.cast(time_step.observation["mask"], tf.bool)
            time_step = environment.step(draw_allowed_items(environment, mask, tf.constant(number)))

    def test_reset_starts_fresh_sessions(self, environment):
        _trace_by_stepping(environment, 3)
        first, second = environment.reset(), environment.reset()
        assert first.is_first().numpy().all()
        assert (first.observation["mask"].numpy() == 1).all()
        assert not np.array_equal(first.observation["global"], second.observation["global"])  # other users
        tf.nest.map_structure(np.testing.assert_array_equal, environment.current_time_step(), second)

    def test_current_time_step_is_the_last_one(self, environment):
        last = environment.step(draw_allowed_items(environment, tf.ones([8, ITEMS], tf.bool), tf.constant(0)))
        tf.nest.map_structure(np.testing.assert_array_equal, environment.current_time_step(), last)

    @pytest.mark.parametrize("driver", [DynamicStepDriver, DynamicEpisodeDriver])
    def test_tf_agents_drivers_play_it(self, driver):
        environment, rewards = self.make(planted_sessions()), []
        policy = _RandomPolicy(environment)

        def watch(trajectory):
            rewards.append(trajectory.reward)  # once, at tracing
            return tf.debugging.assert_non_negative(trajectory.reward)

        last, _ = driver(environment, policy, observers=[watch]).run()
        assert rewards
        assert int(policy.number) > 0
        assert int(environment.round) == 1 + int(policy.number) + (driver is DynamicEpisodeDriver)  # it resets first
        assert last.observation["mask"].shape == (8, ITEMS)

    def test_the_seed_fixes_the_sessions(self):
        first, same, other = (_trace_by_stepping(self.make(planted_sessions(), seed), 4) for seed in (7, 7, 8))
        tf.nest.map_structure(np.testing.assert_array_equal, first, same)
        assert not np.array_equal(first[-1][-1], other[-1][-1])

    def test_stepping_eagerly_and_a_compiled_loop_play_the_same(self):
        steps = 2 * STEPS
        rows = _trace_by_stepping(self.make(planted_sessions(), 4), steps)
        eager = [np.stack(parts) for parts in zip(*rows, strict=True)]
        loop = _trace_compiled(self.make(planted_sessions(), 4), steps)
        for step_type in (ts.StepType.FIRST, ts.StepType.LAST):
            assert (eager[0] == step_type).any()
        for compiled, stepped in zip(loop[:4], eager[:4], strict=True):
            np.testing.assert_allclose(compiled, stepped, rtol=1e-6)
        np.testing.assert_allclose(loop[4], eager[4], atol=2e-6)

    def test_an_action_after_the_last_step_restarts_the_session_and_earns_nothing(self):
        rows = _trace_by_stepping(self.make(planted_sessions(), 5), 3 * STEPS)
        restarts = 0
        for (step_type, *_), (following, reward, discount, mask, _) in itertools.pairwise(rows):
            ended = step_type == ts.StepType.LAST
            np.testing.assert_array_equal(following == ts.StepType.FIRST, ended)
            assert (reward[ended] == 0).all()
            assert (discount[ended] == 1).all()
            assert (mask[ended] == 1).all()
            restarts += ended.sum()
        assert restarts > 10

    def test_sessions_that_the_user_leaves_are_terminated_and_cut_sessions_are_truncated(self, records):
        steps = np.stack([record.step.session.user_state.step for record in records])
        stays = np.stack([record.step.response.stays for record in records])
        np.testing.assert_array_equal(np.stack([record.step.terminated for record in records]), ~stays)
        cut = stays & (steps == self.make(planted_sessions()).config.max_episode_steps)
        np.testing.assert_array_equal(np.stack([record.step.truncated for record in records]), cut)
        assert cut.any()

    @pytest.mark.parametrize(("stay", "discount"), [(1e-9, 0.0), (1 - 1e-7, 1.0)])
    def test_termination_has_discount_0_and_truncation_1(self, stay, discount):
        environment = self.make(planted_sessions(stay=stay, fatigue=(0.0, 0.0)), max_episode_steps=1)
        ((step_type, _, discounts, _, _),) = _trace_by_stepping(environment, 1)
        assert (step_type == ts.StepType.LAST).all()
        np.testing.assert_array_equal(discounts, discount)

    def test_items_are_masked_once_shown_until_the_session_ends(self, records):
        shown = np.zeros((64, ITEMS), bool)
        for record in records:
            np.testing.assert_array_equal(record.before.user_state.shown, shown)
            action = record.action.reshape(64, -1)
            assert not np.take_along_axis(shown, action, axis=1).any()
            np.put_along_axis(shown, action, True, axis=1)
            np.testing.assert_array_equal(record.step.session.user_state.shown, shown)
            shown[record.over] = False

    def test_the_policy_sees_the_mask_and_the_context_of_its_user(self, records):
        planted = planted_sessions()
        environment, context = self.make(planted, batch_size=64), planted.context[planted.world.users]
        for record in records[:5]:
            features, mask = environment.observe(record.before)
            np.testing.assert_array_equal(mask, ~record.before.user_state.shown)
            np.testing.assert_array_equal(features[:, : context.shape[1]], context[record.before.user_state.user])
            np.testing.assert_array_equal(features[:, context.shape[1] :], record.before.history_state)

    def test_all_users_have_the_same_probability(self):
        """Check the first users of 20,000 sessions: each share within 4.5 standard errors of 1/30."""
        environment = self.make(planted_sessions(), batch_size=20_000)
        user = environment.restart(None, None, environment.noise(tf.constant(1))).user_state.user.numpy()
        share, probability = np.bincount(user, minlength=USERS) / 20_000, 1 / USERS
        error = np.sqrt(probability * (1 - probability) / 20_000)
        np.testing.assert_allclose(share, probability, atol=4.5 * error)

    @pytest.mark.parametrize(("reward", "low", "high"), [("like", 0, 1), ("watch", 0, 1), ("rating", 0, 5)])
    def test_rewards_are_those_of_the_config(self, reward, low, high):
        for record in record_sessions(self.make(planted_sessions(), reward=reward), 5):
            response = record.step.response
            value = {"like": response.like, "watch": response.level / 4, "rating": 1 + response.level}[reward]
            np.testing.assert_array_equal(record.step.reward, self.expected_reward(value, response))
            assert low <= record.step.reward.min() <= record.step.reward.max() <= high

    def test_reward_decays_by_step(self):
        plain, decayed = (
            record_sessions(self.make(planted_sessions(), 6, reward_decay=decay), 6) for decay in (1.0, 0.5)
        )
        for full, halved in zip(plain, decayed, strict=True):
            factor = 0.5 ** full.before.user_state.step.astype(float)
            np.testing.assert_allclose(halved.step.reward, factor * full.step.reward)
        assert max(record.before.user_state.step.max() for record in plain) > 2

    def test_session_lengths_are_geometric_when_staying_is_constant(self):
        """Check 4,000 sessions with c = .6, cut at 8: mean (1 - c^8) / (1 - c) = 2.458 within 4.5 standard errors.

        P(length > k) = c^k for k < 8, each a binomial share.
        """
        planted = planted_sessions(stay=0.6, fatigue=(0.0, 0.0), items=60)
        environment = self.make(planted, 1, 4000, max_episode_steps=8)
        length = first_session_lengths(record_sessions(environment, 8))
        assert abs(length.mean() - (1 - 0.6**8) / 0.4) < 4.5 * length.std() / np.sqrt(4000)
        for k in range(1, 8):
            share = 0.6**k
            assert abs((length > k).mean() - share) < 4.5 * np.sqrt(share * (1 - share) / 4000)
        assert length.max() == 8

    def test_the_batch_size_is_honored(self):
        environment = self.make(planted_sessions(), batch_size=3)
        assert environment.batch_size == 3
        assert {part.shape[0] for part in tf.nest.flatten(environment.reset())} == {3}
        with pytest.raises(ConfigError, match="batch_size"):
            self.make(planted_sessions(), batch_size=0)

    def test_more_steps_than_the_world_has_are_refused(self):
        with pytest.raises(ConfigError, match="the world knows 8 steps"):
            self.make(planted_sessions(), max_episode_steps=STEPS + 1)
