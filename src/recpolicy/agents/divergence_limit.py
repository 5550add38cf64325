"""A limit on the divergence of a policy from the reference policy that its training started from.

n steps, A actions, pi the policy, rho the reference: softmax policies, or the softmax of values or rewards at a
temperature. Both have the same masks, so the divergence is finite:

    KL(pi || rho) = sum_a pi(a|s) (log pi(a|s) - log rho(a|s))

Two limits, alone or together: the loss has `reference_kl_coef` times the mean divergence; and a gradient step after
which the mean divergence of its own batch exceeds `max_reference_kl` is taken back, and none follows. The reference is
constants, which no checkpoint holds.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from recpolicy.core.config import NonNegativeNumber, Temperature, config_dataclass

REFERENCE_KL = "reference_kl"
"""Name of the figure: the mean divergence in nats."""


@config_dataclass
class ReferenceLimitConfig:
    """Settings of the limit; they need a policy to start from."""

    reference_kl_coef: NonNegativeNumber = 0.0
    """Weight in the loss of the divergence from the initial policy, in reward per nat; 0 has no penalty."""
    max_reference_kl: NonNegativeNumber = 0.0
    """Divergence from the initial policy, in nats, at which the training ends; 0 has no limit."""


@config_dataclass
class SoftenedLimitConfig(ReferenceLimitConfig):
    """Settings of the limit for agents that estimate values or rewards and have no softmax policy."""

    reference_temperature: Temperature = 0.1
    """Softmax temperature of the divergence from the initial policy, in units of the estimates; must be > 0."""


class ReferenceLimit(tf.Module):
    """A reference, the two limits, and the state of the hard one."""

    def __init__(self, reference: Any, coefficient: float, maximum: float):
        """Use `reference` as the fixed policy: what its log-odds need is the learner's to know."""
        super().__init__(name="reference_limit")
        self.reference, self.coefficient, self.maximum = reference, coefficient, maximum
        self.stopped = tf.Variable(False, trainable=False, name="stopped")

    def take_step(
        self, weights: list[tf.Variable], step: Callable[[], tf.Tensor], divergence: Callable[[], tf.Tensor]
    ) -> tf.Tensor:
        """Take a gradient step unless it exceeds the hard limit or an earlier one did; return what `step` returns.

        Args:
            weights: The variables that the step changes.
            step: Takes the step; returns the gradient's norm.
            divergence: Computes the mean divergence with the current weights.
        """
        if not self.maximum:
            return step()
        before = [weight.read_value() for weight in weights]
        norm = step()
        refused = self.stopped.read_value() | (divergence() > self.maximum)
        for weight, old in zip(weights, before, strict=True):
            weight.assign(tf.where(refused, old, weight.read_value()))
        self.stopped.assign(refused)
        return norm


def kl_divergence(scores: tf.Tensor, reference: tf.Tensor) -> tf.Tensor:
    """Return KL(pi || rho) [n] in nats between the softmax policies of masked log-odds [n, A]; masked actions add 0."""
    log_own, log_reference = tf.nn.log_softmax(scores), tf.nn.log_softmax(reference)
    return tf.reduce_sum(tf.exp(log_own) * (log_own - log_reference), axis=1)
