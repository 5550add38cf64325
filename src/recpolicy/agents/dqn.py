"""DQN for items: double and dueling, with a soft target network and softmax exploration among the top K.

y = r + gamma (1 - terminated) Q_target(s', a*), a* = argmax over items not yet shown of Q(s', .) (double) or of
Q_target (plain); Huber loss of y - Q(s, a). Q starts as the rating model's expectation over `temperature`, plus the
constant `value_offset`, so the untrained agent ranks as the rating model does. agents/value_scale.py chooses both such
that first errors are of the size of rewards. With probability epsilon the agent draws an item from the softmax of the
K highest values, else it shows the best item. B sessions, N = T B steps per block.

The divergence from an initial policy (divergence_limit.py) is that of softmax policies of both networks' values over
all allowed items, at `reference_temperature`. The agent's own policies cannot serve: greedy parts have no gradient,
and the K highest values of two networks are different items, so their divergence is infinite. Constants of values and
V(s) cancel.
Sources: Mnih et al. 2015; van Hasselt et al. 2015 (1509.06461); Wang et al. 2015 (1511.06581); exploration and start
after Ben Ayed et al. 2025 (2508.00201), who do not publish K and schedule; ours are below.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from recpolicy.agents import action_distributions, categorical
from recpolicy.agents.divergence_limit import REFERENCE_KL, SoftenedLimitConfig
from recpolicy.agents.epsilon_schedule import EpsilonScheduleConfig, compute_epsilon
from recpolicy.agents.experience import Experience
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.observation import context_width
from recpolicy.agents.reference_policy import LimitedLearner
from recpolicy.agents.replay import Batch, Replay
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.agents.session_networks import ItemScores, SessionNetworkConfig, Trainer, make_scores
from recpolicy.core.config import Count, Fraction, Number, PositiveFraction, Size, Temperature, config_dataclass
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.models.sequence_layout import SequenceLayout


@config_dataclass
class DQNConfig(EpsilonScheduleConfig, SoftenedLimitConfig, SessionNetworkConfig):
    """Settings of DQN."""

    temperature: Temperature = 4.0
    """Initial points of expected rating per unit of value (dot head); must be > 0."""
    value_offset: Number = 0.0
    """Constant part of every value, in the unit of learning; it changes targets and no ranking."""
    gamma: Fraction = 0.9
    """Discount per item, in [0, 1]."""
    double: bool = True
    """Choose the next item with the online network and evaluate it with the target network."""
    dueling: bool = False
    """Use Q = V(s) + score - mean score, with V as a separate output of the network."""
    tau: PositiveFraction = 0.01
    """Share of the online weights in the target network's moving average at each update."""
    train_freq: Count = 4
    """Steps of each session between rounds of updates."""
    gradient_steps: Count = 4
    """Gradient steps per block."""
    batch_size: Size = 256
    """Steps per gradient step."""
    buffer_size: Count = 20_000
    """Capacity of the replay buffer, in steps."""
    exploration_top_k: Size = 50
    """Number K of best items among which exploration draws."""
    exploration_temperature: Temperature = 1.0
    """Softmax temperature of exploration, in units of value; must be > 0."""


_OF_STEPS = ("loss", "value_mean", "target_mean", "max_q_value", "gradient_norm")
"""Figures that are means over gradient steps."""


