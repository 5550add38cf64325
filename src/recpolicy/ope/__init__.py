"""Off-policy evaluation: the value of a target policy from feedback that another policy logged.

    from recpolicy.ope import BanditFeedback, TargetPolicy, estimate

    feedback = BanditFeedback(action, reward, behavior_prob, user, actions=100)
    print(estimate(feedback, TargetPolicy.from_table(feedback, target_probs)).table())

The package imports NumPy, pandas and `recpolicy.core` only; `recpolicy.ope.benchmark` grades the estimators.
"""

from recpolicy.ope.config import MultiStepConfig, OffPolicyConfig
from recpolicy.ope.engine import (
    estimate,
    estimate_from_inputs,
    estimate_slates,
    estimate_trajectories,
    slate_value_differences,
    trajectory_value_differences,
    value_difference,
    value_differences,
    value_differences_from_inputs,
    value_limits_from_inputs,
)
from recpolicy.ope.estimators import ESTIMATORS, SLATE_ESTIMATORS, TRAJECTORY_ESTIMATORS, EstimatorSpec
from recpolicy.ope.feedback import ActionTable, BanditFeedback, SlateFeedback, TargetPolicy, TrajectoryFeedback
from recpolicy.ope.fqe import FQEConfig, StepModel, by_position, linear_model, table_model
from recpolicy.ope.inputs import BanditInputs
from recpolicy.ope.results import Estimates, OffPolicyResult, PolicyComparison
from recpolicy.ope.reward_model import RewardModelConfig
from recpolicy.ope.weights import general_weights, without_repeats_moments

__all__ = [
    "ESTIMATORS",
    "SLATE_ESTIMATORS",
    "TRAJECTORY_ESTIMATORS",
    "ActionTable",
    "BanditFeedback",
    "BanditInputs",
    "Estimates",
    "EstimatorSpec",
    "FQEConfig",
    "MultiStepConfig",
    "OffPolicyConfig",
    "OffPolicyResult",
    "PolicyComparison",
    "RewardModelConfig",
    "SlateFeedback",
    "StepModel",
    "TargetPolicy",
    "TrajectoryFeedback",
    "by_position",
    "estimate",
    "estimate_from_inputs",
    "estimate_slates",
    "estimate_trajectories",
    "general_weights",
    "linear_model",
    "slate_value_differences",
    "table_model",
    "trajectory_value_differences",
    "value_difference",
    "value_differences",
    "value_differences_from_inputs",
    "value_limits_from_inputs",
    "without_repeats_moments",
]
