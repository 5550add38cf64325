"""A bandit per user: the features of an arm are its item's embedding, the parameter is the user's vector.

The observation is the posterior of the user's vector w (models/user_posterior.py): its mean [D] and the upper triangle
of its covariance S [T], T = D (D + 1) / 2. The expected rating of arm a is Normal(mean_a, width_a^2) with

    mean_a = o_a + b_a + x_a . mean(w),    width_a^2 = x_a' S x_a + v_a,

where o is the offset and x the embedding of the item. The policy is a function of the observation, so a log that has
the observation has exact propensities. Whoever holds the users moves their posteriors: `UserBandit` in a simulation,
the server while it serves.

The agent learns what all users share: the errors b_a of the expected ratings of the items, with the prior
Normal(0, item_std_a^2). A rating r of arm a is an observation of b_a: r - o_a - x_a . mean(w), with variance
noise^2 + x_a' S x_a. Precisions add up, so the order of the ratings does not matter. Ratings of one user count as
independent, given the observation.

B batch, A arms, D directions. A bare embedding [D] as observation is a vector without uncertainty. Source: Li et al.
2010 with arms and users exchanged; Bishop 2006, section 3.3.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation, context_width
from recpolicy.core.config import NonNegativeNumber, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.models.user_posterior import outer_triangle, packed_size

_UNKNOWN_ITEM_STD = 0.5
"""Standard deviation of an item's error, in units of the rating noise, where the rating model does not know it."""


@config_dataclass
class UserLinUCBConfig:
    """Settings of the bandit per user."""

    exploration: Literal["greedy", "upper_confidence", "thompson"] = "greedy"
    """`greedy`: the best expected rating; `upper_confidence`: mean + alpha * width; `thompson`: the largest of
    independent draws from Normal(mean, (scale * width)^2)."""
    alpha: NonNegativeNumber = 1.0
    """Multiplier of the width, in posterior standard deviations; for `upper_confidence`."""
    scale: NonNegativeNumber = 1.0
    """Standard deviation of the draws, in posterior standard deviations; for `thompson`."""


