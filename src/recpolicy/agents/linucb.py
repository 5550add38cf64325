"""LinUCB, disjoint: one linear model per arm, greedy in mean + alpha * width.

Equations: agents/linear_posterior.py; theta_a.x + alpha sqrt(x' A_a^-1 x). Source: Li, Chu, Langford, Schapire 2010
(1003.0146), algorithm 1. Unlike the paper, the prior mean may be the item embeddings instead of 0 (a warm start),
Sherman-Morrison steps update the inverse, and a forgetting factor below 1 follows drifting preferences.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents import linear_posterior as linear
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation, context_width
from recpolicy.core.config import NonNegativeNumber, PositiveFraction, Precision, config_dataclass


@config_dataclass
class LinUCBConfig:
    """Settings of LinUCB."""

    alpha: NonNegativeNumber = 1.0
    """Multiplier of the confidence width; 0 acts greedily."""
    precision: Precision = 100.0
    """Weight of the prior mean, in observations per direction (the ridge); must be > 0."""
    forgetting: PositiveFraction = 1.0
    """Share of an arm's knowledge that remains at each of its updates, in (0, 1]; below 1 it follows drift."""
    bias: bool = True
    """Append a constant 1 to the context."""


class DisjointLinear(Learner):
    """A learner with one linear posterior per arm; subclasses define exploration."""

    def __init__(self, prior_mean: NDArray[np.float32], config: Any, name: str, warm: bool = False):
        super().__init__(name=name)
        self._config, self._warm = config, warm
        self._posterior = linear.Posterior(prior_mean, config.precision, name)

    @property
    def posterior(self) -> linear.Posterior:
        """The posterior of every arm."""
        return self._posterior

    @property
    def forgets(self) -> bool:
        """True if later observations have more weight, so that their order matters."""
        return bool(self._config.forgetting < 1)

    def features(self, observation: Observation) -> tf.Tensor:
        """Return the regressors [B, D]."""
        return linear.with_bias(observation.context) if self._config.bias else observation.context

    def estimate(self, observation: Observation) -> Estimate:
        """Return the posterior means and widths of all arms."""
        x = self.features(observation)
        return Estimate(linear.means(self._posterior.theta, x), linear.widths(self._posterior.covariance, x))

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Apply Sherman-Morrison steps to the played arms."""
        return self._posterior.update(action, self.features(observation), reward, self._config.forgetting)

    def exported(self, head: str, settings: dict[str, float]) -> ExportedPolicy:
        """Return the posterior as arrays with the given head."""
        arrays = {"theta": self._posterior.theta.numpy(), "covariance": self._posterior.covariance.numpy()}
        arrays["bias"] = np.array(self._config.bias)
        if self._warm:
            arrays["prior_precision"] = np.array(self._config.precision, np.float32)
        return ExportedPolicy("linear", head, settings, arrays)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load the exported arrays theta [A, D] and covariance [A, D, D]."""
        self._posterior.theta.assign(arrays["theta"])
        self._posterior.covariance.assign(arrays["covariance"])


class LinUCB(DisjointLinear):
    """A LinUCB learner: plays the arm with the largest upper confidence bound."""

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the greedy distribution over mean + alpha * width."""
        mean, width = self.estimate(observation)
        return action_distributions.upper_confidence(mean, width, self._config.alpha, observation.mask)

    def export(self) -> ExportedPolicy:
        """Return the arrays for the upper-confidence head."""
        return self.exported("upper_confidence", {"alpha": self._config.alpha})


def make_linucb(
    spec: Any, action_spec: Any, config: LinUCBConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a LinUCB agent; with `arms` it starts as the rating model, without it at zero."""
    learner = LinUCB(prior_mean(spec, action_spec, config.bias, arms), config, "linucb", warm=arms is not None)
    return BanditAgent(spec, action_spec, learner, seed=seed)


def prior_mean(spec: Any, action_spec: Any, bias: bool, arms: ItemFeatures | None) -> NDArray[np.float32]:
    """Return the initial linear weights [A, D (+ 1)]."""
    width = context_width(spec)
    if arms is not None:
        return arms.linear_prior(width, bias)
    return np.zeros((int(action_spec.maximum) + 1, width + bias), np.float32)
