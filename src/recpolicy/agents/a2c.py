"""A2C: advantage actor-critic with n-step returns. TF-Agents has none, so we implement it.

R_t = sum_{i<n} gamma^i r_{t+i} + gamma^n V(s_{t+n}), the sum ending with the session; loss = -A log pi(a|s)
+ vf_coef A^2 - ent_coef H, A = R - V(s). B sessions, blocks of n steps, one gradient step a block.
Source: Mnih et al. 2016 (1602.01783), without the asynchrony.
"""

from typing import Any

import tensorflow as tf

from recpolicy.agents.actor_critic import ActorCritic, ActorCriticConfig, networks
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.returns import explained_variance
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.core.config import Fraction, Size, config_dataclass
from recpolicy.models.sequence_layout import SequenceLayout


@config_dataclass
class A2CConfig(ActorCriticConfig):
    """Settings of A2C."""

    n_steps: Size = 5
    """Number of steps n of each session between updates."""
    gae_lambda: Fraction = 1.0
    """Lambda of the advantages; 1 is the n-step return."""


class A2C(ActorCritic):
    """An A2C learner: one gradient step per block."""

    config: A2CConfig
    figures = ("loss", "policy_loss", "value_loss", "entropy", "gradient_norm", "explained_variance")

    def __init__(self, scores: Any, value: Any, config: A2CConfig):
        super().__init__(scores, value, config, "a2c")
        self.n_steps = config.n_steps

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:  # noqa: ARG002 - nothing is random
        """Take one gradient step on the loss."""
        self._rewards.take_in(experience.reward)
        estimates, value = self.advantages(experience, self.config.gae_lambda)
        advantage, target = flatten(estimates.advantage), flatten(estimates.target)
        observation, mask = flatten(experience.observation), flatten(experience.mask)
        with tf.GradientTape() as tape:
            evaluated = self.evaluate(observation, mask, flatten(experience.action))
            policy_loss = -tf.reduce_mean(advantage * evaluated.log_probability)
            loss, value_loss, entropy = self.losses(evaluated, policy_loss, target, tf.ones_like(target))
        return {
            "loss": loss, "policy_loss": policy_loss,
            "value_loss": self._rewards.original_square(value_loss), "entropy": entropy,
            "gradient_norm": self._descend(tape, loss, observation, mask),
            "explained_variance": explained_variance(flatten(value), target),
            **self._limit_figures(evaluated.divergence),
        }  # fmt: skip


def make_a2c(
    spec: Any, action_spec: Any, config: A2CConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return an A2C agent; without `arms` its head is plain."""
    scores, value = networks(spec, action_spec, config, arms, seed, sequence)
    return SessionAgent(spec, action_spec, A2C(scores, value, config), seed=seed)
