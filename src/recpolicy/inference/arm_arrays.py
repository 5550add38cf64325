"""The arrays of a policy that have a place for each arm, and those of some of its arms.

A arms.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.reward_estimators import ADDED_ARM, ADDED_PRIOR


def chosen_arms(parts: PolicyParts, arms: NDArray[np.integer]) -> dict[str, Any]:
    """Return the arrays of the policy for some of its arms, in their order."""
    arrays, count = dict(parts.policy), len(parts.action_items)
    for name, axis in arm_axes(parts).items():
        if name in arrays:
            size = arrays[name].shape[axis]
            places = np.concatenate([arms, np.arange(count, size)])  # a network may have an output for the value
            arrays[name] = np.take(arrays[name], places, axis=axis)
    if ADDED_ARM in arrays:
        still = np.isin(arrays[ADDED_ARM], arms)
        arrays[ADDED_PRIOR] = arrays[ADDED_PRIOR][still]
        arrays[ADDED_ARM] = np.searchsorted(arms, arrays[ADDED_ARM][still]).astype(np.int32)
    return arrays


def arm_axes(parts: PolicyParts) -> Mapping[str, int]:
    """Return the arrays of the policy that have a place for each arm, with its axis."""
    arrays = parts.policy
    fixed: Mapping[str, Mapping[str, int]] = {
        "linear": {"theta": 0, "covariance": 0},
        "encoded_linear": {"theta": 0, "covariance": 0},
        "shared": {"item_attributes": 0},
        "user": {"error_mean": 0, "error_variance": 0, "prior_error_variance": 0},
        "hybrid": {"covariance": 0, "cross": 0, "center": 0, "item_attributes": 0},
        "arms": {"mean": 0, "width": 0, "score": 0, "weight": 0},
        "rating_model": {"score": -1},
        "session_table": {"q_table": 1, "visits": 1, "embedding": 0, "offset": 0},
    }
    if parts.estimator in fixed:
        return fixed[parts.estimator]
    if parts.estimator == "mlp" and "embedding" in arrays:
        return {"embedding": 0, "offset": 0, "item_attributes": 0}
    if "table" in arrays:
        return {"table": 1, "table_offset": 0}
    last = sum(name.startswith("kernel_") for name in arrays) - 1  # one output per arm
    return {f"kernel_{last}": 1, f"bias_{last}": 0}