class DQN(LimitedLearner):
    """A DQN learner: online and target networks and a replay buffer."""

    wants_next_mask = True
    figures = (*_OF_STEPS, "epsilon")

    def __init__(self, online: ItemScores, target: ItemScores, width: int, actions: int, config: DQNConfig):
        super().__init__("dqn", normalize_reward=config.normalize_reward)
        self._online, self._target, self.config, self.n_steps = online, target, config, config.train_freq
        self._width, self._actions = width, actions
        self._blocks = tf.Variable(0, trainable=False, name="blocks")
        self._copy(1.0)
        self._trainer = Trainer(online.weights, config)
        self._replay: Replay | None = None

    def prepare(self, block: int) -> None:
        """Create the replay buffer, in blocks of `block` steps."""
        if self._replay is None:
            self._replay = Replay(max(1, self.config.buffer_size // block), block, self._width, self._actions)

    def release(self) -> None:
        """Free the replay buffer: a policy does not need it, and with 1,682 items it takes 40 MB; drop any limit."""
        super().release()
        del self._replay  # TensorFlow would still save an attribute that is only overwritten
        self._replay = None

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return Q-values [B, A] without the constant `value_offset`: its rounding could tie two items."""
        return categorical.mask_logits(self._rewards.original(self._preferences(self._online, observation)), mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the value of the best allowed item [B]."""
        return tf.reduce_max(self.scores(observation, mask), axis=1) + self._rewards.original(self.config.value_offset)

    def epsilon(self) -> tf.Tensor:
        """Return the current probability of exploration."""
        return compute_epsilon(self.config, self._blocks)

    def logits(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-probabilities [B, A]: the best item, or with probability epsilon one of the top K."""
        scores = categorical.mask_logits(self._preferences(self._online, observation), mask)
        epsilon = self.epsilon()
        explored = tf.nn.softmax(
            top_k_logits(scores, self.config.exploration_top_k, self.config.exploration_temperature)
        )
        probability = epsilon * explored + (1.0 - epsilon) * action_distributions.greedy(scores, mask)
        return tf.where(probability > 0.0, tf.math.log(tf.maximum(probability, 1e-30)), categorical.MASKED)

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:
        """Store the block, then take `gradient_steps` steps on batches from the replay buffer."""
        assert self._replay is not None, "prepare() comes before learn()"
        self._rewards.take_in(experience.reward)
        self._replay.write(experience)
        replay = self._replay

        def step(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            figures = self._step(replay.draw(self.config.batch_size, fold_in(seed, index)))
            return index + 1, sums + figures

        start = (tf.constant(0), tf.zeros([len(self._step_figures)]))
        _, sums = tf.while_loop(lambda i, _: i < self.config.gradient_steps, step, start)
        self._blocks.assign_add(1)
        means = tf.unstack(sums / self.config.gradient_steps)
        return {**dict(zip(self._step_figures, means, strict=True)), "epsilon": self.epsilon()}

    def update_batch(self, batch: Batch) -> Figures:
        """Take one gradient step on items from any policy; it counts as a block in the exploration schedule."""
        self._rewards.take_in(batch.reward)
        figures = self._step(batch)
        self._blocks.assign_add(1)
        return {**dict(zip(self._step_figures, tf.unstack(figures), strict=True)), "epsilon": self.epsilon()}

    @property
    def _step_figures(self) -> tuple[str, ...]:
        return _OF_STEPS if self._limit is None else (*_OF_STEPS, REFERENCE_KL)

    def _step(self, batch: Batch) -> tf.Tensor:
        batch = batch._replace(reward=self._rewards.normalized(batch.reward))
        target = td_targets(
            batch, self._values(self._online, batch.next_observation),
            self._values(self._target, batch.next_observation), self.config.gamma, self.config.double,
        )  # fmt: skip
        # Allowed items: those of the next step, and the one that was shown.
        mask = batch.next_mask | tf.one_hot(batch.action, self._actions, True, False)
        with tf.GradientTape() as tape:
            preferences = self._preferences(self._online, batch.observation)
            values = preferences + self.config.value_offset
            value = categorical.at(values, batch.action)
            divergence = self._divergence(self._softened(preferences, mask), batch.observation, mask)
            loss = tf.reduce_mean(huber(target - value)) + self._penalty(divergence)
        norm = self._descend(tape, loss, batch.observation, mask)
        self._copy(self.config.tau)
        means = self._rewards.original(tf.stack([tf.reduce_mean(value), tf.reduce_mean(target), largest(values)]))
        return tf.stack([loss, *tf.unstack(means), norm, *self._limit_figures(divergence).values()])

    def _log_odds(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        return self._softened(self._preferences(self._online, observation), mask)

    def _reference_log_odds(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        assert self._limit is not None
        # The reference has the original unit of rewards, the preferences have that of learning.
        temperature = self.config.reference_temperature * self._rewards.std
        return self._limit.reference.scores(observation, mask, temperature)

    def _softened(self, preferences: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-odds [n, A] of the softmax of preferences at `reference_temperature`."""
        return categorical.mask_logits(preferences / self.config.reference_temperature, mask)

    def _values(self, network: ItemScores, observation: tf.Tensor) -> tf.Tensor:
        """Return unmasked Q-values [B, A] of a network, in the unit of learning."""
        return self._preferences(network, observation) + self.config.value_offset

    def _preferences(self, network: ItemScores, observation: tf.Tensor) -> tf.Tensor:
        """Return unmasked Q-values [B, A] without their constant part."""
        if not self.config.dueling:
            return network(observation, None)
        return network.dueling_values(observation)

    def _copy(self, share: float) -> None:
        for old, new in zip(self._target.weights, self._online.weights, strict=True):
            old.assign(soft_update(old, new, share))

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the online network of an exported policy; exploration starts anew."""
        self._online.load(arrays)
        self._copy(1.0)

    def export(self) -> ExportedPolicy:
        """Return the online network as arrays."""
        unit = self.reward_std
        settings = {
            "epsilon": float(self.epsilon()), "top_k": float(self.config.exploration_top_k),
            "temperature": self.config.exploration_temperature * unit,
        }  # fmt: skip
        arrays = self._online.arrays(unit) | {"dueling": np.array(self.config.dueling)}
        if self.config.value_offset:  # apart from the scores, whose rounding it could change
            arrays["value_offset"] = np.array(self.config.value_offset * unit, np.float32)
        return ExportedPolicy("session_values", "epsilon_top_k", settings, arrays)


def td_targets(batch: Batch, online: tf.Tensor, target: tf.Tensor, gamma: float, double: bool) -> tf.Tensor:
    """Return targets y [n] from both networks' values [n, A] of the next observation; ignore items already shown.

    The reward alone is the target where the session ends, and where every item was shown: nothing can follow.
    """
    chooser = online if double else target
    # Compare with the maximum and share among ties: XLA compiles an argmax badly after a matmul.
    best = action_distributions.greedy(chooser, batch.next_mask)
    following = tf.reduce_sum(best * target, axis=1)
    over = batch.terminated | ~tf.reduce_any(batch.next_mask, axis=1)
    return tf.stop_gradient(batch.reward + gamma * tf.where(over, 0.0, following))


def top_k_logits(scores: tf.Tensor, k: int, temperature: float) -> tf.Tensor:
    """Return scores / temperature, MASKED below the K highest of each row; ties with the K-th stay unmasked."""
    if k < scores.shape[1]:
        # Take their minimum, not their last: a slice makes XLA sort all scores instead of keeping k.
        lowest = tf.reduce_min(tf.math.top_k(scores, k).values, axis=1, keepdims=True)
        scores = tf.where(scores >= lowest, scores, categorical.MASKED)
    allowed = scores > 0.5 * categorical.MASKED
    # Relative to the highest, so that with a small temperature only items without a chance fall below MASKED.
    beneath = (scores - tf.reduce_max(scores, axis=1, keepdims=True)) / temperature
    return tf.where(allowed, tf.maximum(beneath, 0.5 * categorical.MASKED), categorical.MASKED)


def soft_update(old: tf.Tensor, new: tf.Tensor, tau: float) -> tf.Tensor:
    """Return (1 - tau) old + tau new."""
    return (1.0 - tau) * old + tau * new


def largest(values: tf.Tensor) -> tf.Tensor:
    """Return the largest absolute value, the figure `max_q_value`: growth without end shows divergence."""
    return tf.reduce_max(tf.abs(values))


def huber(error: tf.Tensor) -> tf.Tensor:
    """Return the Huber loss: half the square within 1, linear outside."""
    size = tf.abs(error)
    return tf.where(size <= 1.0, 0.5 * tf.square(error), size - 0.5)


def make_dqn(
    spec: Any, action_spec: Any, config: DQNConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return a DQN agent; without `arms` its head is plain."""
    online, target = (
        make_scores(spec, action_spec, config, arms, seed, "scores", config.dueling, sequence) for _ in range(2)
    )
    learner = DQN(online, target, context_width(spec), int(action_spec.maximum) + 1, config)
    return SessionAgent(spec, action_spec, learner, seed=seed)
