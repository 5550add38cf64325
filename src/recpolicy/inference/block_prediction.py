"""Predict for a block of users at once: estimates, exact probabilities and scores, in NumPy.

n users, I items, A arms, C context columns of which the first D are the embedding.

A policy that learned in a simulated world knows that world, not the users. Its estimate of an item is therefore its
`value`; `rating` and `std` are the rating model's. A linear policy that learned from new, real rewards only moves the
rating by what it has learned, and its std is smaller there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.action_distributions import HEADS, masked, with_uniform_mix
from recpolicy.inference.arm_arrays import chosen_arms
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.history_state import HISTORY_ENCODERS, Past, Shape
from recpolicy.inference.reward_estimators import ESTIMATORS, Estimate, PolicyInput, value_offset

Array = NDArray[Any]
User = TypeVar("User")
Shown = tuple[NDArray[np.int32], list[bool]]
"""The item rows shown so far in a session, and whether each was liked."""
NOTHING_SHOWN: Shown = (np.empty(0, np.int32), [])
_Z = 1.96  # standard deviations of a 95 % interval
USERS_AT_ONCE = 32
"""Bounds the memory of [n, A, K] intermediates."""
_CELLS_AT_ONCE = 1 << 20
"""Users times items that are predicted at once, about 28 bytes each."""
_SCORES_ARE_VALUES = ("session_values", "session_table")
"""Estimators under which a session is worth the best score among the items that may still be shown."""


@dataclass(frozen=True)
class WeightChoice:
    """The weights of a ranking formula by which n users are ranked."""

    action: NDArray[np.int64]  # [n] point of the grid of weights
    fallback: NDArray[np.bool_]  # [n] True where the static weights stand in for those of the layer

    def of_user(self, place: int) -> "WeightChoice":
        """Return the choice of one user, with the axis n."""
        return WeightChoice(self.action[place : place + 1], self.fallback[place : place + 1])


@dataclass(frozen=True)
class BatchPrediction:
    """Predictions for n users."""

    rating: Array  # [n, I] within the scale
    std: Array  # [n, I] of the expected rating, without the noise of one rating
    value: Array | None  # [n, I] the policy's estimate, within the scale; None for session policies
    probability: Array  # [n, I] that the exploring policy shows the item; 0 outside its catalog
    score: Array  # [n, A] what the policy is greedy in when it has stopped exploring
    session_value: Array | None  # [n] expected discounted reward of the rest of the session, of session policies
    choice: WeightChoice | None = None
    """The weights behind the scores of a tuned layer; None without one."""

    def columns(self, parts: PolicyParts, items: "slice | NDArray[Any]") -> dict[str, Array]:
        """Return the columns [n, M] of a table of M items (rows or a slice of [0, I)), by name."""
        rating, std = self.rating[:, items], self.std[:, items]
        low, high = rating_interval(parts, rating, std)
        columns = {"rating": rating, "std": std, "low": low, "high": high}
        if self.value is not None:
            columns["value"] = self.value[:, items]
        columns["probability"] = self.probability[:, items]
        if self.session_value is not None:
            columns["session_value"] = np.broadcast_to(self.session_value[:, np.newaxis], columns["rating"].shape)
        return columns


@dataclass(frozen=True)
class UserInput:
    """The context of n users, with the rating model's estimates for them."""

    context: Array  # [n, C]
    std: Array  # [n, I] of the expected rating
    rating: Array | None = None  # [n, I] expected rating by the rating model; None: by the embeddings


@dataclass(frozen=True)
class BatchScores:
    """The part of a BatchPrediction that a list of recommendations needs."""

    rating: Array  # [n, I] within the scale
    std: Array  # [n, I] of the expected rating, without the noise of one rating
    value: Array | None  # [n, I] the policy's estimate, within the scale; None for session policies
    score: Array  # [n, A] what the policy is greedy in when it has stopped exploring
    choice: WeightChoice | None = None
    """The weights behind the scores of a tuned layer; None without one."""

    def of_user(self, place: int) -> "BatchScores":
        """Return the scores of one user, without the axis n."""
        value = None if self.value is None else self.value[place]
        choice = None if self.choice is None else self.choice.of_user(place)
        return BatchScores(self.rating[place], self.std[place], value, self.score[place], choice)


def score_block(parts: PolicyParts, user: UserInput) -> BatchScores:
    """Score n users at the begin of their sessions, without probabilities."""
    estimate, rating = estimate_rewards(parts, user.context, widths=parts.learned_real_rewards)
    return BatchScores(*_ratings(parts, rating, user, estimate), estimate.score.astype(np.float64))


def predict_block(
    parts: PolicyParts, user: UserInput, allowed: NDArray[np.bool_] | None, histories: Sequence[Shown]
) -> BatchPrediction:
    """Predict for n users and their sessions [n]; allowed [A] or [n, A], None for all arms."""
    estimate, rating = estimate_rewards(parts, user.context, histories)
    return _answer(parts, user, allowed, estimate, rating)


