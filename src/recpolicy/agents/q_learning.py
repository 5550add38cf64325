"""Tabular Q-learning over discretized contexts.

A state s is a cell of chosen columns of the observation, cut at chosen edges. Q(s, a) = start(x, a) + table[s, a],
where start is the rating model's expectation over `temperature`. Hence an unvisited cell falls back to the rating
model's ranking. A block of N steps moves each of its (s, a) by learning_rate times the mean of its errors

    r + gamma (1 - terminated) max over items not yet shown of Q(s', .) - Q(s, a).

It explores by epsilon-greedy, or by UCB1 on visit counts, Q + c sqrt(ln N(s) / n(s, a)), after each item once.
S cells, An items. Sources: Watkins & Dayan 1992; Auer, Cesa-Bianchi & Fischer 2002.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import tensorflow as tf
from annotated_types import Interval

from recpolicy.agents import action_distributions, categorical
from recpolicy.agents.dqn import largest
from recpolicy.agents.epsilon_schedule import EpsilonScheduleConfig, compute_epsilon
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.observation import context_width
from recpolicy.agents.reward_normalizer import RewardNormalizerConfig
from recpolicy.agents.sequence import Figures, SessionAgent, SessionLearner
from recpolicy.core.config import (
    Count,
    Fraction,
    NonNegativeNumber,
    Number,
    PositiveFraction,
    Temperature,
    config_dataclass,
)
from recpolicy.core.errors import ConfigError
from recpolicy.models.sequence_layout import SequenceLayout

Column = Annotated[int, Interval(ge=-(10**6), le=10**6)]


@config_dataclass
class QLearningConfig(RewardNormalizerConfig, EpsilonScheduleConfig):
    """Settings of tabular Q-learning."""

    learning_rate: PositiveFraction = 0.1
    """Step size, in (0, 1]."""
    gamma: Fraction = 0.9
    """Discount per item, in [0, 1]."""
    train_freq: Count = 4
    """Steps of each session between updates."""
    temperature: Temperature = 4.0
    """Initial points of expected rating per unit of value; must be > 0."""
    columns: tuple[Column, ...] = (0, 1, 2, -2, -1)
    """Columns of the observation that define a cell; negative ones count from its end. With the encoder `interest`
    the last two are consecutive misses and steps."""
    edges: tuple[tuple[Number, ...], ...] = ((0.0,), (0.0,), (0.0,), (0.1, 0.3), (0.2, 0.5))
    """Ascending edges at which each column is cut."""
    exploration: Literal["epsilon_greedy", "ucb1"] = "epsilon_greedy"
    """Exploration method."""
    ucb_c: NonNegativeNumber = math.sqrt(2.0)
    """Constant c of UCB1."""

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.edges) or any(list(cut) != sorted(cut) for cut in self.edges):
            raise ConfigError(
                f"QLearningConfig: {len(self.columns)} columns and edges {self.edges}: expected one ascending list of"
                " edges for each column"
            )
        super().__post_init__()


class QLearning(SessionLearner):
    """A tabular Q-learning learner: the table, its visit counts and the rating model's start."""

    wants_next_mask = True
    figures = ("loss", "value_mean", "max_q_value", "coverage", "epsilon")

    def __init__(self, actions: int, arms: ItemFeatures | None, config: QLearningConfig):
        super().__init__("q_learning", normalize_reward=config.normalize_reward)
        self.config, self.n_steps = config, config.train_freq
        self._sizes = [len(cut) + 1 for cut in config.edges]
        cells = int(np.prod(self._sizes))
        self.table = tf.Variable(tf.zeros([cells, actions]), trainable=False, name="table")
        self.visits = tf.Variable(tf.zeros([cells, actions]), trainable=False, name="visits")
        self._blocks = tf.Variable(0, trainable=False, name="blocks")
        self._arms = None if arms is None else (tf.constant(arms.embedding), tf.constant(arms.offset))

    def cell(self, observation: tf.Tensor) -> tf.Tensor:
        """Return the cell [B] of each observation, 0..S-1."""
        number = tf.zeros([tf.shape(observation)[0]], tf.int32)
        for column, cut, size in zip(self.config.columns, self.config.edges, self._sizes, strict=True):
            above = observation[:, column, tf.newaxis] > tf.constant(cut)
            number = number * size + tf.reduce_sum(tf.cast(above, tf.int32), axis=1)
        return number

    def values(self, observation: tf.Tensor) -> tf.Tensor:
        """Return unmasked Q-values [B, A] in the unit of learning."""
        learnt = tf.gather(self.table, self.cell(observation))
        if self._arms is None:
            return learnt
        embedding, offset = self._arms
        user = observation[:, : embedding.shape[1]]
        return learnt + (offset + tf.matmul(user, embedding, transpose_b=True)) / self.config.temperature

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return Q-values [B, A]."""
        return categorical.mask_logits(self._rewards.original(self.values(observation)), mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the value of the best allowed item [B]."""
        return tf.reduce_max(self.scores(observation, mask), axis=1)

    def epsilon(self) -> tf.Tensor:
        """Return the current probability of exploration; 0 with UCB1."""
        config = self.config
        if config.exploration == "ucb1":
            return tf.constant(0.0)
        return compute_epsilon(config, self._blocks)

    def logits(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-probabilities [B, A] of epsilon-greedy or UCB1; ties get equal shares."""
        values = self.values(observation)
        if self.config.exploration == "ucb1":
            values = ucb1(values, tf.gather(self.visits, self.cell(observation)), self.config.ucb_c)
            probability = action_distributions.greedy(values, mask)
        else:
            probability = action_distributions.epsilon_greedy(values, self.epsilon(), mask)
        return tf.where(probability > 0.0, tf.math.log(tf.maximum(probability, 1e-30)), categorical.MASKED)

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:  # noqa: ARG002 - nothing is random
        """Update every cell that the block visited."""
        observation, action = flatten(experience.observation), flatten(experience.action)
        self._rewards.take_in(experience.reward)
        reward = self._rewards.normalized(flatten(experience.reward))
        later = self.values(flatten(experience.next_observation))
        following = tf.reduce_max(categorical.mask_logits(later, flatten(experience.next_mask)), axis=1)
        terminated = flatten(experience.terminated)
        values = self.values(observation)
        now = tf.gather(values, action, batch_dims=1)
        error = reward + self.config.gamma * tf.where(terminated, 0.0, following) - now
        place = tf.stack([self.cell(observation), action], axis=1)
        count = tf.scatter_nd(place, tf.ones_like(error), self.table.shape)
        total = tf.scatter_nd(place, error, self.table.shape)
        self.table.assign_add(self.config.learning_rate * tf.math.divide_no_nan(total, count))
        self.visits.assign_add(count)
        self._blocks.assign_add(1)
        return {
            "loss": self._rewards.original_square(tf.reduce_mean(tf.square(error))),
            "value_mean": self._rewards.original(tf.reduce_mean(now)),
            "max_q_value": self._rewards.original(largest(values)),
            "coverage": tf.reduce_mean(tf.cast(self.visits > 0.0, tf.float32)), "epsilon": self.epsilon(),
        }  # fmt: skip

    def export(self) -> ExportedPolicy:
        """Return the table, the visit counts and the definition of the cells as arrays."""
        unit = self.reward_std
        arrays: dict[str, Any] = {"q_table": self.table.numpy() * np.float32(unit), "visits": self.visits.numpy()}
        arrays["columns"] = np.array(self.config.columns, np.int32)
        for index, cut in enumerate(self.config.edges):
            arrays[f"edges_{index}"] = np.array(cut, np.float32)
        if self._arms is not None:
            arrays |= {"embedding": self._arms[0].numpy(), "offset": self._arms[1].numpy()}
        arrays["temperature"] = np.array(self.config.temperature / unit, np.float32)
        if self.config.exploration == "ucb1":
            arrays["ucb"] = np.array(self.config.ucb_c * unit)
            return ExportedPolicy("session_table", "optimistic", {}, arrays)
        settings = {"epsilon": float(self.epsilon())}
        return ExportedPolicy("session_table", "epsilon_greedy_score", settings, arrays)


def ucb1(value: tf.Tensor, visits: tf.Tensor, c: float) -> tf.Tensor:
    """Return value + c sqrt(ln N / n) [B, A], N the row's visits; items never shown come first."""
    total = tf.reduce_sum(visits, axis=1, keepdims=True)
    bonus = c * tf.sqrt(tf.math.log(tf.maximum(total, 1.0)) / tf.maximum(visits, 1.0))
    return tf.where(visits > 0.0, value + bonus, 1e6)


def make_q_learning(
    spec: Any, action_spec: Any, config: QLearningConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return a tabular agent; without `arms` the table starts at 0. It has no network that could read a sequence."""
    if sequence is not None:
        raise ConfigError(
            f"q_learning: a table cannot learn to read the view {sequence.kind}; take interest, last_item or last_n"
        )
    width = context_width(spec)
    if any(not -width <= column < width for column in config.columns):
        raise ConfigError(f"QLearningConfig.columns {config.columns}: the observation has {width} columns")
    return SessionAgent(spec, action_spec, QLearning(int(action_spec.maximum) + 1, arms, config), seed=seed)
