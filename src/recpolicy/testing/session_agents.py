"""The contract of session agents, and random experience for their updates.

T steps, B sessions, A items, O columns of the observation. The contract trains the agent in the planted world of
synthetic_sessions.py unless a subclass defines another environment.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.agents.tf_agent import TFAgent
from tf_agents.drivers.dynamic_step_driver import DynamicStepDriver
from tf_agents.policies.tf_policy import TFPolicy
from tf_agents.replay_buffers.tf_uniform_replay_buffer import TFUniformReplayBuffer
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory

from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.sequence import SessionAgent, experience_from_trajectory
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session import SessionEnvironment
from recpolicy.testing.session_environments import planted_environment
from recpolicy.training.session_loop import SessionLoop

_SEED = tf.constant([1, 1], tf.int32)
_BATCH = 8
_STEPS = 8
_PENALTY = 1e9


def random_experience(
    environment: SessionEnvironment, steps: int, seed: int = 0, *, end_probability: float = 0.2, **parts: Any
) -> Experience:
    """Draw experience of uniformly random, allowed actions; observations and rewards have no meaning.

    Args:
        environment: The environment whose specs and batch size B the experience has.
        steps: Number T of steps.
        seed: Seed of the draw.
        end_probability: Probability that a step is terminated; half of it that another step is truncated.
        parts: Arrays [T, B, ...] that replace drawn parts, by their names in Experience.

    Returns:
        The experience.
    """
    rng = np.random.default_rng([seed, 5])
    shape = (steps, environment.batch_size)
    width = environment.time_step_spec().observation["global"].shape[0]
    mask, next_mask = (rng.random((*shape, environment.actions)) < 0.8 for _ in range(2))
    mask[..., 0] = next_mask[..., 0] = True
    action = np.argmax(rng.random(mask.shape) * mask, axis=-1)
    terminated = rng.random(shape) < end_probability
    drawn = {
        "observation": rng.normal(0, 0.5, (*shape, width)),
        "mask": mask,
        "action": action,
        "log_probability": -np.log(mask.sum(axis=-1)),
        "reward": rng.random(shape) < 0.5,
        "terminated": terminated,
        "truncated": ~terminated & (rng.random(shape) < end_probability / 2),
        "next_observation": rng.normal(0, 0.5, (*shape, width)),
        "next_mask": next_mask,
    } | parts
    kinds = {"action": tf.int32} | dict.fromkeys(("mask", "terminated", "truncated", "next_mask"), tf.bool)
    return Experience(**{name: tf.cast(tf.constant(part), kinds.get(name, tf.float32)) for name, part in drawn.items()})


def _arrays(agent: SessionAgent) -> dict[str, NDArray[Any]]:
    """Return copies of the arrays that the learner exports."""
    return {name: array.copy() for name, array in agent.learner.export().arrays.items()}


def _changed(before: dict[str, NDArray[Any]], after: dict[str, NDArray[Any]]) -> bool:
    return any(not np.array_equal(array, after[name]) for name, array in before.items())


def _penalize_repeats(environment: SessionEnvironment) -> SessionEnvironment:
    """Make the environment take a billion off the reward of an item that its session has shown before."""
    transition = environment.transition

    def penalized(session, action, noise):
        step = transition(session, action, noise)
        repeats = tf.gather(session.user_state.shown, action, batch_dims=1)
        return step._replace(reward=step.reward - _PENALTY * tf.cast(repeats, tf.float32))

    environment.transition = penalized  # type: ignore[method-assign]
    return environment


@dataclass
class _Trained:
    """An agent after two calls of the compiled loop."""

    agent: SessionAgent
    before: dict[str, NDArray[Any]]
    results: tuple[Any, Any]


class SessionAgentContract(abc.ABC):
    """Checks that every session agent must pass; inherit and define `make`."""

    blocks = 20
    """Blocks of experience per call of the compiled loop, which is called twice."""
    draws = 20_000
    """Sampled actions per check of probabilities."""

    @abc.abstractmethod
    def make(self, seed: int = 0) -> SessionAgent:
        """Return a fresh agent for the specs of `make_environment`."""

    def make_environment(self, seed: int = 0, batch_size: int = _BATCH) -> SessionEnvironment:
        """Return a fresh environment: the planted world, with sessions of at most 8 items."""
        return planted_environment(None, seed, batch_size)

    @pytest.fixture(scope="class")
    @classmethod
    def make_agent(cls) -> Callable[[int], SessionAgent]:
        """Return the factory of the agent under test; override it to test several agents with one class."""
        return cls().make

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, make_agent) -> _Trained:
        agent, environment = make_agent(0), _penalize_repeats(cls().make_environment(0, 64))
        before, loop = _arrays(agent), SessionLoop(environment, agent)
        return _Trained(agent, before, (loop.run(cls.blocks), loop.run(cls.blocks)))

    @pytest.fixture(scope="class")
    @classmethod
    def observation(cls) -> dict[str, tf.Tensor]:
        """Return random observations [B, ...] in the middle of sessions; the first three items are allowed."""
        environment, rng = cls().make_environment(), np.random.default_rng(7)
        mask = rng.integers(0, 2, (_BATCH, environment.actions))
        mask[:, :3] = 1
        width = environment.time_step_spec().observation["global"].shape[0]
        features = rng.normal(0, 0.5, (_BATCH, width)).astype(np.float32)
        return {"global": tf.constant(features), "mask": tf.constant(mask, tf.int32)}

    def test_it_is_a_tf_agent_whose_policies_obey_their_specs(self, make_agent, observation):
        agent, time_step = make_agent(0), ts.restart(observation, _BATCH)
        assert isinstance(agent, TFAgent)
        for policy in (agent.policy, agent.collect_policy):
            assert isinstance(policy, TFPolicy)
            assert policy.action_spec == agent.action_spec
            step = policy.action(time_step)
            tf.nest.assert_same_structure(step, policy.policy_step_spec)
            for part, spec in zip(tf.nest.flatten(step), tf.nest.flatten(policy.policy_step_spec), strict=True):
                assert (part.dtype, part.shape) == (spec.dtype, (_BATCH, *spec.shape))

    @pytest.mark.parametrize("row", [0, 1])
    def test_the_reported_log_probability_is_that_of_the_action(self, trained, observation, row):
        """Check `draws` actions in one situation: shares within 4.5 standard errors, no masked item."""
        policy, learner = trained.agent.collect_policy, trained.agent.learner
        logits = learner.logits(observation["global"], tf.cast(observation["mask"], tf.bool))
        probability = tf.nn.softmax(logits[row]).numpy()
        many = {key: tf.repeat(part[row : row + 1], self.draws, axis=0) for key, part in observation.items()}
        step = policy.action(ts.restart(many, self.draws), (), seed=tf.constant([row, 2], tf.int32))
        action = step.action.numpy()
        np.testing.assert_allclose(np.exp(step.info.log_probability), probability[action], rtol=1e-3)
        share = np.bincount(action, minlength=len(probability)) / self.draws
        error = np.sqrt(probability * (1 - probability) / self.draws)
        np.testing.assert_array_less(np.abs(share - probability), 4.5 * error + 1e-5)
        assert (observation["mask"].numpy()[row, action] == 1).all()
        distribution = policy.distribution(ts.restart(observation, _BATCH)).action
        np.testing.assert_allclose(distribution.probs_parameter()[row], probability, atol=1e-5)

    def test_the_greedy_policy_plays_an_item_of_the_highest_score(self, trained, observation):
        step = trained.agent.policy.action(ts.restart(observation, _BATCH))
        mask = tf.cast(observation["mask"], tf.bool)
        scores = trained.agent.learner.scores(observation["global"], mask).numpy()
        np.testing.assert_array_equal(scores[np.arange(_BATCH), step.action.numpy()], scores.max(axis=1))
        assert (observation["mask"].numpy()[np.arange(_BATCH), step.action.numpy()] == 1).all()

    def test_no_item_is_shown_twice_in_a_compiled_session(self, trained):
        for result in trained.results:
            assert result.reward_per_step > -10, "a session showed an item twice"

    def test_everything_is_finite_after_training(self, trained, observation):
        learner = trained.agent.learner
        for result in trained.results:
            assert set(result.figures) == set(learner.figures)
            assert np.isfinite(list(result.figures.values())).all()
        exported = learner.export()
        for name, array in exported.arrays.items():
            assert np.isfinite(array).all(), name
        assert np.isfinite(list(exported.settings.values())).all()
        value = learner.value(observation["global"], None)
        assert value.shape == (_BATCH,)
        assert np.isfinite(value).all()

    def test_learning_changes_the_policy(self, trained, make_agent, observation):
        after = _arrays(trained.agent)
        assert set(after) == set(trained.before)
        assert _changed(trained.before, after)
        seen = observation["global"], tf.cast(observation["mask"], tf.bool)
        assert not np.allclose(trained.agent.learner.logits(*seen), make_agent(0).learner.logits(*seen), atol=1e-3)
        assert int(trained.agent.train_step_counter.numpy()) == 2 * self.blocks

    def test_the_seed_fixes_actions_and_updates(self, make_agent):
        first, same, other = (self._learning_actions(make_agent(seed)) for seed in (3, 3, 4))
        assert first == same
        assert first != other

    def _learning_actions(self, agent: SessionAgent, blocks: int = 3) -> list[list[int]]:
        """Let the agent act on random experience and learn from it, eagerly; return its actions [blocks][T B]."""
        environment, learner, actions = self.make_environment(), agent.learner, []
        for number in range(blocks):
            block = random_experience(environment, 4, number)
            shape, size = block.action.shape, 4 * _BATCH
            learner.prepare(size)
            points = uniform([size], fold_in(agent.action_seed, number))
            action, log_probability = learner.sample_action(flatten(block.observation), flatten(block.mask), points)
            block = block._replace(action=tf.reshape(action, shape), log_probability=tf.reshape(log_probability, shape))
            learner.update(block, fold_in(agent.learn_seed, number))
            actions.append(action.numpy().tolist())
        return actions

    def test_later_rewards_count_after_a_cut_and_not_after_an_end(self, make_agent):
        """Learn from blocks that differ in the next observations alone: all steps truncated, then all terminated."""
        environment = self.make_environment()
        never, always = np.zeros((_STEPS, _BATCH), bool), np.ones((_STEPS, _BATCH), bool)
        for terminated in (never, always):
            learned = []
            for scale in (1.0, -2.0):
                agent = make_agent(0)
                agent.learner.prepare(_STEPS * _BATCH)
                for number in range(3):  # the first blocks give values that are not 0
                    block = random_experience(environment, _STEPS, number, terminated=terminated, truncated=~terminated)
                    agent.learner.update(block._replace(next_observation=scale * block.next_observation), _SEED)
                learned.append(_arrays(agent))
            same = all(np.allclose(learned[0][name], array, atol=1e-6) for name, array in learned[1].items())
            assert same == terminated.all()

    def test_tf_agents_train_learns_as_the_learner_does(self, make_agent):
        """Compare `train` on the trajectory of a TF-Agents driver with an update from the same experience."""
        agent, twin = make_agent(0), make_agent(0)
        played = drive(self.make_environment(), agent, 3 * _STEPS)
        before, loss = _arrays(agent), agent.train(played)
        experience = experience_from_trajectory(played)
        twin.learner.prepare(experience.action.shape.num_elements())
        figures = twin.learner.update(experience, fold_in(twin.learn_seed, 0))
        assert float(loss.loss) == pytest.approx(float(figures["loss"]), rel=1e-4, abs=1e-6)
        assert set(loss.extra) == set(agent.learner.figures)
        assert int(agent.train_step_counter.numpy()) == 1
        expected = _arrays(twin)
        for name, array in _arrays(agent).items():
            np.testing.assert_allclose(array, expected[name], atol=1e-5)
        assert _changed(before, expected)


def drive(environment: SessionEnvironment, agent: SessionAgent, steps: int) -> trajectory.Trajectory:
    """Return the trajectory [B, steps + 1, ...] of a TF-Agents driver that plays an agent."""
    batch = environment.batch_size
    buffer = TFUniformReplayBuffer(agent.collect_data_spec, batch_size=batch, max_length=steps + 1)
    DynamicStepDriver(environment, agent.collect_policy, observers=[buffer.add_batch], num_steps=steps * batch).run()
    return buffer.gather_all()
