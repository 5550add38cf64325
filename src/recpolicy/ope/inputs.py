"""Quantities that estimators read of one log and one target policy, computed on first use.

N rows (rounds, slates or sessions), A actions, K slots, T steps. A log that serves several questions about one target
policy gets its inputs once, so the tables of all actions are read only once.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import effective_sample_size
from recpolicy.core.types import Array, Ints
from recpolicy.ope.config import EstimationConfig, MultiStepConfig, OffPolicyConfig
from recpolicy.ope.feedback import (
    ActionTable,
    BanditFeedback,
    Clusters,
    SlateFeedback,
    TargetPolicy,
    TrajectoryFeedback,
    check_distribution,
    check_logged_probs,
    check_support,
)
from recpolicy.ope.fqe import StepModel, one_step_fit
from recpolicy.ope.results import ModelFit
from recpolicy.ope.reward_model import CrossFitted, fit_reward_model, mrdr_weights
from recpolicy.ope.terms import direct_terms, returns
from recpolicy.ope.weights import cumulative_weights, importance_weights, pseudo_inverse_weights

MODEL, MRDR = "model", "mrdr"
UNIFORM_LOG, ACTION_CLUSTERS = "uniform_log", "action_clusters"
INDEPENDENT, PSEUDO_INVERSE, SLOT_REWARD = "independent", "pseudo_inverse", "slot_reward"
POSITIVE_WEIGHT, POSITIVE_PSEUDO_WEIGHT = "positive_weight", "positive_pseudo_weight"
"""Needs of estimators; `missing` says in words what is not there."""


class EstimatorInputs(ABC):
    """The inputs of the estimators of one kind of feedback."""

    unit: ClassVar[str]
    """A row of the log, in the plural."""
    config: EstimationConfig
    is_incumbent: bool

    @property
    @abstractmethod
    def clusters(self) -> Clusters:
        """The users."""

    @property
    @abstractmethod
    def reward(self) -> Array:
        """Reward of each round, whole slate or whole session [N]."""

    @property
    def reward_limits(self) -> tuple[float, float]:
        """Range of rewards: the config's, or that of the logged rewards; infinite if these are all equal."""
        low, high = self.config.reward_range or (float(self.reward.min()), float(self.reward.max()))
        return (low, high) if high > low else (-np.inf, np.inf)

    def has_given_model(self, needs: Collection[str]) -> bool:
        """Return True if a model among these needs was not fitted on this log, so that it may impute any reward."""
        return MODEL in needs

    @property
    @abstractmethod
    def log_columns(self) -> Mapping[str, object]:
        """Columns of the log; a comparison of two policies needs the same in both, with None for a missing one."""

    @abstractmethod
    def missing(self, need: str) -> str | None:
        """Return in words the input that is missing for a need; None if it is there."""

    @abstractmethod
    def model_fit(self, needs: Collection[str]) -> ModelFit | None:
        """Return the fit of the reward model among these needs; None without one."""


@dataclass(frozen=True)
class QValues:
    """A reward model on one log and one target policy."""

    expected_q: Array  # [N]
    """Predicted reward, averaged over the target's actions."""
    logged_q: Array  # [N]
    """Predicted reward of the logged action."""
    fit: ModelFit
    is_independent: bool
    """True if the model was made without these rounds; False for a cross-fitted one."""


