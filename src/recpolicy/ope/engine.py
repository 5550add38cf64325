"""Off-policy evaluation in one call: the value of a target policy, or its difference to an incumbent, with intervals.

    feedback = BanditFeedback(action, reward, behavior_prob, user, actions=100, context=context)
    estimates = estimate(feedback, TargetPolicy.from_table(feedback, target_probs))
    print(estimates.table())

    slates = SlateFeedback(behavior_prob, target_prob, reward, user, slot_reward=slot_reward)
    other = replace(slates, target_prob=incumbent_prob)
    print(slate_value_differences(slates, other)["pi_slots"].verdict(margin=0.01))

    sessions = TrajectoryFeedback(reward, behavior_prob, target_prob, length, user, gamma=0.95)
    model = table_model(sessions, state, action, target_probs)
    print(estimate_trajectories(sessions, model=model).table())

To ask several questions about one target policy, prepare its inputs once; the tables of all actions are then read once:

    inputs = BanditInputs(feedback, target, config)
    estimates = estimate_from_inputs(inputs)
    differences = value_differences_from_inputs(inputs, inputs.with_target(other), ("snips", "dr"))

N rounds, slates or sessions, A actions. All randomness follows from the seed in the config. The order of the estimators
does not change the results. docs/explanation/off_policy.md and off_policy_slates.md list the assumptions of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.statistics import Interval
from recpolicy.core.types import Ints
from recpolicy.ope.config import MultiStepConfig, OffPolicyConfig
from recpolicy.ope.estimators import ESTIMATORS, SLATE_ESTIMATORS, TRAJECTORY_ESTIMATORS, EstimatorSpec
from recpolicy.ope.feedback import (
    ActionTable,
    BanditFeedback,
    SlateFeedback,
    TargetPolicy,
    TrajectoryFeedback,
)
from recpolicy.ope.fqe import StepModel
from recpolicy.ope.inference import compare_policies, value_limits, with_intervals, within_range
from recpolicy.ope.inputs import BanditInputs, EstimatorInputs
from recpolicy.ope.multi_step_inputs import SlateInputs, TrajectoryInputs
from recpolicy.ope.point_estimates import logging_policy_estimate, point_estimates, reward_scale
from recpolicy.ope.results import Estimates, PolicyComparison

_Inputs = TypeVar("_Inputs", bound=EstimatorInputs)
_SPECS: Mapping[type[EstimatorInputs], Mapping[str, EstimatorSpec[Any]]] = {
    BanditInputs: ESTIMATORS, SlateInputs: SLATE_ESTIMATORS, TrajectoryInputs: TRAJECTORY_ESTIMATORS,
}  # fmt: skip


def estimate(
    feedback: BanditFeedback,
    target: TargetPolicy,
    estimators: Sequence[str] | None = None,
    config: OffPolicyConfig | None = None,
    *,
    q: ActionTable | None = None,
    action_clusters: Ints | None = None,
) -> Estimates:
    """Estimate the target policy's mean reward per round from the log of another policy.

    Args:
        feedback: N logged rounds.
        target: the policy to evaluate, on these rounds.
        estimators: names in ESTIMATORS; None takes all that the inputs allow.
        config: settings; None takes the defaults.
        q: [N, A], rewards predicted by a model that was not fitted on these rounds; None cross-fits a ridge regression.
        action_clusters: [A], the number of each action's cluster, for mips.

    Returns:
        Results by estimator, with values in units of the reward.

    Raises:
        DataError: missing support, rewards outside reward_range, a weight above weight_bound, or fewer than two users.
        ConfigError: an unknown estimator, or one whose inputs are missing.
    """
    inputs = BanditInputs(feedback, target, config or OffPolicyConfig(), q, action_clusters)
    return estimate_from_inputs(inputs, estimators)


def value_difference(
    feedback: BanditFeedback,
    candidate: TargetPolicy,
    incumbent: TargetPolicy | None,
    estimator: str = "snips",
    config: OffPolicyConfig | None = None,
    *,
    q: ActionTable | None = None,
    action_clusters: Ints | None = None,
) -> PolicyComparison:
    """Estimate the candidate's mean reward per round minus the incumbent's, by one estimator.

    Args:
        feedback: N logged rounds.
        candidate: the policy to evaluate.
        incumbent: the policy to compare with; None is the logging policy, whose value is the mean logged reward.
        estimator: name in ESTIMATORS.
        config: settings. q: see `estimate`. action_clusters: see `estimate`.

    Returns:
        The difference in units of the reward, with intervals and a verdict.

    Raises:
        DataError: see `estimate`.
        ConfigError: see `estimate`.
    """
    differences = value_differences(
        feedback, candidate, incumbent, [estimator], config, q=q, action_clusters=action_clusters
    )
    return differences[estimator]


def value_differences(
    feedback: BanditFeedback,
    candidate: TargetPolicy,
    incumbent: TargetPolicy | None,
    estimators: Sequence[str],
    config: OffPolicyConfig | None = None,
    *,
    q: ActionTable | None = None,
    action_clusters: Ints | None = None,
) -> dict[str, PolicyComparison]:
    """Estimate the candidate's mean reward per round minus the incumbent's, by several estimators.

    The comparison is paired round by round. Users differ in the same way for both policies, so the interval is narrower
    than two separate values suggest. Each result is the same as from one estimator alone, but tables are read and users
    resampled only once.

    Args:
        feedback: N logged rounds.
        candidate: the policy to evaluate.
        incumbent: the policy to compare with; None is the logging policy, whose value is the mean logged reward.
        estimators: names in ESTIMATORS.
        config: settings. q: see `estimate`. action_clusters: see `estimate`.

    Returns:
        Differences by estimator.

    Raises:
        DataError: see `estimate`.
        ConfigError: see `estimate`.
    """
    inputs = BanditInputs(feedback, candidate, config or OffPolicyConfig(), q, action_clusters)
    other = None if incumbent is None else inputs.with_target(incumbent)
    return value_differences_from_inputs(inputs, other, estimators)


def estimate_slates(
    feedback: SlateFeedback,
    estimators: Sequence[str] | None = None,
    config: MultiStepConfig | None = None,
    *,
    model: StepModel | None = None,
) -> Estimates:
    """Estimate the target policy's mean reward per slate from the log of another policy.

    Args:
        feedback: N logged slates of K slots, with the target's probabilities.
        estimators: names in SLATE_ESTIMATORS; None takes all that the inputs allow.
        config: settings; None takes the defaults.
        model: predictions [N, K] for cascade_dr (fqe.py).

    Returns:
        Results by estimator, with values in units of the slate's reward.

    Raises:
        DataError: a single user, or weights that exceed the largest float or weight_bound.
        ConfigError: an unknown estimator, or one whose inputs are missing.
    """
    return estimate_from_inputs(SlateInputs(feedback, config or MultiStepConfig(), model), estimators)


def slate_value_differences(
    candidate: SlateFeedback,
    incumbent: SlateFeedback | None,
    estimators: Sequence[str] | None = None,
    config: MultiStepConfig | None = None,
    *,
    model: StepModel | None = None,
    incumbent_model: StepModel | None = None,
) -> dict[str, PolicyComparison]:
    """Estimate the candidate's mean reward per slate minus the incumbent's, paired slate by slate.

    Args:
        candidate: N logged slates with the candidate's probabilities.
        incumbent: the same log with the incumbent's probabilities (and pseudo_weight); None is the logging policy.
        estimators: names in SLATE_ESTIMATORS; None takes all that the inputs allow for both.
        config: settings; None takes the defaults.
        model: predictions [N, K] for the candidate. incumbent_model: the same for the incumbent.

    Returns:
        Differences by estimator, in units of the slate's reward.

    Raises:
        DataError: two different logs, or see `estimate_slates`.
        ConfigError: an incumbent_model without an incumbent, or see `estimate_slates`.
    """
    _check_incumbent_model(incumbent, incumbent_model)
    config = config or MultiStepConfig()
    other = None if incumbent is None else SlateInputs(incumbent, config, incumbent_model, is_incumbent=True)
    return value_differences_from_inputs(SlateInputs(candidate, config, model), other, estimators)


def estimate_trajectories(
    feedback: TrajectoryFeedback,
    estimators: Sequence[str] | None = None,
    config: MultiStepConfig | None = None,
    *,
    model: StepModel | None = None,
) -> Estimates:
    """Estimate the target policy's mean discounted reward per session from the log of another policy.

    Diagnostics describe the weights of whole sessions. For estimators that weight step by step, they describe the
    weights up to the step with the smallest effective sample size.

    Args:
        feedback: N logged sessions of up to T steps, with the target's probabilities.
        estimators: names in TRAJECTORY_ESTIMATORS; None takes all that the inputs allow.
        config: settings; None takes the defaults.
        model: predictions [N, T] (fqe.py, or your own).

    Returns:
        Results by estimator, with values in units of the discounted sum of a session's rewards.

    Raises:
        DataError: a single user, or weights that exceed the largest float or weight_bound.
        ConfigError: an unknown estimator, or one whose inputs are missing.
    """
    return estimate_from_inputs(TrajectoryInputs(feedback, config or MultiStepConfig(), model), estimators)


def trajectory_value_differences(
    candidate: TrajectoryFeedback,
    incumbent: TrajectoryFeedback | None,
    estimators: Sequence[str] | None = None,
    config: MultiStepConfig | None = None,
    *,
    model: StepModel | None = None,
    incumbent_model: StepModel | None = None,
) -> dict[str, PolicyComparison]:
    """Estimate the candidate's mean discounted reward per session minus the incumbent's, paired session by session.

    Args:
        candidate: N logged sessions with the candidate's probabilities.
        incumbent: the same log with the incumbent's probabilities; None is the logging policy.
        estimators: names in TRAJECTORY_ESTIMATORS; None takes all that the inputs allow for both.
        config: settings; None takes the defaults.
        model: predictions [N, T] for the candidate. incumbent_model: the same for the incumbent.

    Returns:
        Differences by estimator, in units of the discounted sum of a session's rewards.

    Raises:
        DataError: two different logs, or see `estimate_trajectories`.
        ConfigError: an incumbent_model without an incumbent, or see `estimate_trajectories`.
    """
    _check_incumbent_model(incumbent, incumbent_model)
    config = config or MultiStepConfig()
    other = None if incumbent is None else TrajectoryInputs(incumbent, config, incumbent_model, is_incumbent=True)
    return value_differences_from_inputs(TrajectoryInputs(candidate, config, model), other, estimators)


def estimate_from_inputs(inputs: EstimatorInputs, estimators: Sequence[str] | None = None) -> Estimates:
    """Return the estimates from prepared inputs, by the estimators named or by all that the inputs allow.

    Args:
        inputs: Prepared inputs; one object may serve several calls.
        estimators: Names in the table of estimators; None takes all that the inputs allow.

    Returns:
        One result per estimator, in units of the reward.
    """
    (specs,) = _select(estimators, inputs)
    results = with_intervals(point_estimates(specs, inputs), inputs.clusters, inputs.config, reward_scale(inputs))
    if inputs.config.reward_range is not None:
        results = {name: within_range(result, *inputs.config.reward_range) for name, result in results.items()}
    return Estimates(results, asdict(inputs.config))


def value_differences_from_inputs(
    candidate: _Inputs, incumbent: _Inputs | None, estimators: Sequence[str] | None = None
) -> dict[str, PolicyComparison]:
    """Return the differences between two policies from prepared inputs on one log; None is the logging policy.

    Args:
        candidate: Prepared inputs of the candidate.
        incumbent: Those of the incumbent on the same log, or None.
        estimators: Names in the table of estimators; None takes all that the inputs allow.

    Returns:
        The paired difference, in units of the reward, per estimator.
    """
    shared = (candidate.clusters, candidate.config, reward_scale(candidate))
    if incumbent is None:
        (specs,) = _select(estimators, candidate)
        logging = dict.fromkeys(specs, logging_policy_estimate(candidate))
        return compare_policies(point_estimates(specs, candidate), logging, *shared)
    _check_same_log(candidate.log_columns, incumbent.log_columns)
    specs, _ = _select(estimators, candidate, incumbent)
    estimates, others = point_estimates(specs, candidate), point_estimates(specs, incumbent)
    return compare_policies(estimates, others, *shared, candidate.has_same_target(incumbent))


def value_limits_from_inputs(inputs: EstimatorInputs, estimator: str) -> dict[str, Interval]:
    """Return the limits of a policy's value from prepared inputs, by kind of interval.

    They contain whatever the actions that the log never shows may earn.

    Args:
        inputs: The inputs of the estimators.
        estimator: Name of the estimator.

    Returns:
        The limits, in the unit of the reward.

    Raises:
        ConfigError: The estimator is unknown, or needs what the inputs lack.
    """
    (specs,) = _select([estimator], inputs)
    estimate = point_estimates(specs, inputs)[estimator]
    return value_limits(estimate, inputs.clusters, inputs.config, reward_scale(inputs))


def _select(estimators: Sequence[str] | None, *inputs: EstimatorInputs) -> list[Mapping[str, EstimatorSpec[Any]]]:
    """Return the specs of the estimators named, or of all that every one of the inputs allows, for each of them."""
    known = _SPECS[type(inputs[0])]
    if estimators is None:
        allowed = {
            name: spec
            for name, spec in known.items()
            if all(each.missing(need) is None for each in inputs for need in spec.needs)
        }
        return [allowed] * len(inputs)
    for name in estimators:
        if name not in known:
            raise unknown_name_error(f"estimator of {inputs[0].unit}", name, known)
        for each in inputs:
            for need in known[name].needs:
                missing = each.missing(need)
                if missing is not None:
                    whose = " (of the incumbent)" if each.is_incumbent else ""
                    raise ConfigError(f"estimator {name!r} needs {missing}{whose}")
    return [{name: known[name] for name in estimators}] * len(inputs)


def _check_incumbent_model(incumbent: object, incumbent_model: object) -> None:
    if incumbent is None and incumbent_model is not None:
        raise ConfigError("incumbent_model without an incumbent: the logging policy needs no model")


def _check_same_log(candidate: Mapping[str, object], incumbent: Mapping[str, object]) -> None:
    """Raise DataError unless both policies are evaluated on one log."""
    for name, value in candidate.items():
        first, second = np.asarray(value), np.asarray(incumbent[name])
        if value is incumbent[name] or np.array_equal(first, second):
            continue
        if value is None or incumbent[name] is None:
            problem = "is there for only one of them"
        elif first.shape != second.shape:
            problem = f"is {first.shape} and {second.shape}"
        elif first.ndim == 0:
            problem = f"is {first} and {second}"
        else:
            cell = tuple(np.argwhere(first != second)[0])
            problem = f"differs, first in row {cell[0]}: {first[cell]} and {second[cell]}"
        raise DataError(
            f"value difference: {name} of candidate and incumbent {problem}; expected one log with two target_prob"
        )
