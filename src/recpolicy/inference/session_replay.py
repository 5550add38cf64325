"""Replay logged sessions through a saved policy: its observations and its action probabilities at each step, in NumPy.

M logged sessions of N steps in all, n of them side by side at the same step, A arms, D embedding, G genres, W columns
of a view's history state. The state is carried on from step to step by the same rules as in
environments/observation_encoders.py; history_state.py builds the state of one session from its whole past, and a test
holds the two together. A policy of single rounds sees no session: it chooses by its scores among what is left.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recpolicy.data.session_log import SessionLog
from recpolicy.inference.action_distributions import HEADS, greedy, with_uniform_mix
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.block_prediction import policy_input
from recpolicy.inference.history_state import Shape
from recpolicy.inference.reward_estimators import ESTIMATORS, Estimate
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS
from recpolicy.models.session_world import GENRE_DECAY, INTEREST_DECAY, MISSES

Array = NDArray[Any]
Mask = NDArray[np.bool_]

SESSIONS_AT_ONCE = 1_000
"""Bounds the memory of tables [n, A]."""


class Moment(NamedTuple):
    """One step of the n sessions that have it."""

    row: NDArray[np.intp]  # [n], of the log's N steps
    arm: NDArray[np.intp]  # [n], the logged item as an arm of the policy
    allowed: Mask  # [n, A], the candidates that the session has not shown before
    history_state: Array  # [n, W], what the policy sees of the session
    estimate: Estimate
    """The policy's estimate at this step."""


class _Shown(NamedTuple):
    """The items just shown, and the responses."""

    embedding: Array  # [n, D]
    genres: Array  # [n, G]
    liked: Mask  # [n, 1]


class _View(NamedTuple):
    """The history state of n sessions, for one observation encoder."""

    start: Callable[[Array, Shape], Array]
    """History state [n, W] before the first item, from the users' embeddings [n, D]."""
    update: Callable[[Array, _Shown, Shape], Array]
    """History state after an item, from that before it."""


def moments(parts: PolicyParts, log: SessionLog, at_once: int = SESSIONS_AT_ONCE) -> Iterator[Moment]:
    """Yield every step of the log once, as the policy `parts` would have seen it.

    The log must be of the policy's users and catalog, its sessions no longer than those of a session policy.
    """
    for first in range(0, len(log.length), at_once):
        yield from _side_by_side(parts, log, np.arange(first, min(first + at_once, len(log.length))))


def _side_by_side(parts: PolicyParts, log: SessionLog, session: NDArray[np.intp]) -> Iterator[Moment]:
    view, shape, genres = _view(parts)
    row, left = log.start[session], log.length[session]
    context = parts.context[log.user[row]]
    history_state = view.start(context[:, : parts.item.shape[1]], shape)
    fresh = np.ones((len(session), len(parts.action_items)), bool)
    while len(row):
        arm = np.searchsorted(parts.action_items, log.item[row])
        situation, _ = policy_input(parts, context, history_state if parts.sequential else None)
        allowed = fresh if log.candidates is None else fresh & log.candidates.take(row).mask(slice(None))
        yield Moment(row, arm, allowed, history_state, ESTIMATORS[parts.estimator](parts.policy, situation))
        left = left - 1
        goes_on = left > 0
        row, arm, left, context = row[goes_on], arm[goes_on], left[goes_on], context[goes_on]
        item = log.item[row]
        shown = _Shown(parts.item[item], genres[item], log.liked[row][:, np.newaxis])
        history_state, fresh = view.update(history_state[goes_on], shown, shape), fresh[goes_on]
        fresh[np.arange(len(arm)), arm] = False
        row = row + 1


def _view(parts: PolicyParts) -> tuple[_View, Shape, Array]:
    """Return the view of a policy, its shape and the genres of items [I, G]; an empty view for single rounds."""
    if not parts.sequential:
        return _BLIND, Shape(0, 0, 0), np.zeros((len(parts.item), 0), np.float32)
    arrays = parts.policy
    shape = Shape(int(arrays["steps"]), int(arrays["last_n"]), arrays["genres"].shape[1])
    return _VIEWS[str(arrays["view"])], shape, arrays["genres"]