@dataclass(frozen=True)
class BanditInputs(EstimatorInputs):
    """Inputs from N single rounds."""

    feedback: BanditFeedback
    target: TargetPolicy
    config: OffPolicyConfig = field(default_factory=OffPolicyConfig)
    q: ActionTable | None = None
    """Rewards [N, A] predicted by a model that was not fitted on these rounds; None cross-fits a model."""
    action_clusters: Ints | None = None  # [A]
    """Number of each action's cluster, for mips."""
    shared_fit: "BanditInputs | None" = None
    """Inputs of the same rounds whose fitted reward model is used here too; it does not depend on the target."""
    is_incumbent: bool = False
    _q_values: dict[str, QValues] = field(default_factory=dict, repr=False)

    unit: ClassVar[str] = "rounds"

    def __post_init__(self) -> None:
        if self.target.prob.shape != (len(self.feedback),):
            raise DataError(f"target: {self.target.prob.shape} probabilities; expected ({len(self.feedback)},)")
        check_support(self.feedback, self.target)

    def with_target(self, target: TargetPolicy) -> "BanditInputs":
        """Return the inputs of another target policy on the same rounds, with the same reward model."""
        return replace(self, target=target, shared_fit=self, is_incumbent=True, _q_values={})

    @property
    def clusters(self) -> Clusters:
        """The users."""
        return self.feedback.clusters

    @cached_property
    def reward(self) -> Array:
        """Reward of each round [N]."""
        return self.feedback.reward.astype(np.float64)

    @property
    def log_columns(self) -> Mapping[str, object]:
        """Columns of the log."""
        return {name: getattr(self.feedback, name) for name in ("action", "reward", "user", "behavior_prob")}

    def missing(self, need: str) -> str | None:
        """Return in words the input that is missing for a need; None if it is there."""
        if need in (MODEL, MRDR):
            table = "the target's probabilities of all actions: give TargetPolicy a table [N, A]"
            return table if self.target.table is None else None
        if need == UNIFORM_LOG:
            problem = _uniformity_problem(self.feedback)
            advice = "plain replay is biased unless every action was logged with probability 1/A; use snips instead"
            return None if problem is None else f"a uniform log, but {problem}: {advice}"
        required = (self.target.table, self.action_clusters, self.feedback.logging_probs)
        if all(value is not None for value in required):
            return None
        return (
            "a target with a table [N, A], `action_clusters` [A] and the log's `logging_probs` [N, A]: the logged "
            "action's probability does not give its cluster's"
        )

    @cached_property
    def weight(self) -> Array:
        """Importance weights [N]."""
        return importance_weights(self.target.prob, self.feedback.behavior_prob)

    @cached_property
    def replay_weight(self) -> Array:
        """A where an action drawn from the target is the logged one, else 0 [N]; mean 1 as for all weights."""
        draw = generator(self.config.seed, "off_policy/replay").random(len(self.feedback))
        return (draw < self.target.prob) / self.feedback.behavior_prob

    @cached_property
    def cluster_weight(self) -> Array:
        """Weights of clusters of actions instead of actions (MIPS) [N]."""
        feedback, table = self.feedback, self.target.table
        assert table is not None, "`missing` names a missing table first"
        assert self.action_clusters is not None
        assert feedback.logging_probs is not None
        target = marginal_probs(feedback, table, self.action_clusters, "target probabilities")
        logging = marginal_probs(feedback, feedback.logging_probs, self.action_clusters, "logging_probs")
        return importance_weights(target, logging)

    @cached_property
    def fitted(self) -> CrossFitted:
        """The reward model that is fitted on these rounds where none is given."""
        if self.shared_fit is not None:
            return self.shared_fit.fitted
        return fit_reward_model(self.feedback, self.config.model, self.config.seed)

    @property
    def model(self) -> QValues:
        """The given reward model, or a cross-fitted one."""
        return self._q(MODEL)

    @property
    def mrdr(self) -> QValues:
        """A reward model that is cross-fitted to minimize the variance of DR."""
        return self._q(MRDR)

    def model_fit(self, needs: Collection[str]) -> ModelFit | None:
        """Return the fit of the reward model among these needs; None without one."""
        return next((self._q(need).fit for need in needs if need in (MODEL, MRDR)), None)

    def has_given_model(self, needs: Collection[str]) -> bool:
        """Return True if a model among these needs was not fitted on this log."""
        return MODEL in needs and self.q is not None

    def residual(self, needs: Collection[str]) -> Array:
        """Return the rewards [N] less the predictions of the reward model among these needs."""
        models = [self._q(need) for need in needs if need in (MODEL, MRDR)]
        return self.reward - models[0].logged_q if models else self.reward

    def read_tables(self, needs: Collection[str]) -> None:
        """Read the tables of all actions once for all of these needs, instead of once for each."""
        names = [name for name in (MODEL, MRDR) if name in needs and name not in self._q_values]
        if names:
            self._q_values.update(self._scan({name: self._reward_model(name) for name in names}))

    def _q(self, name: str) -> QValues:
        self.read_tables([name])
        return self._q_values[name]

    def _reward_model(self, name: str) -> ActionTable:
        if name == MODEL:
            return self.fitted.rows if self.q is None else self.q
        weight = mrdr_weights(self.weight, self.feedback.behavior_prob)
        return fit_reward_model(self.feedback, self.config.model, self.config.seed, weight).rows

    def _scan(self, models: Mapping[str, ActionTable]) -> dict[str, QValues]:
        """Return expected and logged predictions of the models, read block by block alongside the target's table."""
        feedback, target = self.feedback, self.target
        assert target.table is not None, "`missing` names a missing table first"
        output = {name: (np.empty(len(feedback)), np.empty(len(feedback))) for name in models}
        blocks = [feedback.blocks(q, "predicted rewards") for q in models.values()]
        target_blocks = feedback.blocks(target.table, "target probabilities")
        for (part, probs), *predictions in zip(target_blocks, *blocks, strict=True):
            check_logged_probs(feedback, target, part, probs)
            for (expected_q, logged_q), (_, q) in zip(output.values(), predictions, strict=True):
                if not np.isfinite(q).all():
                    raise DataError(f"predicted rewards: rounds {part.start}..{part.stop - 1} hold numbers not finite")
                bounded = np.clip(q, *self.config.reward_range) if self.config.reward_range else q
                expected_q[part] = direct_terms(probs, bounded)
                logged_q[part] = feedback.at_logged(part, bounded)
        independent = () if self.q is None else (MODEL,)
        return {
            name: QValues(*values, ModelFit.from_predictions(values[1], self.reward), name in independent)
            for name, values in output.items()
        }


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

    def _least_supported(self, weight: Array) -> Array:
        """Return the column of weights [N, T] with the smallest effective sample size of users."""
        column = min(weight.T, key=lambda values: effective_sample_size(self.clusters.sums(values)))
        return np.ascontiguousarray(column)

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


