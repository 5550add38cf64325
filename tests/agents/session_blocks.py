"""What the tests of session agents share: the planted sessions, small agents of all kinds, made-up experience.

T steps, B sessions, A = 24 items, O = 16 columns of the observation.
"""

from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.experience import Experience
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.sequence import SessionAgent
from recpolicy.environments.session import SessionEnvironment
from recpolicy.testing import PlantedSessions, planted_environment, planted_items, planted_sessions, random_experience

BATCH = 8


_NETWORK = {"layers": (16,), "learning_rate": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": _NETWORK,
    "ppo": _NETWORK | {"n_steps": 6, "n_epochs": 2, "minibatch_size": 16},
    "reinforce": _NETWORK,
    "topk_reinforce": _NETWORK | {"n_epochs": 2},
    "offpolicy_actor_critic": _NETWORK,
    "dqn": _NETWORK | {"batch_size": 32, "gradient_steps": 2, "buffer_size": 640, "exploration_top_k": 6},
    "q_learning": {"learning_rate": 0.5},
    "behavior_cloning": _NETWORK,
}
"""What suits a small world."""


@cache
def world() -> PlantedSessions:
    return planted_sessions()


def environment(seed: int = 0, batch_size: int = BATCH, **config: Any) -> SessionEnvironment:
    """The planted sessions with their dynamics."""
    return planted_environment(world(), seed, batch_size, **config)


@cache
def specs(view: str = "interest") -> tuple[Any, Any]:
    one = environment(view=view)
    return one.time_step_spec(), one.action_spec()


@cache
def arms() -> ItemFeatures:
    """The tables of the planted items."""
    return planted_items(world())


def make(name: str, seed: int = 0, *, tables: bool = True, view: str = "interest", **settings: Any) -> SessionAgent:
    """A small agent; without `tables` it knows nothing of the items and its head is plain."""
    entry = SESSION_AGENTS[name]
    config = entry.config(**SETTINGS[name] | settings)
    sequence = environment(view=view).view.sequence
    return entry.make(*specs(view), config, arms() if tables else None, seed, sequence)


def expected_ratings(observation: np.ndarray) -> np.ndarray:
    """What the rating model expects [B, A] of the users in the observations [B, O]."""
    table = arms()
    return table.offset + observation[:, : table.embedding.shape[1]] @ table.embedding.T


def observations(rows: int, seed: int = 0, view: str = "interest") -> np.ndarray:
    """Made-up observations [rows, O] of the right width."""
    width = specs(view)[0].observation["global"].shape[0]
    return np.random.default_rng(seed).normal(0, 0.5, (rows, width)).astype(np.float32)


def block(steps: int, seed: int = 0, *, batch: int = BATCH, ends: float = 0.2, **given: Any) -> Experience:
    """A made-up block of uniformly random, allowed actions; `given` parts are taken as they are."""
    return random_experience(_game(batch), steps, seed, end_probability=ends, **given)


@cache
def _game(batch: int) -> SessionEnvironment:
    return environment(batch_size=batch)


def arrays_of(agent: SessionAgent) -> dict[str, np.ndarray]:
    """Everything that the learner knows, by the names of its export."""
    return {name: array.copy() for name, array in agent.learner.export().arrays.items()}


def small_specs(width: int, actions: int) -> tuple[Any, Any]:
    """Specs of a toy with O = width and A = actions."""
    observation = {
        "global": tensor_spec.TensorSpec((width,), tf.float32, "global"),
        "mask": tensor_spec.TensorSpec((actions,), tf.int32, "mask"),
    }
    return ts.time_step_spec(observation), tensor_spec.BoundedTensorSpec((), tf.int32, 0, actions - 1, name="action")


def rounds(action: Any, reward: Any, log_probability: Any, actions: int) -> Experience:
    """Sessions of a single step [1, B] that all look alike and end there: a bandit with nothing to see."""
    count = len(action)
    seen, allowed = tf.zeros([1, count, 1]), tf.ones([1, count, actions], tf.bool)
    return Experience(
        observation=seen, mask=allowed, action=tf.constant([action], tf.int32),
        log_probability=tf.constant([log_probability], tf.float32), reward=tf.constant([reward], tf.float32),
        terminated=tf.ones([1, count], tf.bool), truncated=tf.zeros([1, count], tf.bool),
        next_observation=seen, next_mask=allowed,
    )  # fmt: skip


class Recorder:
    """In place of an actor's trainer: takes no step and keeps the gradients, by the weights' names and places."""

    def __init__(self, agent: SessionAgent):
        self.agent, self.gradients = agent, []

    def descend(self, tape: tf.GradientTape, loss: tf.Tensor) -> tf.Tensor:
        weights = self.agent.learner.trainable_variables
        zero = tf.UnconnectedGradients.ZERO
        self.gradients.append([part.numpy() for part in tape.gradient(loss, weights, unconnected_gradients=zero)])
        return tf.constant(0.0)


def gradients(agent: SessionAgent, experience: Experience) -> dict[int, np.ndarray]:
    """The gradient of the first step of an update with respect to each weight, by its id."""
    learner, kept = agent.learner, agent.learner._trainer
    recorder = learner._trainer = Recorder(agent)
    try:
        learner.update(experience, tf.constant([1, 1], tf.int32))
    finally:
        learner._trainer = kept
    return {id(weight): one for weight, one in zip(learner.trainable_variables, recorder.gradients[0], strict=True)}


def set_policy(agent: SessionAgent, scores: Any) -> tf.Variable:
    """Make the plain head's scores the given ones [A] everywhere; returns the bias that holds them."""
    bias = next(part for part in agent.learner.trainable_variables if part.shape == (len(scores),))
    bias.assign(tf.constant(scores, tf.float32))
    return bias