def exploring_probabilities(parts: PolicyParts, estimate: Estimate, allowed: Mask) -> NDArray[np.float64]:
    """Return probabilities [n, A] of the policy that explores as its artifact says."""
    probability = HEADS[parts.head](estimate, parts.settings, allowed)
    return np.asarray(with_uniform_mix(probability, parts.uniform_mix, allowed), np.float64)


def greedy_probabilities(parts: PolicyParts, estimate: Estimate, allowed: Mask) -> NDArray[np.float64]:  # noqa: ARG001
    """Return probabilities [n, A] of the greedy policy: the best-scored item, exact ties in equal parts."""
    return greedy(estimate.score, allowed)


ACTS: Mapping[str, Callable[[PolicyParts, Estimate, Mask], NDArray[np.float64]]] = {
    "exploring": exploring_probabilities,
    "greedy": greedy_probabilities,
}
"""Ways in which a policy may act, by name."""


def _nothing_shown(user: Array, _: Shape) -> Array:
    return np.zeros_like(user, np.float32)


def _last_item(_: Array, shown: _Shown, __: Shape) -> Array:
    return shown.embedding


def _fresh_interest(user: Array, shape: Shape) -> Array:
    return np.concatenate([user, np.zeros((len(user), shape.genres + 2), np.float32)], axis=1, dtype=np.float32)


def _interest(history_state: Array, shown: _Shown, shape: Shape) -> Array:
    rank = shown.embedding.shape[1]
    interest, remembered, misses, done = np.split(history_state, [rank, rank + shape.genres, -1], axis=1)
    square = np.square(shown.embedding).sum(axis=1, keepdims=True)
    direction = shown.embedding / np.sqrt(np.maximum(square, np.float32(1e-12)))
    interest = np.where(shown.liked, interest + np.float32(1 - INTEREST_DECAY) * (direction - interest), interest)
    remembered = np.float32(GENRE_DECAY) * remembered + np.float32(1 - GENRE_DECAY) * shown.genres
    misses = np.where(shown.liked, np.float32(0), np.minimum(misses + np.float32(1 / MISSES), np.float32(1)))
    return np.concatenate([interest, remembered, misses, done + np.float32(1 / shape.steps)], axis=1)


def _empty_places(user: Array, shape: Shape) -> Array:
    return np.zeros((len(user), shape.last_n * (user.shape[1] + 1) + 1), np.float32)


def _last_n(history_state: Array, shown: _Shown, shape: Shape) -> Array:
    place = shown.embedding.shape[1] + 1
    older, done = history_state[:, : (shape.last_n - 1) * place], history_state[:, -1:] + np.float32(1 / shape.steps)
    return np.concatenate([shown.embedding, shown.liked.astype(np.float32), older, done], axis=1)


def _empty_tokens(user: Array, shape: Shape) -> Array:
    return np.zeros((len(user), shape.last_n * (user.shape[1] + shape.genres + 2) + 1), np.float32)


def _tokens(history_state: Array, shown: _Shown, shape: Shape) -> Array:
    liked = shown.liked.astype(np.float32)
    newest = [shown.embedding, shown.genres, liked, np.ones_like(liked)]
    older = history_state[:, : (shape.last_n - 1) * sum(part.shape[1] for part in newest)]
    done = history_state[:, -1:] + np.float32(1 / shape.steps)
    return np.concatenate([*newest, older, done], axis=1, dtype=np.float32)


_BLIND = _View(lambda user, _: np.zeros((len(user), 0), np.float32), lambda history_state, *_: history_state)
_VIEWS: Mapping[str, _View] = {
    "interest": _View(_fresh_interest, _interest),
    "last_item": _View(_nothing_shown, _last_item),
    "last_n": _View(_empty_places, _last_n),
    **dict.fromkeys(SEQUENCE_VIEWS, _View(_empty_tokens, _tokens)),
}
"""By the names of history_state.HISTORY_ENCODERS."""
