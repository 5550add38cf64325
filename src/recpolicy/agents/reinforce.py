"""REINFORCE with a baseline: whole sessions, Monte Carlo returns, one gradient step a block.

grad = E[sum_t (G_t - V(s_t)) grad log pi(a_t|s_t)]. Every session of a block starts fresh and counts once, so short
sessions get no extra weight. For a cut session the value estimate replaces the later rewards. Source: Williams 1992.
"""

from typing import Any

import tensorflow as tf

from recpolicy.agents.actor_critic import ActorCritic, ActorCriticConfig, networks
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.returns import explained_variance, standardize
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.core.config import config_dataclass
from recpolicy.models.sequence_layout import SequenceLayout


@config_dataclass
class ReinforceConfig(ActorCriticConfig):
    """Settings of REINFORCE."""

    baseline: bool = True
    """Subtract the value network's estimate from the returns."""
    normalize_advantage: bool = True
    """Standardize the advantages of a block."""


class Reinforce(ActorCritic):
    """A REINFORCE learner: one gradient step per block of whole sessions."""

    config: ReinforceConfig
    figures = ("loss", "policy_loss", "value_loss", "entropy", "gradient_norm", "explained_variance")
    whole_sessions = True

    def __init__(self, scores: Any, value: Any, config: ReinforceConfig):
        super().__init__(scores, value, config, "reinforce")

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:  # noqa: ARG002 - nothing is random
        """Take one gradient step on the loss."""
        self._rewards.take_in(experience.reward)
        estimates, value = self.advantages(experience, gae_lambda=1.0)
        weight = flatten(first_sessions(experience))
        weight /= tf.maximum(tf.reduce_mean(weight), 1e-6)
        target = flatten(estimates.target)
        advantage = flatten(estimates.advantage) if self.config.baseline else target
        if self.config.normalize_advantage:
            advantage = standardize(advantage, tf.cast(weight > 0, tf.float32))
        observation, mask = flatten(experience.observation), flatten(experience.mask)
        with tf.GradientTape() as tape:
            evaluated = self.evaluate(observation, mask, flatten(experience.action))
            policy_loss = -tf.reduce_mean(weight * advantage * evaluated.log_probability)
            loss, value_loss, entropy = self.losses(evaluated, policy_loss, target, weight)
        return {
            "loss": loss, "policy_loss": policy_loss,
            "value_loss": self._rewards.original_square(value_loss), "entropy": entropy,
            "gradient_norm": self._descend(tape, loss, observation, mask, weight),
            "explained_variance": explained_variance(flatten(value), target),
            **self._limit_figures(evaluated.divergence, weight),
        }  # fmt: skip


def first_sessions(experience: Experience) -> tf.Tensor:
    """Return 1 for the steps [T, B] of each column's first session, 0 for later steps."""
    going = tf.cast(~(experience.terminated | experience.truncated), tf.float32)
    return tf.math.cumprod(going, axis=0, exclusive=True)


def make_reinforce(
    spec: Any, action_spec: Any, config: ReinforceConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return a REINFORCE agent; without `arms` its head is plain."""
    scores, value = networks(spec, action_spec, config, arms, seed, sequence)
    return SessionAgent(spec, action_spec, Reinforce(scores, value, config), seed=seed)