def predict_among(
    parts: PolicyParts, user: UserInput, arms: NDArray[np.intp], histories: Sequence[Shown]
) -> BatchPrediction:
    """Predict for n users among a few arms [M], ascending: all columns are those of the M items, [n, M].

    The policy is the one that cannot show any other item. Scores of all other items are not computed, so a policy whose
    values need them (dueling DQN) has another `session_value`.
    """
    history_state = _history_state(parts, user.context, histories) if parts.sequential else None
    rows = parts.action_items[arms]
    some = replace(
        parts, policy=chosen_arms(parts, arms), item=parts.item[rows], offset=parts.offset[rows],
        action_items=np.arange(len(rows), dtype=np.int32),
    )  # fmt: skip
    known = UserInput(user.context, user.std[:, rows], None if user.rating is None else user.rating[:, rows])
    situation, rating = policy_input(some, user.context, history_state)
    return _answer(some, known, None, ESTIMATORS[parts.estimator](some.policy, situation), rating)


def _answer(
    parts: PolicyParts, user: UserInput, allowed: NDArray[np.bool_] | None, estimate: Estimate, rating: Array
) -> BatchPrediction:
    mask = None if allowed is None else np.broadcast_to(allowed, estimate.mean.shape)
    session_value = estimate.session_value
    if parts.estimator in _SCORES_ARE_VALUES:
        session_value = masked(estimate.score, mask).max(axis=1) + value_offset(parts.policy)
    probability = HEADS[parts.head](estimate, parts.settings, mask)
    probability = with_uniform_mix(probability, parts.uniform_mix, mask)
    if not parts.has_all_items:
        of_actions, probability = probability, np.zeros(rating.shape, np.float64)
        probability[:, parts.action_items] = of_actions
    ratings, std, value = _ratings(parts, rating, user, estimate)
    return BatchPrediction(ratings, std, value, probability, estimate.score, session_value)


def estimate_rewards(
    parts: PolicyParts, context: Array, histories: Sequence[Shown] | None = None, widths: bool = True
) -> tuple[Estimate, Array]:
    """Return the policy's estimate of its catalog [n, A] and the rating model's of all items [n, I].

    With `widths` false, linear policies leave out how sure they are.
    """
    seen = histories or [NOTHING_SHOWN] * len(context)
    history_state = _history_state(parts, context, seen) if parts.sequential else None
    situation, rating = policy_input(parts, context, history_state)
    return ESTIMATORS[parts.estimator](parts.policy, replace(situation, widths=widths)), rating


def policy_input(parts: PolicyParts, context: Array, history_state: Array | None) -> tuple[PolicyInput, Array]:
    """Return the input of an estimator, and the rating model's estimates of all items [n, I]."""
    rating = context[:, : parts.item.shape[1]] @ parts.item.T + parts.offset
    if parts.has_all_items:
        return PolicyInput(context, parts.item, parts.offset, rating, history_state), rating
    c = parts.action_items
    return PolicyInput(context, parts.item[c], parts.offset[c], rating[:, c], history_state), rating


def _ratings(
    parts: PolicyParts, start: Array, user: UserInput, estimate: Estimate
) -> tuple[Array, Array, Array | None]:
    """Return ratings, their std and the policy's values [n, I]; the policy began to learn at `start`, the embeddings'
    expected ratings."""
    value = None if parts.sequential else policy_values(parts, start, estimate)
    expected, std = start if user.rating is None else user.rating, user.std
    if parts.learned_real_rewards and estimate.std_ratio is not None:
        expected, std = _updated(parts, expected, std, estimate, start)
    return np.clip(expected, *parts.scale), std, value


def policy_values(parts: PolicyParts, rating: Array, estimate: Estimate) -> Array:
    """Return the policy's estimates [n, I] on the scale; outside its catalog the rating model's, `rating`."""
    value = estimate.mean
    if not parts.has_all_items:
        value = rating.copy()
        value[:, parts.action_items] = estimate.mean
    return np.clip(value, *parts.scale)


def rating_spread(parts: PolicyParts, rating: Array, std: Array) -> Array:
    """Return the standard deviation [...] of one rating, given its expectation and the std of that."""
    if parts.levels is None:
        return np.sqrt(np.square(std) + np.float32(parts.noise_std) ** 2)
    return parts.levels.spread(rating, std)


def rating_interval(parts: PolicyParts, rating: Array, std: Array) -> tuple[Array, Array]:
    """Return the 95 % interval [...] of one rating: 1.96 standard deviations to both sides, within the scale."""
    reach = (_Z * rating_spread(parts, rating, std)).astype(rating.dtype)
    low, high = parts.scale
    return np.maximum(rating - reach, rating.dtype.type(low)), np.minimum(rating + reach, rating.dtype.type(high))


def user_blocks(users: Sequence[User], items: int) -> Iterator[Sequence[User]]:
    """Yield the users in blocks; the predictions of a block for all items fit in memory."""
    at_once = max(1, min(USERS_AT_ONCE, _CELLS_AT_ONCE // max(items, 1)))
    for start in range(0, len(users), at_once):
        yield users[start : start + at_once]


def arms_except(parts: PolicyParts, *items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return a mask [A] of the arms without those of item rows; rows without an arm are ignored."""
    allowed = np.ones(len(parts.action_items), bool)
    for rows in items:
        arms = parts.arm_by_row[rows]
        allowed[arms[arms >= 0]] = False
    return allowed


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


def _updated(parts: PolicyParts, expected: Array, std: Array, estimate: Estimate, start: Array) -> tuple[Array, Array]:
    """Return expected ratings and std [n, I] after the policy's real rewards, which it began to learn at `start`."""
    expected, std = expected.copy(), std.copy()
    expected[:, parts.action_items] += estimate.mean - start[:, parts.action_items]
    std[:, parts.action_items] *= estimate.std_ratio
    return expected, std
