"""LinUCB with one model for all arms, over features of the (user, item) pair.

E[r] = z.beta; the agent is greedy in z.beta + alpha sqrt(z' A^-1 z). Candidates may change every round
(CatalogBandit), because only an arm's features matter. If the observation has no features, models/pair_features.py
computes them from the arms' tables; the prior mean then reproduces the rating model. Source: Li et al. 2010, section
3.1 (the shared form); TF-Agents calls it `accepts_per_arm_features`.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from recpolicy.agents import action_distributions
from recpolicy.agents import linear_posterior as linear
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation, context_width
from recpolicy.core.errors import ConfigError
from recpolicy.models.feature_agent_configs import SharedLinUCBConfig
from recpolicy.models.pair_features import PairFeatures, prior_weights


class SharedLinUCB(Learner):
    """A LinUCB learner with one linear posterior over pair features."""

    accepts_per_arm_features = True

    def __init__(self, features: PairFeatures, config: SharedLinUCBConfig):
        super().__init__(name="linucb_shared")
        self._config, self._pairs = config, features
        self._posterior = linear.Posterior(
            prior_weights(features.rank, features.width)[np.newaxis], config.precision, "shared"
        )

    def estimate(self, observation: Observation) -> Estimate:
        """Return the posterior means and widths of all arms from their features [B, A, K]."""
        z = pair_features(self._pairs, observation)
        theta, covariance = self._posterior.theta[0], self._posterior.covariance[0]
        square = tf.reduce_sum(tf.einsum("bak,kl->bal", z, covariance) * z, axis=-1)
        return Estimate(tf.einsum("bak,k->ba", z, theta), tf.sqrt(tf.maximum(square, 0.0)))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the greedy distribution over mean + alpha * width."""
        mean, width = self.estimate(observation)
        return action_distributions.upper_confidence(mean, width, self._config.alpha, observation.mask)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Apply Sherman-Morrison steps to the shared posterior with the features of the played arms."""
        z = tf.gather(pair_features(self._pairs, observation), action, batch_dims=1)  # [B, K]
        return self._posterior.update(tf.zeros_like(action), z, reward, self._config.forgetting)

    def export(self) -> ExportedPolicy:
        """Return the arrays for the upper-confidence head."""
        arrays = {"theta": self._posterior.theta[0].numpy(), "covariance": self._posterior.covariance[0].numpy()}
        arrays |= {"prior_precision": np.array(self._config.precision, np.float32), **self._pairs.arrays()}
        return ExportedPolicy("shared", "upper_confidence", {"alpha": self._config.alpha}, arrays)


def pair_features(pairs: PairFeatures, observation: Observation) -> tf.Tensor:
    """Return the observation's own features [B, A, K], else those of all arms."""
    if observation.per_arm is not None:
        return observation.per_arm
    return pairs.of(observation.context, pairs.all_items)


def make_linucb_shared(
    spec: Any, action_spec: Any, config: SharedLinUCBConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a shared LinUCB agent that starts as the rating model."""
    pairs = require_pair_features(arms, spec, "linucb_shared")
    return BanditAgent(spec, action_spec, SharedLinUCB(pairs, config), seed=seed)


def require_pair_features(arms: ItemFeatures | None, spec: Any, agent: str) -> PairFeatures:
    """Return the arms' pair features for contexts of a spec; raises ConfigError without arms, or for too many."""
    if arms is None:
        raise ConfigError(f"{agent} needs the arms' embeddings")
    if arms.attributes is None:
        return PairFeatures(arms.embedding, arms.offset)
    return PairFeatures(
        arms.embedding, arms.offset, arms.attributes, interactions=arms.interactions,
        user_attributes=context_width(spec) - arms.embedding.shape[1],
    )  # fmt: skip
