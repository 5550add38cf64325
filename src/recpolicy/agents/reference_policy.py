"""Session agents whose divergence from the initial policy is limited (divergence_limit.py). n steps, A actions."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from recpolicy.agents import categorical
from recpolicy.agents.divergence_limit import REFERENCE_KL, ReferenceLimit, kl_divergence
from recpolicy.agents.exported_network import exported_scores
from recpolicy.agents.sequence import Figures, SessionLearner
from recpolicy.agents.session_networks import Trainer


class ReferencePolicy:
    """A fixed policy, from the arrays of an exported one (estimator "session" or "session_values")."""

    def __init__(self, arrays: Mapping[str, Any]):
        self._scores = exported_scores(arrays)

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None, temperature: Any = 1.0) -> tf.Tensor:
        """Return log-odds [n, A], the scores over a temperature; MASKED where not allowed."""
        return categorical.mask_logits(self._scores(observation) / temperature, mask)


class LimitedLearner(SessionLearner):
    """A learner whose policy's divergence from a reference can be limited; its log-odds are the scores by default."""

    _trainer: Trainer
    _limit: ReferenceLimit | None = None

    def limit_divergence(self, reference: ReferencePolicy, coefficient: float, maximum: float) -> None:
        """Limit the divergence from the reference in all updates, and report it; call it before anything is compiled.

        Args:
            reference: The policy to stay near.
            coefficient: Weight of the divergence in the loss; 0 has no penalty.
            maximum: Divergence in nats beyond which no step is taken; 0 has no limit.
        """
        self._limit = ReferenceLimit(reference, coefficient, maximum)
        self.figures = (*type(self).figures, REFERENCE_KL)

    @property
    def stopped(self) -> bool:
        """True if the policy reached the hard limit, so that it no longer changes."""
        return self._limit is not None and bool(self._limit.stopped.numpy())

    def release(self) -> None:
        """Drop the limit: a policy does not need it."""
        super().release()
        if self._limit is not None:
            del self._limit  # the class's None is left
            self.figures = type(self).figures

    def _log_odds(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return masked log-odds [n, A] of the policy whose divergence is limited."""
        return self.scores(observation, mask)

    def _reference_log_odds(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return masked log-odds [n, A] of the reference; there must be one."""
        assert self._limit is not None
        return self._limit.reference.scores(observation, mask)

    def _divergence(self, scores: tf.Tensor, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor | None:
        """Return the divergence [n] of the policy with these masked log-odds; None without a limit."""
        return None if self._limit is None else kl_divergence(scores, self._reference_log_odds(observation, mask))

    def _penalty(self, divergence: tf.Tensor | None, weight: tf.Tensor | None = None) -> Any:
        """Return the penalty of the loss: a scalar, 0 without a limit. `weight` [n] has mean 1."""
        if divergence is None or self._limit is None or not self._limit.coefficient:
            return 0.0
        return self._limit.coefficient * _mean(divergence, weight)

    def _limit_figures(self, divergence: tf.Tensor | None, weight: tf.Tensor | None = None) -> Figures:
        """Return the figure of the limit, or none."""
        return {} if divergence is None else {REFERENCE_KL: _mean(divergence, weight)}

    def _descend(
        self, tape: tf.GradientTape, loss: tf.Tensor, observation: tf.Tensor, mask: tf.Tensor,
        weight: tf.Tensor | None = None,
    ) -> tf.Tensor:  # fmt: skip
        """Take one gradient step on the loss of a batch, within the hard limit; return the gradient's norm."""
        limit = self._limit
        if limit is None:
            return self._trainer.descend(tape, loss)

        def divergence() -> tf.Tensor:
            own, other = self._log_odds(observation, mask), self._reference_log_odds(observation, mask)
            return _mean(kl_divergence(own, other), weight)

        return limit.take_step(self._trainer.weights, lambda: self._trainer.descend(tape, loss), divergence)


def _mean(values: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
    return tf.reduce_mean(values if weight is None else weight * values)
