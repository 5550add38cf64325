"""The feedback that off-policy estimators read of a saved policy on a log of slates or sessions.

N slates of K slots, or M sessions of at most T steps with N steps in all; A actions of the log's catalog, F features.
A policy fills a slate without exploration: each slot shows the best-scored item that the slot can still show; ties
share the slot. In sessions it acts without exploration (`greedy`) or as its artifact explores (`exploring`). The
logged sessions are replayed step by step as the policy would have observed them (inference/session_replay.py). A policy
of single rounds chooses by its scores among the items that the session has not shown.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DivergedError
from recpolicy.core.types import Array, Floats
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog, open_to
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import ACTS, moments
from recpolicy.models.session_world import MISSES
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.feedback import SlateFeedback, TrajectoryFeedback
from recpolicy.ope.fqe import FQEConfig, StepModel, by_position, linear_model
from recpolicy.ope.weights import general_weights, without_repeats_moments

SLATE_RIDGE = 1.0
"""Regularization of the slates' reward model, in slots: all items of a shelf may have the same rating estimate."""
SESSION_RIDGE = 0.1
"""Regularization of the sessions' reward model, in transitions: if all items are liked, some features are collinear."""
_SLATES_AT_ONCE, _WEIGHTS_AT_ONCE = 4_096, 65_536
_MAX_CELLS = 500
"""Slots times items up to which slates without shelves get weights: a matrix with so many rows is inverted."""
_UNIFORM = 1e-9


def slate_feedback(policy: Policy, log: SlateLog) -> tuple[SlateFeedback, Array, Array]:
    """Return the log as estimators read it, and the policy's rating estimates of each slot.

    Returns:
        The feedback; the rating estimates of the logged items [N, K]; and the estimates averaged over the policy's own
        choices for a slot below the logged items [N, K].
    """
    score, rating = (table[:, log.action_items] for table in policy.scores())
    prob, logged_rating, expected_rating = (np.empty(log.slate.shape) for _ in range(3))
    action = log.arm
    for first in range(0, len(log), _SLATES_AT_ONCE):
        part = slice(first, first + _SLATES_AT_ONCE)
        user, eligible = log.user[part], None if log.candidates is None else log.candidates.mask(part)
        for slot in range(log.slots):
            arms, available = open_to(slot, action[part], log.shelves, len(log.action_items), eligible)
            choice = greedy(score[np.ix_(user, arms)], available)  # [n, M]
            ratings = rating[np.ix_(user, arms)]  # [n, M]
            logged = np.searchsorted(arms, action[part, slot])[:, np.newaxis]
            prob[part, slot] = np.take_along_axis(choice, logged, axis=1)[:, 0]
            logged_rating[part, slot] = np.take_along_axis(ratings, logged, axis=1)[:, 0]
            expected_rating[part, slot] = np.einsum("nm,nm->n", choice, ratings)
    feedback = SlateFeedback(
        np.exp(log.log_propensity), prob, log.reward, log.units, slot_reward=log.slot_reward,
        independent=log.shelves is not None, pseudo_weight=_pseudo_weights(score, log),
    )  # fmt: skip
    return feedback, logged_rating, expected_rating


def slate_model(policy: Policy, log: SlateLog, config: MultiStepConfig) -> tuple[SlateFeedback, StepModel | None]:
    """Return the log as estimators read it, and a reward model of its slots where the log has slot rewards."""
    feedback, *ratings = slate_feedback(policy, log)
    if feedback.slot_reward is None:
        return feedback, None
    features, expected = (by_position(np.stack([np.ones_like(rating), rating], axis=2)) for rating in ratings)
    model = linear_model(feedback.trajectories(), features, expected, config, FQEConfig(ridge=SLATE_RIDGE))
    return feedback, model


def _pseudo_weights(score: Floats, log: SlateLog) -> Array | None:
    """Return the weights [N] of slates without shelves; None unless they were drawn uniformly, from few items.

    All slates must have had the same items to choose from.
    """
    actions = len(log.action_items)
    if log.shelves is not None or log.candidates is not None or log.slots * actions > _MAX_CELLS:
        return None
    uniform = -np.log(actions - np.arange(log.slots))
    if np.abs(log.log_propensity - uniform).max() > _UNIFORM:
        return None
    users, row = np.unique(log.user, return_inverse=True)
    target, gamma = _slate_probabilities(score[users], log.slots), without_repeats_moments(log.slots, actions)
    blocks = range(0, len(log), _WEIGHTS_AT_ONCE)
    parts = [slice(first, first + _WEIGHTS_AT_ONCE) for first in blocks]
    return np.concatenate([general_weights(gamma, target[row[part]], log.arm[part]) for part in parts])


def _slate_probabilities(score: Floats, slots: int) -> Array:
    """Return the probability of each item in each slot [n, K A] of the policy's slate: its best items in order."""
    best = np.argsort(-score, axis=1, kind="stable")[:, :slots]
    prob = np.zeros((len(score), slots, score.shape[1]))
    np.put_along_axis(prob, best[:, :, np.newaxis], 1.0, axis=2)
    return prob.reshape(len(score), -1)


