"""The estimators by name: for single rounds, for slates and for sessions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from recpolicy.core.types import Array
from recpolicy.ope.inputs import (
    ACTION_CLUSTERS,
    MODEL,
    MRDR,
    POSITIVE_WEIGHT,
    UNIFORM_LOG,
    BanditInputs,
    EstimatorInputs,
    QValues,
)
from recpolicy.ope.intervals import Bounds, pseudo_inverse_bounds, weighted_bounds
from recpolicy.ope.multi_step_inputs import (
    INDEPENDENT,
    POSITIVE_PSEUDO_WEIGHT,
    PSEUDO_INVERSE,
    SLOT_REWARD,
    SlateInputs,
    TrajectoryInputs,
)
from recpolicy.ope.resampling import (
    ResampledStatistic,
    beta_statistic,
    controlled_statistic,
    corrected_ratio_statistic,
    cross_fitted_statistic,
    mean_statistic,
    ratio_statistic,
    weighted_per_decision_statistic,
    weighted_statistic,
)
from recpolicy.ope.reward_model import user_folds
from recpolicy.ope.terms import (
    cross_fitted_weights,
    dr_terms,
    independent_terms,
    ips_terms,
    per_decision_dr_terms,
    per_decision_terms,
)
from recpolicy.ope.tuning import TRANSFORMS, WeightTransform

Range = tuple[float, float]
Inputs = TypeVar("Inputs", bound=EstimatorInputs)


@dataclass(frozen=True)
class EstimatorSpec(Generic[Inputs]):
    """One estimator."""

    statistic: Callable[[Inputs, Array], ResampledStatistic]
    """Its estimate from the inputs and the transformed weights [N]."""
    weight: Callable[[Inputs], Array]
    """Its weights [N] before the transform, which the diagnostics describe."""
    needs: tuple[str, ...] = ()
    """Names of the inputs that it requires (inputs.py)."""
    transform: WeightTransform | None = None
    bounds: Callable[[Inputs, Array, Array, Range, float], Bounds | None] | None = None
    """Bounds of the true value from the inputs, the weights before and after the transform, the reward range and the
    maximum weight after it; None where it has none."""
    lightest_weight: Callable[[Inputs], Array] | None = None
    """Weights [N] of the step or slot whose mean is the smallest, if each has its own weight; None: `weight`."""


def _weighted(inputs: EstimatorInputs, weight: Array) -> ResampledStatistic:
    return weighted_statistic(ips_terms(weight, inputs.reward))


def _self_normalized(inputs: EstimatorInputs, weight: Array) -> ResampledStatistic:
    return ratio_statistic(weight, inputs.reward)


def _doubly_robust(inputs: BanditInputs, weight: Array) -> ResampledStatistic:
    return _dr_statistic(inputs.model, inputs, weight)


def _dr_statistic(q: QValues, inputs: BanditInputs, weight: Array) -> ResampledStatistic:
    return _with_model(mean_statistic(dr_terms(q.expected_q, weight, inputs.reward, q.logged_q)), q, inputs)


def _with_model(statistic: ResampledStatistic, q: QValues, inputs: BanditInputs) -> ResampledStatistic:
    """Return a statistic that gives actions that the log never shows the reward of a model.

    The model's value of the target less that of the logged actions, weighted, is what these actions get.
    """
    return replace(statistic, imputed_terms=q.expected_q - inputs.weight * q.logged_q)


def _weighted_bounds(
    inputs: EstimatorInputs, weight: Array, transformed: Array, reward_range: Range, max_weight: float
) -> Bounds:
    """Return bounds without a reward model. They use min(transformed, w), because larger weights would break them."""
    return weighted_bounds(np.minimum(transformed, weight), inputs.reward, reward_range, max_weight)


def _doubly_robust_bounds(
    inputs: BanditInputs, weight: Array, transformed: Array, reward_range: Range, max_weight: float
) -> Bounds | None:
    """Return DR terms -+ (high - low) (1 - u), the most that transformed weights u can miss for |r - q| <= high - low.

    There are none if the model was fitted on the same rounds.
    """
    q = inputs.model
    if not q.is_independent:
        return None
    width = reward_range[1] - reward_range[0]
    terms = dr_terms(q.expected_q, transformed, inputs.reward, q.logged_q)
    missed = 0.0 if np.array_equal(transformed, weight) else width * (1 - transformed)
    return Bounds(terms - missed, terms + missed, width * (1 + 2 * max_weight), reward_range)


def _bandit_weight(inputs: BanditInputs) -> Array:
    return inputs.weight


ESTIMATORS: Mapping[str, EstimatorSpec[BanditInputs]] = {
    "ips": EstimatorSpec(_weighted, _bandit_weight, bounds=_weighted_bounds),
    "clipped_ips": EstimatorSpec(
        _weighted, _bandit_weight, transform=TRANSFORMS["clipped_ips"], bounds=_weighted_bounds
    ),
    "sub_gaussian": EstimatorSpec(
        _weighted, _bandit_weight, transform=TRANSFORMS["sub_gaussian"], bounds=_weighted_bounds
    ),
    "snips": EstimatorSpec(_self_normalized, _bandit_weight),
    "beta_ips": EstimatorSpec(lambda i, weight: beta_statistic(weight, i.reward), _bandit_weight),
    "replay": EstimatorSpec(_self_normalized, lambda i: i.replay_weight, (UNIFORM_LOG,)),
    "mips": EstimatorSpec(_weighted, lambda i: i.cluster_weight, (ACTION_CLUSTERS,), bounds=_weighted_bounds),
    "dm": EstimatorSpec(
        lambda i, _: _with_model(mean_statistic(i.model.expected_q), i.model, i), _bandit_weight, (MODEL,)
    ),
    "dr": EstimatorSpec(_doubly_robust, _bandit_weight, (MODEL,), bounds=_doubly_robust_bounds),
    "sndr": EstimatorSpec(
        lambda i, weight: corrected_ratio_statistic(i.model.expected_q, weight, i.reward, i.model.logged_q),
        _bandit_weight,
        (MODEL,),
    ),
    "switch_dr": EstimatorSpec(
        _doubly_robust, _bandit_weight, (MODEL,), TRANSFORMS["switch_dr"], _doubly_robust_bounds
    ),
    "dros": EstimatorSpec(_doubly_robust, _bandit_weight, (MODEL,), TRANSFORMS["dros"], _doubly_robust_bounds),
    "mrdr": EstimatorSpec(lambda i, weight: _dr_statistic(i.mrdr, i, weight), _bandit_weight, (MRDR,)),
}
"""Estimators of single rounds."""


def _slate_weight(inputs: SlateInputs) -> Array:
    return inputs.trajectory_weight


def _pseudo_weight(inputs: SlateInputs) -> Array:
    return inputs.pseudo_weight


def _cascade_dr(inputs: SlateInputs, _: Array) -> ResampledStatistic:
    model = inputs.model
    return mean_statistic(
        per_decision_dr_terms(inputs.cumulative_weight, inputs.slot_reward, model.logged_q, model.expected_q)
    )


def _pseudo_bounds(
    inputs: SlateInputs, weight: Array, _: Array, reward_range: Range, max_weight: float
) -> Bounds | None:
    if not inputs.feedback.independent:
        return None  # given weights have no lower bound
    slots = inputs.feedback.behavior_prob.shape[1]
    return pseudo_inverse_bounds(weight, inputs.reward, slots, reward_range, max_weight)


def _cross_fitted(inputs: SlateInputs, variates: Array, squares: Array) -> ResampledStatistic:
    fold = user_folds(inputs.clusters, inputs.config.folds, inputs.config.seed)
    weights = cross_fitted_weights(inputs.outcome, variates, squares, fold)
    return cross_fitted_statistic(inputs.outcome, variates, weights)


SLATE_ESTIMATORS: Mapping[str, EstimatorSpec[SlateInputs]] = {
    "ips": EstimatorSpec(_weighted, _slate_weight, bounds=_weighted_bounds),
    "snips": EstimatorSpec(_self_normalized, _slate_weight, (POSITIVE_WEIGHT,)),
    "iips": EstimatorSpec(
        lambda i, _: weighted_statistic(independent_terms(i.feedback.ratio, i.slot_reward)),
        lambda i: i.worst_slot_weight,
        (INDEPENDENT, SLOT_REWARD),
        lightest_weight=lambda i: i.lightest_slot_weight,
    ),
    "rips": EstimatorSpec(
        lambda i, _: weighted_statistic(per_decision_terms(i.cumulative_weight, i.slot_reward)),
        _slate_weight,
        (SLOT_REWARD,),
    ),
    "cascade_dr": EstimatorSpec(_cascade_dr, _slate_weight, (SLOT_REWARD, MODEL)),
    "pi": EstimatorSpec(
        lambda i, _: weighted_statistic(i.outcome), _pseudo_weight, (PSEUDO_INVERSE,), bounds=_pseudo_bounds
    ),
    "wpi": EstimatorSpec(_self_normalized, _pseudo_weight, (PSEUDO_INVERSE, POSITIVE_PSEUDO_WEIGHT)),
    "pi_single": EstimatorSpec(
        lambda i, _: controlled_statistic(i.outcome, *i.single_variate), _pseudo_weight, (PSEUDO_INVERSE,)
    ),
    "pi_slots": EstimatorSpec(
        lambda i, _: controlled_statistic(i.outcome, *i.slot_variates), _pseudo_weight, (INDEPENDENT,)
    ),
    "pi_single_cross": EstimatorSpec(
        lambda i, _: _cross_fitted(i, *i.single_variate), _pseudo_weight, (PSEUDO_INVERSE,)
    ),
    "pi_slots_cross": EstimatorSpec(lambda i, _: _cross_fitted(i, *i.slot_variates), _pseudo_weight, (INDEPENDENT,)),
}
"""Estimators of slates."""


def _trajectory_weight(inputs: TrajectoryInputs) -> Array:
    return inputs.trajectory_weight


def _step_weight(inputs: TrajectoryInputs) -> Array:
    return inputs.worst_step_weight


def _lightest_step(inputs: TrajectoryInputs) -> Array:
    return inputs.lightest_step_weight


def _per_decision_dr(inputs: TrajectoryInputs, _: Array) -> ResampledStatistic:
    sessions, model = inputs.feedback, inputs.model
    return mean_statistic(
        per_decision_dr_terms(
            inputs.cumulative_weight, sessions.masked_reward, model.logged_q, model.expected_q, sessions.gamma
        )
    )


TRAJECTORY_ESTIMATORS: Mapping[str, EstimatorSpec[TrajectoryInputs]] = {
    "trajectory_is": EstimatorSpec(_weighted, _trajectory_weight, bounds=_weighted_bounds),
    "trajectory_wis": EstimatorSpec(_self_normalized, _trajectory_weight, (POSITIVE_WEIGHT,)),
    "per_decision_is": EstimatorSpec(
        lambda i, _: weighted_statistic(
            per_decision_terms(i.cumulative_weight, i.feedback.masked_reward, i.feedback.gamma)
        ),
        _step_weight,
        lightest_weight=_lightest_step,
    ),
    "per_decision_wis": EstimatorSpec(
        lambda i, _: weighted_per_decision_statistic(i.cumulative_weight, i.feedback.masked_reward, i.feedback.gamma),
        _step_weight,
        (POSITIVE_WEIGHT,),
        lightest_weight=_lightest_step,
    ),
    "per_decision_dr": EstimatorSpec(_per_decision_dr, _step_weight, (MODEL,), lightest_weight=_lightest_step),
    "fqe": EstimatorSpec(
        lambda i, _: mean_statistic(np.ascontiguousarray(i.model.expected_q[:, 0])), _trajectory_weight, (MODEL,)
    ),
}
"""Estimators of sessions."""