class UserLinUCB(Learner):
    """A learner of the items' errors that acts by the posterior of the user's vector in its observation."""

    def __init__(self, items: ItemFeatures, config: UserLinUCBConfig):
        super().__init__(name="linucb_user")
        self._config, self._noise = config, items.noise_std
        self._x, self._offset = tf.constant(items.embedding), tf.constant(items.offset)
        self._outer = tf.constant(outer_triangle(items.embedding))  # [A, T]
        std = items.item_std
        if std is None:
            std = np.full(len(items.offset), _UNKNOWN_ITEM_STD * items.noise_std, np.float32)
        self._prior_variance = np.maximum(np.square(std), np.float32(1e-6))  # [A]
        self.precision = tf.Variable(1 / self._prior_variance, trainable=False, name="error/precision")  # [A]
        self.moment = tf.Variable(np.zeros_like(self._prior_variance), trainable=False, name="error/moment")  # [A]

    def estimate(self, observation: Observation) -> Estimate:
        """Return the means and widths of all arms; widths are in units of the rating noise."""
        mean = self.rating_model_mean(observation) + self.error_mean()
        variance = self.user_variance(observation) + 1.0 / self.precision
        return Estimate(mean, tf.sqrt(variance) / self._noise)

    def rating_model_mean(self, observation: Observation) -> tf.Tensor:
        """Return o_a + x_a . mean(w) [B, A], without the errors."""
        user = observation.context[:, : self._x.shape[1]]
        return self._offset + tf.matmul(user, self._x, transpose_b=True)

    def error_mean(self) -> tf.Tensor:
        """Return the expected errors b [A] of the items."""
        return self.moment / self.precision

    def rating_variance(self, observation: Observation) -> tf.Tensor:
        """Return the variance [B, A] of a rating around o_a + b_a + x_a . mean(w)."""
        return self.user_variance(observation) + self._noise**2

    def user_variance(self, observation: Observation) -> tf.Tensor:
        """Return x_a' S x_a [B, A]."""
        packed = observation.context[:, self._x.shape[1] :]
        if not packed.shape[1]:
            return tf.zeros([tf.shape(packed)[0], self._x.shape[0]])
        return tf.maximum(tf.matmul(packed, self._outer, transpose_b=True), 0.0)

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the probabilities of the configured exploration."""
        if self._config.exploration == "greedy":
            return self.greedy_probabilities(observation)
        mean, width = self.estimate(observation)
        if self._config.exploration == "upper_confidence":
            return action_distributions.upper_confidence(mean, width, self._factor, observation.mask)
        return action_distributions.thompson(mean, self._factor * width, observation.mask)

    def sample_action(self, observation: Observation, seed: tf.Tensor) -> tf.Tensor:
        """Draw actions; Thompson sampling draws from each arm's posterior, without the integral."""
        if self._config.exploration != "thompson":
            return super().sample_action(observation, seed)
        mean, width = self.estimate(observation)
        noise = tf.random.stateless_normal(tf.shape(mean), seed)
        best = action_distributions.greedy(mean + self._factor * width * noise, observation.mask)
        return action_distributions.sample(best, seed)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Add the ratings to the posterior of the items' errors; returns the mean squared error before."""
        mean = tf.gather(self.rating_model_mean(observation), action, batch_dims=1)
        variance = tf.gather(self.rating_variance(observation), action, batch_dims=1)
        error = reward - mean  # [B]
        guess = tf.gather(self.error_mean(), action)
        chosen = tf.one_hot(action, self._x.shape[0])  # [B, A]; a scatter would be a loop over the batch
        self.add(tf.linalg.matvec(chosen, 1.0 / variance, True), tf.linalg.matvec(chosen, error / variance, True))
        return tf.reduce_mean(tf.square(error - guess))

    def add(self, precision: Any, moment: Any) -> None:
        """Add sums over ratings to the posterior of the errors: of 1 / variance [A], and of residual / variance [A]."""
        self.precision.assign_add(tf.cast(precision, tf.float32))
        self.moment.assign_add(tf.cast(moment, tf.float32))

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load the exported errors [A]."""
        self.precision.assign(1 / arrays["error_variance"])
        self.moment.assign(arrays["error_mean"] / arrays["error_variance"])

    def export(self) -> ExportedPolicy:
        """Return the errors of the items with the head of the configured exploration."""
        precision = self.precision.numpy()
        arrays = {
            "error_mean": self.moment.numpy() / precision,
            "error_variance": 1 / precision,
            "prior_error_variance": self._prior_variance,
            "noise_std": np.array(self._noise, np.float32),
        }
        settings = {"upper_confidence": {"alpha": self._factor}, "thompson": {"scale": self._factor}}
        return ExportedPolicy("user", self._config.exploration, settings.get(self._config.exploration, {}), arrays)

    @property
    def _factor(self) -> float:
        """The config's multiplier, for widths in units of the rating noise."""
        multiplier = self._config.alpha if self._config.exploration == "upper_confidence" else self._config.scale
        return multiplier * self._noise


def make_linucb_user(
    spec: Any, action_spec: Any, config: UserLinUCBConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a bandit per user for observations that are posteriors, or bare embeddings.

    Raises:
        ConfigError: There are no embeddings of the arms, or observations of another length.
    """
    if arms is None:
        raise ConfigError("linucb_user needs the arms' embeddings")
    rank, width = arms.embedding.shape[1], context_width(spec)
    if width not in (rank, packed_size(rank)):
        raise ConfigError(
            f"linucb_user: contexts of {width} numbers for embeddings of {rank}; expected the posterior of the user's"
            f" vector ({packed_size(rank)} numbers: mean and upper triangle of the covariance), or its mean ({rank})"
        )
    return BanditAgent(spec, action_spec, UserLinUCB(arms, config), seed=seed)
