"""Quantities that estimators read of one log and one target policy, computed on first use.

N rows (rounds, slates or sessions), A actions. multi_step_inputs.py has the quantities of slates and sessions. A log
that serves several questions about one target policy gets its inputs once, so the tables of all actions are read only
once.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array, Ints
from recpolicy.ope.config import EstimationConfig, OffPolicyConfig
from recpolicy.ope.feedback import (
    ActionTable,
    BanditFeedback,
    Clusters,
    TargetPolicy,
    check_distribution,
    check_logged_probs,
    check_support,
)
from recpolicy.ope.results import ModelFit
from recpolicy.ope.reward_model import CrossFitted, fit_reward_model, mrdr_weights
from recpolicy.ope.terms import direct_terms
from recpolicy.ope.weights import importance_weights

MODEL, MRDR = "model", "mrdr"
UNIFORM_LOG, ACTION_CLUSTERS = "uniform_log", "action_clusters"
POSITIVE_WEIGHT = "positive_weight"
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
    def has_same_target(self, other: "EstimatorInputs") -> bool:
        """Return True if the other inputs, of the same log, are known to have the same target policy."""

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

    def has_same_target(self, other: EstimatorInputs) -> bool:
        """Return True for the same probabilities of all actions; those of the logged ones do not tell the others."""
        if not isinstance(other, BanditInputs):
            return False
        first, second = self.target, other.target
        if first is second:
            return True
        if first.table is None or second.table is None or not np.array_equal(first.prob, second.prob):
            return False
        tables = [self.feedback.blocks(table, "target probabilities") for table in (first.table, second.table)]
        return all(np.array_equal(mine, others) for (_, mine), (_, others) in zip(*tables, strict=True))

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
