"""Predict for a block of users at once: estimates, true propensities and scores, in NumPy.

n users, I items, A arms, C context columns of which the first D are the embedding. The estimate of an item in the
policy's catalog is the policy's own; outside it, and for policies that estimate nothing, it is the rating model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.action_distributions import HEADS, masked, with_uniform_mix
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.history_state import HISTORY_ENCODERS, Past, Shape
from recpolicy.inference.reward_estimators import ESTIMATORS, Estimate, PolicyInput

Array = NDArray[Any]
Shown = tuple[NDArray[np.int32], list[bool]]
"""The item rows shown so far in a session, and whether each was liked."""
NOTHING_SHOWN: Shown = (np.empty(0, np.int32), [])
USERS_AT_ONCE = 32
"""Bounds the memory of [n, A, K] intermediates."""
_SCORES_ARE_VALUES = ("session_values", "session_table")
"""Estimators under which a session is worth the best score among the items that may still be shown."""


@dataclass(frozen=True)
class BatchPrediction:
    """Predictions for n users."""

    rating: Array  # [n, I] within the scale
    std: Array  # [n, I] of the expected rating, without the noise of one rating
    propensity: Array  # [n, I] of the exploring policy, 0 outside the catalog and where not allowed
    score: Array  # [n, A] what the policy is greedy in when it has stopped exploring
    value: Array | None  # [n] expected discounted reward of the rest of the session, of session policies


def predict_block(
    parts: PolicyParts, context: Array, std: Array, allowed: NDArray[np.bool_] | None, histories: Sequence[Shown]
) -> BatchPrediction:
    """Predict for contexts [n, C], rating stds [n, I] and sessions [n]; allowed [A] or [n, A], None for all arms."""
    estimate, rating = estimate_rewards(parts, context, histories)
    mask = None if allowed is None else np.broadcast_to(allowed, estimate.mean.shape)
    value = estimate.value
    if parts.estimator in _SCORES_ARE_VALUES:
        value = masked(estimate.score, mask).max(axis=1)
    probability = HEADS[parts.head](estimate, parts.settings, mask)
    probability = with_uniform_mix(probability, parts.uniform_mix, mask)
    ratings = clipped_ratings(parts, rating, estimate)
    if parts.has_all_items:
        return BatchPrediction(ratings, _std(parts, std, estimate), probability, estimate.score, value)
    propensity = np.zeros(rating.shape, np.float64)
    propensity[:, parts.action_items] = probability
    spread = std.copy()
    spread[:, parts.action_items] = _std(parts, std[:, parts.action_items], estimate)
    return BatchPrediction(ratings, spread, propensity, estimate.score, value)


def estimate_rewards(
    parts: PolicyParts, context: Array, histories: Sequence[Shown] | None = None
) -> tuple[Estimate, Array]:
    """Return the policy's estimate of its catalog [n, A] and the rating model's of all items [n, I]."""
    history_state = None
    if parts.sequential:
        history_state = _history_state(parts, context, histories or [NOTHING_SHOWN] * len(context))
    situation, rating = policy_input(parts, context, history_state)
    return ESTIMATORS[parts.estimator](parts.policy, situation), rating


def policy_input(parts: PolicyParts, context: Array, history_state: Array | None) -> tuple[PolicyInput, Array]:
    """Return the input of an estimator, and the rating model's estimates of all items [n, I]."""
    rating = context[:, : parts.item.shape[1]] @ parts.item.T + parts.offset
    if parts.has_all_items:
        return PolicyInput(context, parts.item, parts.offset, rating, history_state), rating
    c = parts.action_items
    return PolicyInput(context, parts.item[c], parts.offset[c], rating[:, c], history_state), rating


def clipped_ratings(parts: PolicyParts, rating: Array, estimate: Estimate) -> Array:
    """Return ratings [n, I] on the scale: the estimate's in the catalog, the rating model's outside; changes
    `rating`."""
    if parts.has_all_items:
        rating = estimate.mean
    else:
        rating[:, parts.action_items] = estimate.mean
    return np.clip(rating, *parts.scale)


def not_shown(parts: PolicyParts, shown: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return a mask [A] of the arms that the session has not shown yet."""
    return ~np.isin(parts.action_items, shown)


def _history_state(parts: PolicyParts, context: Array, histories: Sequence[Shown]) -> Array:
    """Return the history state of each session [n, M]."""
    arrays, rank = parts.policy, parts.item.shape[1]
    genres = arrays["genres"]  # [I, G]
    shape = Shape(int(arrays["steps"]), int(arrays["last_n"]), genres.shape[1])
    encode = HISTORY_ENCODERS[str(arrays["view"])]
    memories = [
        encode(user[:rank], Past(parts.item[rows], genres[rows], liked), shape)
        for user, (rows, liked) in zip(context, histories, strict=True)
    ]
    return np.stack(memories)


def _std(parts: PolicyParts, rating_std: Array, estimate: Estimate) -> Array:
    """Return the rating model's std, shrunk by what was learnt since; the learner's own where it began elsewhere."""
    if estimate.std_ratio is not None:
        return rating_std * estimate.std_ratio
    return rating_std if estimate.width is None else parts.noise_std * estimate.width
