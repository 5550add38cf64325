"""The common parts of A2C, PPO and REINFORCE: a softmax policy over item scores, a value network and one Adam.

N = T B steps. The algorithms differ in how they weight log-probabilities; the critic's loss and the entropy bonus are
the same: loss = policy loss + vf_coef (target - V)^2 - ent_coef H.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from recpolicy.agents.categorical import log_probability_and_entropy
from recpolicy.agents.divergence_limit import ReferenceLimitConfig
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.neural import NetworkPart, layer_arrays, load_networks
from recpolicy.agents.reference_policy import LimitedLearner
from recpolicy.agents.returns import Advantages, generalized_advantages
from recpolicy.agents.sequence_encoders import encoder_arrays
from recpolicy.agents.session_networks import ItemScores, SessionNetworkConfig, Trainer, make_scores, make_value
from recpolicy.core.config import Fraction, NonNegativeNumber, config_dataclass
from recpolicy.models.sequence_layout import SequenceLayout

VALUE = "value/"
"""Start of the names of the value network's arrays in an exported policy."""


@config_dataclass
class ActorCriticConfig(ReferenceLimitConfig, SessionNetworkConfig):
    """Settings common to the three algorithms."""

    gamma: Fraction = 0.9
    """Discount per item; 0 ignores all later rewards."""
    vf_coef: NonNegativeNumber = 0.5
    """Weight of the value loss."""
    ent_coef: NonNegativeNumber = 0.01
    """Weight of the entropy bonus, in reward per nat."""


class Evaluated(NamedTuple):
    """Outputs of the networks for N steps."""

    log_probability: tf.Tensor  # [N] of the actions taken
    entropy: tf.Tensor  # [N]
    value: tf.Tensor  # [N]
    divergence: tf.Tensor | None = None  # [N] from the reference policy, if there is one


class PolicyAndValue(LimitedLearner):
    """A learner with a score network, a value network and their trainer."""

    def __init__(self, scores: ItemScores, value: Any, config: SessionNetworkConfig, name: str):
        super().__init__(name, normalize_reward=config.normalize_reward)
        self._scores, self._value = scores, value
        self._trainer = Trainer([*scores.weights, *value.trainable_variables], config)

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-odds [B, A]."""
        return self._scores(observation, mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:  # noqa: ARG002
        """Return the critic's value [B]."""
        return self._rewards.original(self._value(observation)[:, 0])

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy both networks of an exported policy; see `load_networks`."""
        load_networks(arrays, *self._scores.parts(), NetworkPart(self._value, VALUE))

    def export(self) -> ExportedPolicy:
        """Return both networks as arrays."""
        values = value_arrays(self._value, self.reward_std)
        return ExportedPolicy("session", "softmax", {}, self._scores.arrays() | values)


class ActorCritic(PolicyAndValue):
    """The losses of the three algorithms."""

    def __init__(self, scores: ItemScores, value: Any, config: ActorCriticConfig, name: str):
        super().__init__(scores, value, config, name)
        self.config = config

    def evaluate(self, observation: tf.Tensor, mask: tf.Tensor, action: tf.Tensor) -> Evaluated:
        """Return differentiable log-probabilities, entropies and values, in the unit of learning, of N steps."""
        scores = self._scores(observation, mask)
        log_probability, entropy = log_probability_and_entropy(scores, action)
        divergence = self._divergence(scores, observation, mask)
        return Evaluated(log_probability, entropy, self._value(observation)[:, 0], divergence)

    def advantages(self, experience: Experience, gae_lambda: float) -> tuple[Advantages, tf.Tensor]:
        """Return advantages, targets and values, all [T, B], under the current critic; without gradients.

        They are in the unit of learning: the standard deviation of rewards so far if the config normalizes them.
        """
        reward = self._rewards.normalized(experience.reward)
        return advantages_under(self._value, experience._replace(reward=reward), self.config.gamma, gae_lambda)

    def losses(self, evaluated: Evaluated, policy_loss: tf.Tensor, target: tf.Tensor, weight: tf.Tensor) -> Any:
        """Return (total loss, value loss, mean entropy); `target` and `weight` are [N], the weights have mean 1."""
        value_loss = tf.reduce_mean(weight * tf.square(target - evaluated.value))
        entropy = tf.reduce_mean(weight * evaluated.entropy)
        config = self.config
        loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy
        return loss + self._penalty(evaluated.divergence, weight), value_loss, entropy


def advantages_under(
    critic: Any, experience: Experience, gamma: float, gae_lambda: float
) -> tuple[Advantages, tf.Tensor]:  # fmt: skip
    """Return advantages, targets and values, all [T, B], under the current value network."""
    steps, batch = experience.reward.shape
    both = tf.concat([experience.observation, experience.next_observation], axis=0)
    value = tf.reshape(critic(flatten(both)), [2 * steps, batch])
    now, following = value[:steps], value[steps:]
    estimates = generalized_advantages(
        experience.reward, now, following, experience.terminated, experience.truncated, gamma, gae_lambda
    )
    return estimates, now


def value_arrays(critic: Any, unit: float) -> dict[str, Any]:
    """Return the value network's layers, `unit` times its values, under the names that the predictor reads."""
    layers = layer_arrays(critic)
    for name in (f"kernel_{len(layers) // 2 - 1}", f"bias_{len(layers) // 2 - 1}"):
        layers[name] = layers[name] * np.float32(unit)
    layers |= encoder_arrays(critic)
    return {VALUE + name: array for name, array in layers.items()}


def networks(
    spec: Any, action_spec: Any, config: SessionNetworkConfig, arms: ItemFeatures | None, seed: int,
    sequence: SequenceLayout | None = None,
) -> Any:  # fmt: skip
    """Return a score network and a value network."""
    scores = make_scores(spec, action_spec, config, arms, seed, sequence=sequence)
    return scores, make_value(spec, config, seed, sequence)
