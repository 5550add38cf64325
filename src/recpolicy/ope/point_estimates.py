"""Point estimates of estimators from their inputs, with tuned weights and bounds; intervals come from inference.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from recpolicy.core.types import Array
from recpolicy.ope.config import EstimationConfig
from recpolicy.ope.estimators import EstimatorSpec
from recpolicy.ope.feedback import check_rows
from recpolicy.ope.inputs import BanditInputs, EstimatorInputs
from recpolicy.ope.intervals import Bounds, weighted_bounds
from recpolicy.ope.missing_mass import PointEstimate, RewardScale
from recpolicy.ope.resampling import mean_statistic
from recpolicy.ope.tuning import TuningResult, fixed_setting, tune

_Inputs = TypeVar("_Inputs", bound=EstimatorInputs)


def point_estimates(specs: Mapping[str, EstimatorSpec[_Inputs]], inputs: _Inputs) -> dict[str, PointEstimate]:
    """Return point estimates by name, after a check of the rewards and weights against the config's bounds."""
    _check_rewards(inputs.reward, inputs.config)
    if isinstance(inputs, BanditInputs):
        inputs.read_tables({need for spec in specs.values() for need in spec.needs})
    return {name: _point_estimate(name, spec, inputs) for name, spec in specs.items()}


def _point_estimate(name: str, spec: EstimatorSpec[_Inputs], inputs: _Inputs) -> PointEstimate:
    weight, tuning = spec.weight(inputs), None
    transformed = weight
    if spec.transform is not None:
        tuning = _tuning(name, spec, inputs, weight)
        transformed = spec.transform.apply(weight, tuning.value)
    bounds = _bounds(spec, inputs, weight, transformed, tuning)
    statistic = spec.statistic(inputs, transformed)
    return PointEstimate(
        statistic, weight, transformed, bounds, tuning, inputs.model_fit(spec.needs),
        inputs.has_given_model(spec.needs), None if spec.lightest_weight is None else spec.lightest_weight(inputs),
    )  # fmt: skip


def logging_policy_estimate(inputs: EstimatorInputs) -> PointEstimate:
    """Return the value of the logging policy: the mean reward, with weights of 1."""
    ones, config = np.ones(len(inputs.reward)), inputs.config
    max_weight = config.weight_bound if isinstance(inputs, BanditInputs) else 1.0
    bounds = None
    if config.reward_range is not None and np.isfinite(max_weight):
        bounds = weighted_bounds(ones, inputs.reward, config.reward_range, max_weight)
    return PointEstimate(mean_statistic(inputs.reward), ones, ones, bounds)


def reward_scale(inputs: EstimatorInputs) -> RewardScale:
    """Return the mean and the limits of the rewards."""
    return RewardScale(float(inputs.reward.mean()), *inputs.reward_limits)


def _tuning(name: str, spec: EstimatorSpec[_Inputs], inputs: _Inputs, weight: Array) -> TuningResult:
    transform = spec.transform
    assert transform is not None
    assert isinstance(inputs, BanditInputs), "only estimators of rounds transform weights"
    if name in inputs.config.settings:
        return fixed_setting(transform, inputs.config.settings[name])

    def terms(transformed: Array) -> Array:
        return spec.statistic(inputs, transformed).terms

    return tune(transform, weight, inputs.residual(spec.needs), terms, inputs.clusters, inputs.config.tuning)


def _bounds(
    spec: EstimatorSpec[_Inputs], inputs: _Inputs, weight: Array, transformed: Array, tuning: TuningResult | None
) -> Bounds | None:
    """Return bounds for empirical Bernstein; None where rewards, weights or the model are not known before the data."""
    if spec.bounds is None:
        return None
    config = inputs.config
    _check_weights(weight, config)
    max_weight = config.weight_bound
    if spec.transform is not None and tuning is not None:
        max_weight = min(max_weight, spec.transform.max_weight(tuning.value))
    if config.reward_range is None or not np.isfinite(max_weight):
        return None
    bounds = spec.bounds(inputs, weight, transformed, config.reward_range, max_weight)
    if bounds is None or tuning is None:
        return bounds
    return replace(bounds, candidates=len(tuning.candidates))


def _check_rewards(reward: Array, config: EstimationConfig) -> None:
    if config.reward_range is not None:
        low, high = config.reward_range
        check_rows("reward", reward, (reward >= low) & (reward <= high), f"within reward_range {low:g}..{high:g}")


def _check_weights(weight: Array, config: EstimationConfig) -> None:
    bound = config.weight_bound
    check_rows("weight", weight, weight <= bound * (1 + 1e-9), f"at most weight_bound {bound:g}")