def trajectory_model(
    policy: Policy, log: SessionLog, policy_mode: str, gamma: float, config: MultiStepConfig
) -> tuple[TrajectoryFeedback, StepModel | None, str | None]:
    """Return the log as estimators read it, and a reward model of its steps.

    Returns:
        The feedback; the model, None where its fit does not converge; and in that case the reason.
    """
    return replayed_model(replay_policy(policy, log, policy_mode), policy, log, gamma, config)


def replayed_model(
    replayed: "ReplayedPolicy", policy: Policy, log: SessionLog, gamma: float, config: MultiStepConfig
) -> tuple[TrajectoryFeedback, StepModel | None, str | None]:
    """Return what `trajectory_model` does, from a replay."""
    feedback = trajectory_feedback(log, replayed.prob, gamma)
    left = 1 - log.step / longest_session(policy, log)
    features, expected = (
        _padded(log, step_features(log, left, replayed.typical_rating, rating))
        for rating in (replayed.logged_rating, replayed.expected_rating)
    )
    try:
        return feedback, linear_model(feedback, features, expected, config, FQEConfig(ridge=SESSION_RIDGE)), None
    except DivergedError as error:
        return feedback, None, str(error)


def longest_session(policy: Policy, log: SessionLog) -> int:
    """Return the largest number of steps of a session: the policy's, or that of the log for a policy of rounds."""
    return int(policy.artifact.policy["steps"]) if policy.sequential else int(log.length.max())


def trajectory_feedback(log: SessionLog, target_prob: Array, gamma: float) -> TrajectoryFeedback:
    """Return a log with propensities as estimators read it; target_prob [N], of the logged actions."""
    assert log.log_propensity is not None, "estimate() rejects logs without"
    last = log.start[1:] - 1
    return TrajectoryFeedback(
        reward=_padded(log, log.reward), behavior_prob=_padded(log, np.exp(log.log_propensity)),
        target_prob=_padded(log, target_prob), length=log.length, user=log.user[log.start[:-1]], gamma=gamma,
        # A session as long as the longest met the limit of the logging system: that is its end.
        ended=log.ended[last] | (log.length == log.length.max()),
    )  # fmt: skip


@dataclass(frozen=True)
class ReplayedPolicy:
    """A policy on the N steps of logged sessions; ratings are in 0..1."""

    prob: Array  # [N], its probability of the logged action
    logged_rating: Array  # [N], the rating that it expected of the logged action
    expected_rating: Array  # [N], averaged over its choices
    typical_rating: Array  # [N], averaged over the catalog
    chosen: Array  # [A], sum of its probabilities over the steps


def replay_policy(policy: Policy, log: SessionLog, policy_mode: str) -> ReplayedPolicy:
    """Return the choices and ratings of a policy on logged sessions."""
    prob, logged_rating, expected_rating, typical = np.empty((4, len(log)))
    chosen = np.zeros(len(log.action_items))
    low, high = policy.artifact.scale
    for moment in moments(policy.artifact, log):
        row, logged = moment.row, (np.arange(len(moment.row)), moment.arm)
        probs = ACTS[policy_mode](policy.artifact, moment.estimate, moment.allowed)
        rating = np.clip((moment.estimate.mean - low) / (high - low), 0, 1)
        prob[row] = np.minimum(probs[logged], 1)
        logged_rating[row], typical[row] = rating[logged], rating.mean(axis=1)
        expected_rating[row] = np.einsum("na,na->n", probs, rating)
        chosen += probs.sum(axis=0)
    return ReplayedPolicy(prob, logged_rating, expected_rating, typical, chosen)


def step_features(log: SessionLog, left: Array, typical: Array, rating: Array) -> Array:
    """Return the reward model's features of each step [N, 9]: 1, steps left, responses so far, ratings.

    Args:
        log: the sessions.
        left: [N], fraction of the steps that are left.
        typical: [N], expected rating of the catalog. rating: [N], expected rating of the item.
    """
    begin, row = np.repeat(log.start[:-1], log.length), np.arange(len(log))
    likes_before: Array = np.cumsum(log.liked) - log.liked.astype(np.float64)
    after_like = np.maximum.accumulate(np.where(log.liked, row + 1, 0))  # the row after the last like
    misses = row - np.maximum(np.append(0, after_like[:-1]), begin)
    columns = (
        np.ones(len(log)), left, left**2, (likes_before - likes_before[begin]) / log.length.max(),
        np.minimum(misses / MISSES, 1), typical, left * typical, rating, left * rating,
    )  # fmt: skip
    return np.column_stack(columns)


def _padded(log: SessionLog, values: NDArray[Any]) -> Array:
    """Return values [N, ...] of the steps as a table [M, T, ...], 0 after the end."""
    table = np.zeros((len(log.length), int(log.length.max()), *values.shape[1:]))
    table[np.repeat(np.arange(len(log.length)), log.length), log.step] = values
    return table
