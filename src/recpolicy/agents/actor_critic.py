"""What A2C, PPO and REINFORCE share: a softmax policy over item scores and a value network, trained by one Adam.

N = T B steps. Each algorithm differs in how it weighs log-probabilities; the critic's loss and the entropy bonus are
the same: loss = policy loss + vf_coef (target - V)^2 - ent_coef H.
"""

from typing import Any, NamedTuple

import tensorflow as tf
from pydantic import NonNegativeFloat

from recpolicy.agents.categorical import log_probability_and_entropy
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.neural import layer_arrays
from recpolicy.agents.returns import Advantages, generalized_advantages
from recpolicy.agents.sequence import SessionLearner
from recpolicy.agents.session_networks import ItemScores, SessionNetworkConfig, Trainer, make_scores, make_value
from recpolicy.core.config import Fraction, config_dataclass


@config_dataclass
class ActorCriticConfig(SessionNetworkConfig):
    """What the three algorithms have in common."""

    gamma: Fraction = 0.9
    """Discount per item, 0 looks no step ahead."""
    vf_coef: NonNegativeFloat = 0.5
    """Weight of the value loss."""
    ent_coef: NonNegativeFloat = 0.01
    """Weight of the entropy bonus, in reward per nat."""


class Evaluated(NamedTuple):
    """What the networks say of N steps."""

    log_probability: tf.Tensor  # [N] of the actions taken
    entropy: tf.Tensor  # [N]
    value: tf.Tensor  # [N]


class ActorCritic(SessionLearner):
    """Score network, value network and their trainer."""

    def __init__(self, scores: ItemScores, value: Any, config: ActorCriticConfig, name: str):
        super().__init__(name=name)
        self._scores, self._value, self.config = scores, value, config
        weights = [*scores.network.trainable_variables, *value.trainable_variables]
        self._trainer = Trainer(weights, config)

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Log-odds [B, A]."""
        return self._scores(observation, mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:  # noqa: ARG002
        """The critic's value [B]."""
        return self._value(observation)[:, 0]

    def evaluate(self, observation: tf.Tensor, mask: tf.Tensor, action: tf.Tensor) -> Evaluated:
        """Log-probabilities, entropies and values of N steps, to be differentiated."""
        log_probability, entropy = log_probability_and_entropy(self._scores(observation, mask), action)
        return Evaluated(log_probability, entropy, self._value(observation)[:, 0])

    def advantages(self, experience: Experience, gae_lambda: float) -> tuple[Advantages, tf.Tensor]:
        """Advantages and targets [T, B] under the critic as it is, and its values [T, B]; nothing to differentiate."""
        return advantages_under(self._value, experience, self.config.gamma, gae_lambda)

    def losses(self, evaluated: Evaluated, policy_loss: tf.Tensor, target: tf.Tensor, weight: tf.Tensor) -> Any:
        """(total loss, value loss, mean entropy); `target` and `weight` are [N], weights have mean 1."""
        value_loss = tf.reduce_mean(weight * tf.square(target - evaluated.value))
        entropy = tf.reduce_mean(weight * evaluated.entropy)
        config = self.config
        return policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy, value_loss, entropy

    def export(self) -> ExportedPolicy:
        """Both networks as arrays."""
        return ExportedPolicy("session", "softmax", {}, self._scores.arrays() | value_arrays(self._value))


def advantages_under(
    critic: Any, experience: Experience, gamma: float, gae_lambda: float
) -> tuple[Advantages, tf.Tensor]:  # fmt: skip
    """Advantages and targets [T, B] under a value network as it is, and its values [T, B]."""
    steps, batch = experience.reward.shape
    both = tf.concat([experience.observation, experience.next_observation], axis=0)
    value = tf.reshape(critic(flatten(both)), [2 * steps, batch])
    now, following = value[:steps], value[steps:]
    found = generalized_advantages(
        experience.reward, now, following, experience.terminated, experience.truncated, gamma, gae_lambda
    )
    return found, now


def value_arrays(critic: Any) -> dict[str, Any]:
    """The value network's layers, as the predictor looks for them."""
    return {f"value/{name}": array for name, array in layer_arrays(critic).items()}


def networks(spec: Any, action_spec: Any, config: SessionNetworkConfig, arms: ItemFeatures | None, seed: int) -> Any:
    """A score network and a value network."""
    return make_scores(spec, action_spec, config, arms, seed), make_value(spec, config, seed)
