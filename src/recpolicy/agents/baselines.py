"""The baselines of every table: random, most popular, highest mean, rating-model greedy. They never learn.

The scores [A] come from training ratings: 0, number of ratings, or shrunk mean rating. The rating model's scores depend
on the user.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation
from recpolicy.core.config import config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.models.pair_features import prior_weights


@config_dataclass
class BaselineConfig:
    """An empty config: baselines have no settings."""


class Baseline(Learner):
    """A greedy learner over fixed scores; its reward estimates come from the rating model."""

    def __init__(self, arms: ItemFeatures, score: NDArray[np.float32] | None, name: str):
        super().__init__(name=name)
        self._embedding, self._offset = tf.constant(arms.embedding), tf.constant(arms.offset)
        self._score = None if score is None else tf.constant(score)  # [A]
        # Equal scores and the rating model's scores exist for any candidates; the other scores belong to fixed items.
        self.accepts_per_arm_features = score is None or not score.any()

    def estimate(self, observation: Observation) -> Estimate:
        """Return the rating model's expectations."""
        if observation.per_arm is not None:
            mean = tf.linalg.matvec(observation.per_arm, prior_weights(observation.per_arm.shape[-1] - 2))
        else:
            user = observation.context[:, : self._embedding.shape[1]]
            mean = self._offset + tf.matmul(user, self._embedding, transpose_b=True)
        return Estimate(mean, tf.zeros_like(mean))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the greedy probabilities; a baseline does not explore."""
        return self.greedy_probabilities(observation)

    def greedy_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the greedy distribution over the scores; equal scores get equal shares."""
        mean = self.estimate(observation).mean
        if self._score is None:
            scores = mean
        elif self.accepts_per_arm_features:
            scores = tf.zeros_like(mean)
        else:
            scores = tf.broadcast_to(self._score, tf.shape(mean))
        return action_distributions.greedy(scores, observation.mask)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Return the mean squared error; learn nothing."""
        guess = tf.gather(self.estimate(observation).mean, action, batch_dims=1)
        return tf.reduce_mean(tf.square(reward - guess))

    def export(self) -> ExportedPolicy:
        """Return the scores as arrays if they do not depend on the user."""
        if self._score is None:
            return ExportedPolicy("rating_model", "greedy")
        return ExportedPolicy("rating_model", "greedy", {}, {"score": self._score.numpy()})


def _known(arms: ItemFeatures | None, name: str) -> ItemFeatures:
    if arms is None:
        raise ConfigError(f"{name} needs the arms' tables")
    return arms


def make_random(
    spec: Any, action_spec: Any, _config: BaselineConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a baseline that plays every allowed arm with equal probability."""
    known = _known(arms, "random")
    return BanditAgent(spec, action_spec, Baseline(known, np.zeros_like(known.count), "random"), seed=seed)


def make_popular(
    spec: Any, action_spec: Any, _config: BaselineConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a baseline that plays the item with the most training ratings."""
    known = _known(arms, "popular")
    return BanditAgent(spec, action_spec, Baseline(known, known.count, "popular"), seed=seed)


def make_highest_mean(
    spec: Any, action_spec: Any, _config: BaselineConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a baseline that plays the item with the highest (shrunk) mean of training ratings."""
    known = _known(arms, "highest_mean")
    return BanditAgent(spec, action_spec, Baseline(known, known.mean_rating, "highest_mean"), seed=seed)


def make_rating_model(
    spec: Any, action_spec: Any, _config: BaselineConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a baseline that plays the item with the highest expected rating for this user."""
    return BanditAgent(spec, action_spec, Baseline(_known(arms, "rating_model"), None, "rating_model"), seed=seed)
