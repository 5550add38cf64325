"""Quantities that estimators read of slates and sessions, computed on first use.

N slates or sessions, K slots, T steps. A session is a row of T steps; a slate may be read as a session of K steps.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from recpolicy.core.statistics import effective_sample_size
from recpolicy.core.types import Array
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.feedback import Clusters, SlateFeedback, TrajectoryFeedback
from recpolicy.ope.fqe import StepModel, one_step_fit
from recpolicy.ope.inputs import MODEL, POSITIVE_WEIGHT, EstimatorInputs
from recpolicy.ope.results import ModelFit
from recpolicy.ope.terms import returns
from recpolicy.ope.weights import cumulative_weights, pseudo_inverse_weights

INDEPENDENT, PSEUDO_INVERSE, SLOT_REWARD = "independent", "pseudo_inverse", "slot_reward"
POSITIVE_PSEUDO_WEIGHT = "positive_pseudo_weight"
"""Needs of estimators of slates; `missing` says in words what is not there."""


@dataclass(frozen=True)
class MultiStepInputs(EstimatorInputs):
    """Inputs from N slates or sessions."""

    feedback: SlateFeedback | TrajectoryFeedback
    config: MultiStepConfig = field(default_factory=MultiStepConfig)
    given_model: StepModel | None = None
    """Predictions for all steps or slots."""
    is_incumbent: bool = False

    @property
    def clusters(self) -> Clusters:
        """The users."""
        return self.feedback.clusters

    def missing(self, need: str) -> str | None:
        """Return in words the input that is missing for a need; None if it is there."""
        if need == MODEL:
            name = "incumbent_model" if self.is_incumbent else "model"
            return None if self.given_model is not None else f"`{name}`: predictions for each step (see fqe.py)"
        assert need == POSITIVE_WEIGHT, need
        empty = f"logged {self.unit} that the target might produce as a whole: all weights are 0"
        return None if self.trajectory_weight.sum() > 0 else empty

    @cached_property
    def cumulative_weight(self) -> Array:
        """W [N, T]; after the end of a session as at its end."""
        return cumulative_weights(self.feedback.ratio)

    @cached_property
    def trajectory_weight(self) -> Array:
        """Weight of the whole slate or session [N]."""
        return np.ascontiguousarray(self.cumulative_weight[:, -1])

    @property
    @abstractmethod
    def trajectories(self) -> TrajectoryFeedback:
        """The feedback as sessions."""

    @cached_property
    def model(self) -> StepModel:
        """The given model, 0 after the end of sessions."""
        assert self.given_model is not None, "`missing` names a missing model first"
        return self.given_model.masked(self.trajectories.is_step)

    def has_same_target(self, other: EstimatorInputs) -> bool:
        """Return True for the same feedback; probabilities of logged items do not tell those of the others."""
        return isinstance(other, MultiStepInputs) and other.feedback is self.feedback

    def _least_supported(self, weight: Array) -> Array:
        """Return the column of weights [N, T] with the smallest effective sample size of users."""
        column = min(weight.T, key=lambda values: effective_sample_size(self.clusters.sums(values)))
        return np.ascontiguousarray(column)

    def _lightest(self, weight: Array) -> Array:
        """Return the column of weights [N, T] with the smallest mean, where the log lacks most of the target's mass."""
        return np.ascontiguousarray(weight[:, weight.mean(axis=0).argmin()])

    @cached_property
    def _fit(self) -> ModelFit | None:
        return one_step_fit(self.trajectories, self.model)

    def model_fit(self, needs: Collection[str]) -> ModelFit | None:
        """Return the one-step fit of the model if it is among these needs."""
        return self._fit if MODEL in needs else None