def logged_predictions(feedback: BanditFeedback, q: ActionTable) -> Array:
    """Return the predicted rewards [N] of the logged actions from a table [N, A], to check their calibration."""
    predicted = np.empty(len(feedback))
    for part, rows in feedback.blocks(q, "predicted rewards"):
        predicted[part] = feedback.at_logged(part, rows)
    return predicted


def marginal_probs(feedback: BanditFeedback, table: ActionTable, action_clusters: Ints, name: str) -> Array:
    """Return the probability [N] of the logged action's cluster from a table [N, A]; action_clusters [A]."""
    if action_clusters.shape != (feedback.actions,):
        raise DataError(f"action_clusters: {action_clusters.shape}; expected ({feedback.actions},), one per action")
    prob = np.empty(len(feedback))
    cluster = action_clusters[feedback.action]  # [N]
    for part, rows in feedback.blocks(table, name):
        check_distribution(rows, part.start, name)
        prob[part] = np.where(action_clusters == cluster[part, None], rows, 0).sum(axis=1, dtype=np.float64)
    return np.minimum(prob, 1)


def _uniformity_problem(feedback: BanditFeedback) -> str | None:
    """Return the first row of a log that is not uniform over its actions, in words; None for a uniform log."""
    differs = np.abs(feedback.behavior_prob * feedback.actions - 1) > 1e-6
    if not differs.any():
        return None
    row = int(np.argmax(differs))
    return f"row {row} was logged with probability {feedback.behavior_prob[row]:.6g}, not 1/{feedback.actions}"
