"""The reward model of off-policy evaluation on feature logs: linear, cross-fitted over users, without the policies.

N rounds, K offers of all rounds, C context columns, M actions. The schema of the candidate names the features; encoder
and model are fitted on the log. No round is predicted by a model that was fitted on a round of its user. Columns that
do not vary in the log are left out: hashed features have many.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.data.feature_columns import take_rows
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.features.schema import ACTION_ID
from recpolicy.inference.feature_policy import ImportanceWeights
from recpolicy.models.bilinear import BilinearModel
from recpolicy.models.reward_model import Pairs
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.reward_model import user_folds

_MAX_WEIGHTS = 1_024
_RIDGE, _SHRINKAGE = 10.0, 10.0
_MAX_IMPORTANCE = 20.0
_ROUNDS_AT_ONCE, _OFFERS_AT_ONCE = 1 << 15, 1 << 18


@dataclass(frozen=True)
class CrossFittedRewards:
    """Predicted rewards of all offers, each from rounds of other users."""

    q: Array  # [K], by the linear model
    mean: Array  # [K], mean reward of the action's id, shrunk to the mean of all
    fold: NDArray[np.int64]  # [N]
    model: str
    """Description of the model."""


def cross_fitted_rewards(log: FeatureLog, encoder: FeatureEncoder, folds: int, seed: int) -> CrossFittedRewards:
    """Fit the reward model of a log.

    Args:
        log: Rounds with rewards.
        encoder: An encoder; its schema names the features, and it is fitted again, on the log.
        folds: Parts of the users.
        seed: Assigns users to folds.
    """
    fold = user_folds(Clusters.from_users(log.units), folds, seed)
    fitted = FeatureEncoder.fit(encoder.schema, log.context, {**log.actions, ACTION_ID: log.action_id})
    action = _varying(fitted.dense_action({**log.actions, ACTION_ID: log.action_id}))
    context = _context_columns(fitted, log)
    widths = context.shape[1], action.shape[1]
    interactions, name = _design(widths, fitted.schema.interactions)
    code = pd.factorize(pd.Series([(type(value).__name__, value) for value in log.action_id.tolist()]))[0]
    weight = ImportanceWeights(_MAX_IMPORTANCE, 1.0).weight(log)
    q, mean = np.empty((2, len(log.offered)))
    of_offer = log.round_of_offer
    fold_of_offer = fold[of_offer]
    for part in range(folds):
        others, offers = np.flatnonzero(fold != part), np.flatnonzero(fold_of_offer == part)
        mean[offers] = _id_means(log, code, others)[code[log.offered[offers]]]
        if interactions is None:
            q[offers] = mean[offers]
            continue
        pairs = Pairs(context, action, log.action_id, others, log.chosen_action[others])
        model = BilinearModel.untrained(
            widths, interactions=interactions, precision=_RIDGE, prior_reward=float(log.reward[others].mean())
        ).updated(pairs, log.reward[others], weight[others] / weight[others].mean())
        for first in range(0, len(offers), _OFFERS_AT_ONCE):
            block = offers[first : first + _OFFERS_AT_ONCE]
            rounds, row = np.unique(of_offer[block], return_inverse=True)
            asked = Pairs(context[rounds], action, log.action_id, row, log.offered[block])
            q[block] = model.estimate(asked, widths=False).mean
    return CrossFittedRewards(q, mean, fold, name)


def _context_columns(encoder: FeatureEncoder, log: FeatureLog) -> NDArray[np.float32]:
    """Return the dense columns [N, C] of the contexts that vary in the log; hashed features leave many unused."""
    low = high = None
    for rows in _round_blocks(len(log)):
        columns = _encoded_context(encoder, log, rows)
        low = columns.min(axis=0) if low is None else np.minimum(low, columns.min(axis=0))
        high = columns.max(axis=0) if high is None else np.maximum(high, columns.max(axis=0))
    assert low is not None, "a log has rounds"
    varying = low != high
    parts = [_encoded_context(encoder, log, rows)[:, varying] for rows in _round_blocks(len(log))]
    return np.concatenate(parts)


def _round_blocks(rounds: int) -> list[slice]:
    return [slice(first, min(first + _ROUNDS_AT_ONCE, rounds)) for first in range(0, rounds, _ROUNDS_AT_ONCE)]


def _encoded_context(encoder: FeatureEncoder, log: FeatureLog, rows: slice) -> NDArray[np.float32]:
    count = np.zeros(rows.stop - rows.start)  # tells the encoder the number of rows where there are no features
    return np.asarray(encoder.dense_context({**take_rows(log.context, rows), "": count}), np.float32)


def _varying(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    return columns[:, columns.min(axis=0) != columns.max(axis=0)]


def _design(widths: tuple[int, int], interactions: bool) -> tuple[bool | None, str]:
    """Return True for a model with products of features, False without, None for one that is too wide; and its name."""
    if interactions and (1 + widths[0]) * (1 + widths[1]) <= _MAX_WEIGHTS:
        return True, "linear model of features and their products"
    if 1 + sum(widths) <= _MAX_WEIGHTS:
        return False, "linear model of features"
    return None, f"mean reward of each action id, because {sum(widths):,} columns are too many for a linear model"


def _id_means(log: FeatureLog, code: NDArray[np.int64], rows: NDArray[np.int64]) -> Array:
    """Return the mean reward of each id on some rounds, shrunk to the mean of all; code [M] numbers the ids."""
    chosen, reward = code[log.chosen_action[rows]], log.reward[rows]
    count = np.bincount(chosen, minlength=code.max() + 1)
    overall = float(reward.mean())
    total = np.bincount(chosen, reward, code.max() + 1)
    return np.asarray((total + _SHRINKAGE * overall) / (count + _SHRINKAGE))
