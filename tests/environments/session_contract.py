"""What every session environment keeps. A test class inherits SessionContract and says how to make its environment."""

import abc
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from synthetic_sessions import ITEMS, STEPS
from tf_agents.drivers.dynamic_episode_driver import DynamicEpisodeDriver
from tf_agents.drivers.dynamic_step_driver import DynamicStepDriver
from tf_agents.environments.tf_environment import TFEnvironment
from tf_agents.policies.tf_policy import TFPolicy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session_base import Session, SessionEnvironmentBase, Step

SEED = tf.constant([5, 6], tf.int32)


def draw_allowed(environment: SessionEnvironmentBase, mask: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Distinct allowed items, uniformly: [B], or [B, K] for slates."""
    shape = environment.action_spec().shape
    points = uniform([environment.batch_size, environment.actions], fold_in(SEED, number))
    best = tf.math.top_k(tf.where(mask, points, -1.0), k=shape[0] if shape.rank else 1).indices
    return best if shape.rank else best[:, 0]


class RandomPlayer(TFPolicy):
    """Plays every allowed item alike."""

    def __init__(self, environment: SessionEnvironmentBase):
        super().__init__(environment.time_step_spec(), environment.action_spec(), automatic_state_reset=False)
        self._environment, self.number = environment, tf.Variable(0)

    def _action(self, time_step, policy_state, seed):
        number = self.number.assign_add(1)
        action = draw_allowed(self._environment, tf.cast(time_step.observation["mask"], tf.bool), number)
        return policy_step.PolicyStep(action, policy_state)

    def _distribution(self, time_step, policy_state):
        raise AssertionError("not asked for")


class Record(NamedTuple):
    """One step of B sessions that restart at once when they end; arrays."""

    before: Session
    action: np.ndarray
    step: Step
    over: np.ndarray  # [B] bool


def play(
    environment: SessionEnvironmentBase,
    steps: int,
    choose: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> list[Record]:
    """Play `steps` rounds by the pure functions; `choose`: features, mask, round -> action, random unless given."""

    @tf.function(autograph=False)
    def one(session, number):
        features, mask = environment.observe(session)
        action = choose(features, mask, number) if choose else draw_allowed(environment, mask, number)
        noise = environment.noise(number)
        step = environment.transition(session, action, noise)
        over = step.terminated | step.truncated
        return environment.restart(step.session, over, noise), Record(session, action, step, over)

    session, records = environment.restart(None, None, environment.noise(tf.constant(0))), []
    for number in range(1, steps + 1):
        session, record = one(session, tf.constant(number))
        records.append(tf.nest.map_structure(lambda part: part.numpy(), record))
    return records


def lengths(records: list[Record]) -> np.ndarray:
    """Number of steps of each session that ended."""
    return np.concatenate([record.step.session.user_state.step[record.over] for record in records])


def first_lengths(records: list[Record]) -> np.ndarray:
    """Steps [B] of the first session of each row; all must have ended, so no length is over-represented."""
    over = np.stack([record.over for record in records])  # [T, B]
    assert over.any(axis=0).all()
    return over.argmax(axis=0) + 1


def stepped(environment: SessionEnvironmentBase, steps: int) -> list[tuple[np.ndarray, ...]]:
    """Type, reward, discount, mask and features of each time step when TF-Agents' `step` is called eagerly."""
    told, rows = environment.current_time_step(), []
    for number in range(1, steps + 1):
        mask = tf.cast(told.observation["mask"], tf.bool)
        told = environment.step(draw_allowed(environment, mask, tf.constant(number)))
        rows.append((told.step_type, told.reward, told.discount, told.observation["mask"], told.observation["global"]))
    return [tuple(part.numpy() for part in row) for row in rows]


def compiled(environment: SessionEnvironmentBase, steps: int) -> tuple[np.ndarray, ...]:
    """The same by the pure functions in one XLA program, each part [steps, B, ...]."""

    def one(number, session, ended, parts):
        _, mask = environment.observe(session)
        noise = environment.noise(number)
        step = environment.transition(session, draw_allowed(environment, mask, number), noise)
        session = environment.restart(step.session, ended, noise)
        over = (step.terminated | step.truncated) & ~ended
        kind = tf.where(ended, ts.StepType.FIRST, tf.where(over, ts.StepType.LAST, ts.StepType.MID))
        features, mask = environment.observe(session)
        discount = 1.0 - tf.cast(step.terminated & ~ended, tf.float32)
        told = (kind, tf.where(ended, 0.0, step.reward), discount, tf.cast(mask, tf.int32), features)
        return number + 1, session, over, [part.write(number - 1, value) for part, value in zip(parts, told)]  # noqa: B905

    @tf.function(autograph=False, jit_compile=True)
    def everything():
        session = environment.restart(None, None, environment.noise(tf.constant(0)))
        shapes = [spec.shape for spec in tf.nest.flatten(environment.time_step_spec().observation)]
        width, actions = shapes[0], shapes[1]
        kinds = [(tf.int32, ()), (tf.float32, ()), (tf.float32, ()), (tf.int32, actions), (tf.float32, width)]
        batch = environment.batch_size
        parts = [tf.TensorArray(kind, steps, element_shape=(batch, *shape)) for kind, shape in kinds]
        start = (tf.constant(1), session, tf.zeros([batch], tf.bool), parts)
        *_, parts = tf.while_loop(lambda number, *_: number <= steps, one, start)
        return tuple(part.stack() for part in parts)

    return tuple(part.numpy() for part in everything())


class SessionContract(abc.ABC):
    """Inherit, and define `make` (with the planted world of 24 items and 8 steps) and `config`."""

    config: type
    """The class of its config."""
    rounds = 4 * STEPS

    @abc.abstractmethod
    def make(
        self, seed: int = 0, batch_size: int = 8, *, world: dict | None = None, **config
    ) -> SessionEnvironmentBase:
        """A fresh environment; `world` goes to planted_sessions."""

    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls) -> SessionEnvironmentBase:
        return cls().make()

    @pytest.fixture(scope="class")
    @classmethod
    def records(cls) -> list[Record]:
        """64 sessions at once, random actions."""
        return play(cls().make(3, batch_size=64), cls.rounds)

    def test_steps_obey_the_specs(self, environment):
        assert isinstance(environment, TFEnvironment)
        spec, batch = environment.time_step_spec(), environment.batch_size
        told = environment.reset()
        for number in range(5):
            tf.nest.assert_same_structure(told, spec)
            for part, wanted in zip(tf.nest.flatten(told), tf.nest.flatten(spec), strict=True):
                assert (part.dtype, part.shape) == (wanted.dtype, (batch, *wanted.shape))
                assert np.isfinite(part.numpy()).all()
            mask = tf.cast(told.observation["mask"], tf.bool)
            told = environment.step(draw_allowed(environment, mask, tf.constant(number)))

    def test_reset_starts_fresh_sessions(self, environment):
        stepped(environment, 3)
        first, again = environment.reset(), environment.reset()
        assert first.is_first().numpy().all()
        assert (first.observation["mask"].numpy() == 1).all()
        assert not np.array_equal(first.observation["global"], again.observation["global"])  # other users
        tf.nest.map_structure(np.testing.assert_array_equal, environment.current_time_step(), again)

    def test_current_time_step_is_the_last_one(self, environment):
        told = environment.step(draw_allowed(environment, tf.ones([8, ITEMS], tf.bool), tf.constant(0)))
        tf.nest.map_structure(np.testing.assert_array_equal, environment.current_time_step(), told)

    @pytest.mark.parametrize("driver", [DynamicStepDriver, DynamicEpisodeDriver])
    def test_tf_agents_drivers_play_it(self, driver):
        environment, rewards = self.make(), []
        player = RandomPlayer(environment)

        def watch(trajectory):
            rewards.append(trajectory.reward)  # once, at tracing
            return tf.debugging.assert_non_negative(trajectory.reward)

        told, _ = driver(environment, player, observers=[watch]).run()
        assert rewards
        assert int(player.number) > 0
        assert int(environment.round) == 1 + int(player.number) + (driver is DynamicEpisodeDriver)  # it resets first
        assert told.observation["mask"].shape == (8, ITEMS)

    def test_the_seed_fixes_the_sessions(self):
        one, same, other = (stepped(self.make(seed), 4) for seed in (7, 7, 8))
        for mine, twin in zip(one, same, strict=True):
            for part, wanted in zip(mine, twin, strict=True):
                np.testing.assert_array_equal(part, wanted)
        assert not np.array_equal(one[-1][-1], other[-1][-1])

    def test_stepping_eagerly_and_a_compiled_loop_play_the_same(self):
        steps = 2 * STEPS
        eager = [np.stack(parts) for parts in zip(*stepped(self.make(4), steps), strict=True)]
        loop = compiled(self.make(4), steps)
        for kind in (ts.StepType.FIRST, ts.StepType.LAST):
            assert (eager[0] == kind).any()
        for mine, wanted in zip(loop[:4], eager[:4], strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-6)
        np.testing.assert_allclose(loop[4], eager[4], atol=2e-6)

    def test_after_its_last_step_a_session_restarts_and_the_action_counts_for_nothing(self):
        environment = self.make(5)
        rows = stepped(environment, 3 * STEPS)
        restarts = 0
        for (kind, *_), (after, reward, discount, mask, _) in itertools.pairwise(rows):
            ended = kind == ts.StepType.LAST
            np.testing.assert_array_equal(after == ts.StepType.FIRST, ended)
            assert (reward[ended] == 0).all()
            assert (discount[ended] == 1).all()
            assert (mask[ended] == 1).all()
            restarts += ended.sum()
        assert restarts > 10

    def test_whoever_leaves_is_terminated_and_whoever_is_cut_is_truncated(self, records):
        steps = np.stack([record.step.session.user_state.step for record in records])
        stays = np.stack([record.step.response.stays for record in records])
        np.testing.assert_array_equal(np.stack([record.step.terminated for record in records]), ~stays)
        cut = stays & (steps == self.make().config.max_episode_steps)
        np.testing.assert_array_equal(np.stack([record.step.truncated for record in records]), cut)
        assert cut.any()

    def test_termination_has_discount_0_and_truncation_1(self):
        for stay, discount in ((1e-9, 0.0), (1 - 1e-7, 1.0)):
            environment = self.make(world={"stay": stay, "fatigue": (0.0, 0.0)}, max_episode_steps=1)
            ((kind, _, got, _, _),) = stepped(environment, 1)
            assert (kind == ts.StepType.LAST).all()
            np.testing.assert_array_equal(got, discount)

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
        environment = self.make(batch_size=64)
        context = environment._context.numpy()
        for record in records[:5]:
            features, mask = environment.observe(record.before)
            np.testing.assert_array_equal(mask, ~record.before.user_state.shown)
            np.testing.assert_array_equal(features[:, : context.shape[1]], context[record.before.user_state.user])
            np.testing.assert_array_equal(features[:, context.shape[1] :], record.before.history_state)

    def test_every_user_comes_alike(self):
        """n = 20,000 first users: each within 4.5 standard errors of 1/30."""
        environment = self.make(batch_size=20_000)
        user = environment.restart(None, None, environment.noise(tf.constant(1))).user_state.user.numpy()
        share = np.bincount(user, minlength=30) / 20_000
        np.testing.assert_allclose(share, 1 / 30, atol=4.5 * np.sqrt(29 / 900 / 20_000))

    @pytest.mark.parametrize(("reward", "low", "high"), [("like", 0, 1), ("watch", 0, 1), ("rating", 0, 5)])
    def test_rewards_are_what_the_config_says(self, reward, low, high):
        for record in play(self.make(reward=reward), 5):
            response, paid = record.step.response, record.step.reward
            wanted = {"like": response.like, "watch": response.level / 4, "rating": 1 + response.level}[reward]
            np.testing.assert_array_equal(paid, self.paid(wanted, response))
            assert low <= paid.min() <= paid.max() <= high

    def paid(self, wanted: np.ndarray, response) -> np.ndarray:
        """What is paid for a response worth `wanted`."""
        return wanted

    def test_reward_decays_by_step(self):
        plain, decayed = (play(self.make(6, reward_decay=decay), 6) for decay in (1.0, 0.5))
        for one, other in zip(plain, decayed, strict=True):
            factor = 0.5 ** one.before.user_state.step.astype(float)
            np.testing.assert_allclose(other.step.reward, factor * one.step.reward)
        assert max(record.before.user_state.step.max() for record in plain) > 2

    def test_session_lengths_are_geometric_when_staying_is_constant(self):
        """c = .6 and cut at 8: mean (1 - c^8) / (1 - c) = 2.458; n = 4,000 sessions, 4.5 standard errors.

        P(length > k) = c^k for k < 8, each a binomial share.
        """
        world = {"stay": 0.6, "fatigue": (0.0, 0.0), "items": 60}
        length = first_lengths(play(self.make(1, batch_size=4000, world=world, max_episode_steps=8), 8))
        assert abs(length.mean() - (1 - 0.6**8) / 0.4) < 4.5 * length.std() / np.sqrt(4000)
        for k in range(1, 8):
            share = 0.6**k
            assert abs((length > k).mean() - share) < 4.5 * np.sqrt(share * (1 - share) / 4000)
        assert length.max() == 8

    def test_the_batch_size_is_honoured(self):
        environment = self.make(batch_size=3)
        assert environment.batch_size == 3
        assert {part.shape[0] for part in tf.nest.flatten(environment.reset())} == {3}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 0}, "batch_size is 0: expected greater than 0"),
            ({"last_n": 0}, "last_n is 0: expected greater than 0"),
            ({"max_episode_steps": 0}, "max_episode_steps is 0: expected greater than 0"),
            ({"reward_decay": 0.0}, r"reward_decay is 0.0: expected greater than 0"),
            ({"reward_decay": 1.1}, r"reward_decay is 1.1: expected less than or equal to 1"),
            ({"view": "interests"}, "view is 'interests': expected 'interest', 'last_item' or 'last_n'"),
            ({"reward": "likes"}, "reward is 'likes': expected 'like', 'watch' or 'rating'"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            self.config(**settings)

    def test_more_steps_than_the_world_knows_are_refused(self):
        with pytest.raises(ConfigError, match="the world knows 8 steps"):
            self.make(max_episode_steps=STEPS + 1)
