"""PPO: proximal policy optimization with a clipped ratio and generalized advantages, in minibatches, with a KL stop.

rho = pi(a|s) / pi_old(a|s); maximize E[min(rho A, clip(rho, 1 - e, 1 + e) A)]. TF-Agents' PPOClipAgent disables
clipping and generalized advantages by default; here they are enabled. An update ends early when the estimated
divergence mean((rho - 1) - log rho) from the old policy exceeds 1.5 target_kl. N = T B steps a block. Sources: Schulman
et al. 2017 (1707.06347), 2015 (1506.02438); the estimator of the divergence: Schulman 2020.
"""

from typing import Any

import tensorflow as tf

from recpolicy.agents.actor_critic import ActorCritic, ActorCriticConfig, networks
from recpolicy.agents.divergence_limit import REFERENCE_KL
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.returns import explained_variance, standardize
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.core.config import Count, Fraction, NonNegativeNumber, PositiveNumber, Size, config_dataclass
from recpolicy.core.tensorflow_random import integers
from recpolicy.models.sequence_layout import SequenceLayout

_MEASURED = ("loss", "policy_loss", "value_loss", "entropy", "approximate_kl", "clip_fraction", "gradient_norm")


@config_dataclass
class PPOConfig(ActorCriticConfig):
    """Settings of PPO."""

    n_steps: Size = 32
    """Steps of each session between updates."""
    n_epochs: Count = 4
    """Passes over a block."""
    minibatch_size: Size = 256
    """Steps per gradient step."""
    clip_range: PositiveNumber = 0.2
    """Largest change of the ratio that the loss rewards, > 0."""
    gae_lambda: Fraction = 0.95
    """Lambda of the generalized advantages."""
    target_kl: NonNegativeNumber = 0.03
    """Divergence limit: an update stops beyond 1.5 times this divergence from the old policy; 0 never stops."""
    normalize_advantage: bool = True
    """Standardize the advantages of each minibatch."""


class PPO(ActorCritic):
    """A PPO learner: several epochs of minibatches per block."""

    config: PPOConfig
    figures = (*_MEASURED, "explained_variance", "updates")

    def __init__(self, scores: Any, value: Any, config: PPOConfig):
        super().__init__(scores, value, config, "ppo")
        self.n_steps = config.n_steps

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:
        """Take minibatch steps until the epochs are over or the policy exceeds the divergence limit."""
        self._rewards.take_in(experience.reward)
        estimates, value = self.advantages(experience, self.config.gae_lambda)
        target = flatten(estimates.target)
        columns = (
            flatten(experience.observation), flatten(experience.mask), flatten(experience.action),
            flatten(experience.log_probability), flatten(estimates.advantage), target,
        )  # fmt: skip
        count = target.shape[0]
        size = min(self.config.minibatch_size, count)
        each = count // size
        # Sorted random keys give a permutation per epoch. An epoch skips the steps that fill no whole minibatch.
        order = tf.argsort(integers([self.config.n_epochs, count], seed, 0, 2**31 - 1), axis=1)
        rows = tf.reshape(order[:, : each * size], [self.config.n_epochs * each, size])
        limit = 1.5 * self.config.target_kl if self.config.target_kl else float("inf")
        measured = (*_MEASURED, *([] if self._limit is None else [REFERENCE_KL]))

        def step(index: tf.Tensor, kl: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, ...]:  # noqa: ARG001
            picked = tf.gather(rows, index)
            figures = self._step(*(tf.gather(column, picked) for column in columns))
            return index + 1, figures["approximate_kl"], sums + tf.stack([figures[name] for name in measured])

        start = (tf.constant(0), tf.constant(0.0), tf.zeros([len(measured)]))
        done, _, sums = tf.while_loop(
            lambda index, kl, _: (index < self.config.n_epochs * each) & (kl <= limit), step, start
        )
        means = tf.unstack(sums / tf.cast(done, tf.float32))
        return {
            **dict(zip(measured, means, strict=True)),
            "explained_variance": explained_variance(flatten(value), target),
            "updates": tf.cast(done, tf.float32),
        }

    def _step(
        self, observation: tf.Tensor, mask: tf.Tensor, action: tf.Tensor, old: tf.Tensor, advantage: tf.Tensor,
        target: tf.Tensor,
    ) -> Figures:  # fmt: skip
        if self.config.normalize_advantage:
            advantage = standardize(advantage)
        with tf.GradientTape() as tape:
            evaluated = self.evaluate(observation, mask, action)
            log_ratio = evaluated.log_probability - old
            ratio = tf.exp(log_ratio)
            policy_loss = -tf.reduce_mean(clipped_gain(ratio, advantage, self.config.clip_range))
            loss, value_loss, entropy = self.losses(evaluated, policy_loss, target, tf.ones_like(target))
        outside = tf.abs(ratio - 1.0) > self.config.clip_range
        return {
            "loss": loss, "policy_loss": policy_loss,
            "value_loss": self._rewards.original_square(value_loss), "entropy": entropy,
            "approximate_kl": tf.reduce_mean((ratio - 1.0) - log_ratio),
            "clip_fraction": tf.reduce_mean(tf.cast(outside, tf.float32)),
            "gradient_norm": self._descend(tape, loss, observation, mask),
            **self._limit_figures(evaluated.divergence),
        }  # fmt: skip


def clipped_gain(ratio: tf.Tensor, advantage: tf.Tensor, clip: float) -> tf.Tensor:
    """Return min(rho A, clip(rho, 1 - e, 1 + e) A), elementwise."""
    return tf.minimum(ratio * advantage, tf.clip_by_value(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def make_ppo(
    spec: Any, action_spec: Any, config: PPOConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return a PPO agent; without `arms` its head is plain."""
    scores, value = networks(spec, action_spec, config, arms, seed, sequence)
    return SessionAgent(spec, action_spec, PPO(scores, value, config), seed=seed)