@dataclass(frozen=True)
class TrajectoryInputs(MultiStepInputs):
    """Inputs from N sessions."""

    feedback: TrajectoryFeedback

    unit: ClassVar[str] = "sessions"

    @property
    def trajectories(self) -> TrajectoryFeedback:
        """The feedback."""
        return self.feedback

    @cached_property
    def reward(self) -> Array:
        """Discounted sum of each session's rewards [N]."""
        return returns(self.feedback.masked_reward, self.feedback.gamma)

    @property
    def log_columns(self) -> Mapping[str, object]:
        """Columns of the log, without values after the end of sessions."""
        log = self.feedback
        return {
            "length": log.length, "user": log.user, "gamma": log.gamma, "reward": log.masked_reward,
            "ended": np.ones(len(log), bool) if log.ended is None else log.ended,
            "behavior_prob": np.where(log.is_step, log.behavior_prob, 1.0),
        }  # fmt: skip

    @cached_property
    def worst_step_weight(self) -> Array:
        """Weights up to the step with the smallest effective sample size [N]; ended sessions keep theirs."""
        return self._least_supported(self.cumulative_weight)

    @cached_property
    def lightest_step_weight(self) -> Array:
        """Weights up to the step with the smallest mean weight [N]."""
        return self._lightest(self.cumulative_weight)


@dataclass(frozen=True)
class SlateInputs(MultiStepInputs):
    """Inputs from N slates of K slots."""

    feedback: SlateFeedback

    unit: ClassVar[str] = "slates"

    @cached_property
    def reward(self) -> Array:
        """Reward of each whole slate [N]."""
        return self.feedback.reward.astype(np.float64)

    @property
    def log_columns(self) -> Mapping[str, object]:
        """Columns of the log."""
        names = ("reward", "user", "behavior_prob", "slot_reward", "independent")
        return {name: getattr(self.feedback, name) for name in names}

    def missing(self, need: str) -> str | None:
        """Return in words the input that is missing for a need; None if it is there."""
        feedback = self.feedback
        available = {
            INDEPENDENT: feedback.independent,
            PSEUDO_INVERSE: feedback.independent or feedback.pseudo_weight is not None,
            SLOT_REWARD: feedback.slot_reward is not None,
        }
        if need == POSITIVE_PSEUDO_WEIGHT:
            available[need] = self.pseudo_weight.sum() > 0
        if need in available:
            return None if available[need] else _SLATE_NEEDS[need]
        return super().missing(need)

    @cached_property
    def trajectories(self) -> TrajectoryFeedback:
        """The slates as sessions of K steps."""
        return self.feedback.trajectories()

    @property
    def slot_reward(self) -> Array:
        """Reward of each slot [N, K]."""
        return self.trajectories.masked_reward

    @cached_property
    def pseudo_weight(self) -> Array:
        """G [N]."""
        weight = self.feedback.pseudo_weight
        return pseudo_inverse_weights(self.feedback.ratio) if weight is None else weight.astype(np.float64)

    @cached_property
    def outcome(self) -> Array:
        """G R [N]."""
        return self.pseudo_weight * self.reward

    @cached_property
    def worst_slot_weight(self) -> Array:
        """The ratio of the slot with the smallest effective sample size [N]."""
        return self._least_supported(self.feedback.ratio)

    @cached_property
    def lightest_slot_weight(self) -> Array:
        """The ratio of the slot with the smallest mean ratio [N]."""
        return self._lightest(self.feedback.ratio)

    @cached_property
    def slot_variates(self) -> tuple[Array, Array]:
        """Control variates of all slots and their squares, both [N, K]."""
        variates = self.feedback.ratio - 1
        return variates, variates**2

    @cached_property
    def single_variate(self) -> tuple[Array, Array]:
        """The control variate G - 1 and terms with the mean of its square, both [N, 1]."""
        variate = self.pseudo_weight[:, None] - 1
        independent = self.feedback.independent
        return variate, self.slot_variates[1].sum(axis=1, keepdims=True) if independent else variate**2


_SLATE_NEEDS = {
    INDEPENDENT: "slots that are filled independently; use ips, or pseudo_weight with pi and wpi",
    PSEUDO_INVERSE: "slots that are filled independently, or `pseudo_weight` in SlateFeedback (see weights.py)",
    SLOT_REWARD: "`slot_reward` in SlateFeedback: the reward of each slot",
    POSITIVE_PSEUDO_WEIGHT: "pseudo-inverse weights with a mean above 0; the log has hardly any item of the target",
}
