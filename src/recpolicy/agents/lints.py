"""Linear Thompson sampling, disjoint: play the arm whose draw from its posterior is largest.

The posterior is LinUCB's; arms are independent, so at one context their expected rewards are independent normals with
standard deviation scale * sqrt(x' A_a^-1 x), and the probability of each action is an integral that the head computes
(action_distributions.thompson). Source: Agrawal & Goyal 2013 (1209.3352), whose v is `scale`.
"""

from typing import Any

import tensorflow as tf

from recpolicy.agents import action_distributions
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, ExportedPolicy
from recpolicy.agents.linucb import DisjointLinear, prior_mean
from recpolicy.agents.observation import Observation
from recpolicy.models.feature_agent_configs import LinTSConfig


class LinTS(DisjointLinear):
    """A linear Thompson sampling learner: probability matching over independent linear posteriors."""

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the probability that each arm's draw is the largest."""
        mean, width = self.estimate(observation)
        return action_distributions.thompson(mean, self._config.scale * width, observation.mask)

    def sample_action(self, observation: Observation, seed: tf.Tensor) -> tf.Tensor:
        """Draw from each posterior and return the arm with the largest draw, without the integral."""
        mean, width = self.estimate(observation)
        noise = tf.random.stateless_normal(tf.shape(mean), seed)
        best = action_distributions.greedy(mean + self._config.scale * width * noise, observation.mask)
        return action_distributions.sample(best, seed)

    def export(self) -> ExportedPolicy:
        """Return the arrays for the Thompson head."""
        return self.exported("thompson", {"scale": self._config.scale})


def make_lints(
    spec: Any, action_spec: Any, config: LinTSConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a linear Thompson sampling agent; with `arms` it starts as the rating model, without it at zero."""
    learner = LinTS(prior_mean(spec, action_spec, config.bias, arms), config, "lints", warm=arms is not None)
    return BanditAgent(spec, action_spec, learner, seed=seed)
