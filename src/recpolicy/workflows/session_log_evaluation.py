"""Compare a policy on logged sessions with an incumbent or with the logging policy, by off-policy evaluation.

N steps of M sessions, U users, A items of the log's catalog. Policies act without exploration: the best candidate that
the session has not shown. Either policy may be one of single rounds. Values are per session.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.statistics import Interval
from recpolicy.core.types import Array
from recpolicy.data.session_log import SessionLog
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import GroupFigure, Groups, group_figures
from recpolicy.evaluation.return_gain import return_gains, trajectory_weights
from recpolicy.inference.predictor import Policy
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import value_differences_from_inputs, value_limits_from_inputs
from recpolicy.ope.estimators import TRAJECTORY_ESTIMATORS
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.ope.multi_step_inputs import TrajectoryInputs
from recpolicy.ope.point_estimates import point_estimates
from recpolicy.ope.results import PolicyComparison
from recpolicy.workflows.artifacts import check_not_learned
from recpolicy.workflows.log_evaluation import GATE_INTERVALS, check_same_ids, gate_figures
from recpolicy.workflows.policy_estimation import (
    GREEDY,
    check_session_policy,
    is_same_policy,
    return_range,
    weight_notes,
)
from recpolicy.workflows.policy_feedback import replay_policy, replayed_model
from recpolicy.workflows.session_players import check_single_items

ESTIMATOR, WITHOUT_MODEL = "per_decision_dr", "per_decision_is"
"""Doubly robust step by step: unbiased with true propensities; and weights alone, where no reward model converges."""
PER_SESSION = "session"
"""The unit of the values, as the gate reads it."""


@dataclass(frozen=True)
class SessionLogComparison:
    """A candidate on one log of sessions; figures are computed at their first use."""

    candidate: TrajectoryInputs
    incumbent: TrajectoryInputs | None
    """None is the logging policy."""
    estimator: str
    chosen: Array = field(repr=False)  # [A]
    """Sum of the candidate's probabilities over the steps."""
    user: NDArray[np.int32] = field(repr=False)  # [M], rows of the user table
    notes: tuple[str, ...] = ()
    returns: Mapping[str, Any] = field(default_factory=dict)
    """Differences of return rates by window; empty for a log without return times."""
    relative_gain: None = None
    """None: the gain over the logging policy is absolute, per session."""

    @property
    def feedback(self) -> TrajectoryFeedback:
        """The log, with the candidate's probabilities."""
        return self.candidate.feedback

    @cached_property
    def gain(self) -> PolicyComparison:
        """The candidate's value per session minus the incumbent's."""
        return value_differences_from_inputs(self.candidate, self.incumbent, [self.estimator])[self.estimator]

    @cached_property
    def mean_reward(self) -> Mapping[str, Interval]:
        """The candidate's value per session, by kind of interval."""
        return value_limits_from_inputs(self.candidate, self.estimator)

    @cached_property
    def actions(self) -> ActionDiversity:
        """Diversity of the candidate's choices in these sessions."""
        return action_diversity(self.chosen)

    def group_gains(self, groups: Groups) -> dict[str, GroupFigure]:
        """Return the gain within each group of users [U], paired by session."""
        users, ones = groups.member.shape[1], np.ones(len(self.user))
        terms, weight = self._terms(self.candidate)
        others, other_weight = (self.candidate.reward, ones) if self.incumbent is None else self._terms(self.incumbent)
        columns = (terms - others, ones, weight, other_weight)
        low, high = self.candidate.reward_limits
        total, size, *weights = (np.bincount(self.user, values, users) for values in columns)
        return group_figures(groups, total, size, high - low, self.candidate.config.level, weights)

    def figures(self, baseline: str) -> dict[str, Any]:
        """Return what the gate asks of a log, as plain values for JSON; `baseline` names what the gain is over."""
        logging = self.gain
        if self.incumbent is not None:
            logging = value_differences_from_inputs(self.candidate, None, [self.estimator])[self.estimator]
        over_logging = {kind: logging.limits[kind].as_dict() for kind in GATE_INTERVALS}
        return {
            **gate_figures(baseline, self.gain, self.mean_reward, None, None),
            "unit": PER_SESSION, "gain_over_logging": over_logging,
            **({"returns": dict(self.returns)} if self.returns else {}),
        }  # fmt: skip

    def _terms(self, inputs: TrajectoryInputs) -> tuple[Array, Array]:
        """Return the terms of the estimator [M], and its weights [M]."""
        estimate = point_estimates({self.estimator: TRAJECTORY_ESTIMATORS[self.estimator]}, inputs)[self.estimator]
        return estimate.statistic.terms, estimate.weight


def compare_on_sessions(
    policy: Policy, incumbent: Policy | None, log: SessionLog, seed: int = 0
) -> SessionLogComparison:
    """Return the comparison of a policy with the incumbent, or the logging policy, on logged sessions.

    Args:
        policy: The candidate.
        incumbent: The policy in service; None is the logging policy.
        log: The sessions.
        seed: Seed of the intervals and folds.

    Raises:
        ConfigError: A policy shows slates.
        DataError: A policy or one of its ancestors has learned from some of these sessions; the log has no
            propensities, other users or another catalog; or the incumbent has other users or items.
    """
    policies = {"the policy": policy} | ({} if incumbent is None else {"the incumbent": incumbent})
    same = incumbent is not None and is_same_policy(policy, incumbent)
    for who, compared in policies.items():
        check_session_policy(who, compared, log)
        check_single_items(who, compared, log.name)
    check_not_learned(log, policies)
    if incumbent is not None:
        check_same_ids(policy, incumbent)
    config = MultiStepConfig(seed=seed, reward_range=return_range(policy, log, 1.0), resamples=0)
    if same:  # evaluated once
        del policies["the incumbent"]
    replays = {who: replay_policy(compared, log, GREEDY) for who, compared in policies.items()}
    inputs, notes, estimator = [], [], ESTIMATOR
    for who, compared in policies.items():
        feedback, model, problem = replayed_model(replays[who], compared, log, 1.0, config)
        inputs.append(TrajectoryInputs(feedback, config, model, is_incumbent=compared is not policy))
        notes += [f"{who}: {note}" for note in weight_notes(inputs[-1], GREEDY)]
        if problem is not None:
            estimator = WITHOUT_MODEL
            notes.append(f"{who}: weights alone, without a reward model: {problem}")
    if same:
        inputs.append(replace(inputs[0], is_incumbent=True))
    other = None if incumbent is None else inputs[1]
    user, returns = log.user[log.start[:-1]], dict[str, Any]()
    if log.returns is not None:
        weights = [trajectory_weights(each.feedback.target_prob, each.feedback.behavior_prob) for each in inputs]
        returns = return_gains(log, weights[0], weights[1] if len(weights) > 1 else np.ones(len(user)))
    chosen = replays["the policy"].chosen
    return SessionLogComparison(inputs[0], other, estimator, chosen, user, tuple(notes), returns)
