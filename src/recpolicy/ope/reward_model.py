"""Reward models of doubly robust estimators: ridge regression per action, cross-fitted by user.

N rounds, A actions, D context, F = D + 1 features (1, standardized context), K folds. Per action,

    q(x, a) = m + phi(x) . beta_a,
    beta_a = argmin sum s (r - m - phi . beta)^2 + shrinkage beta_0^2 + ridge |beta_1..|^2,

with m the mean reward. The prediction for an action without rounds is m, for an action with few rounds its mean shrunk
towards m. Slopes are shrunk towards 0. The rounds of a user are predicted from users in other folds, so no reward
predicts itself.

MRDR chooses s to minimize the variance of DR instead of the error of q: s = w^2 (1 - mu). This is the diagonal of the
paper's quadratic form, as far as separate fits per action can follow it. For a deterministic target it is the paper's
(1 - mu) / mu^2.
Sources: Hoerl & Kennard 1970; Chernozhukov et al. 2018 (cross-fitting); Farajtabar, Chow & Ghavamzadeh 2018 (MRDR).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Folds, PositiveNumber, config_dataclass
from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array, Floats
from recpolicy.ope.feedback import BanditFeedback, Clusters

_FEATURE_CELLS = 1 << 23  # of products of features held at once: 64 MB


@config_dataclass
class RewardModelConfig:
    """Settings of the reward model."""

    folds: Folds = 2
    """Parts of the users; 2 or 3 are usual. No reward is predicted by a model that was fitted on it."""
    ridge: PositiveNumber = 10.0
    """Strength that shrinks the slopes towards 0, in rounds."""
    shrinkage: PositiveNumber = 5.0
    """Strength that shrinks an action's mean towards the mean of all actions, in rounds."""


@dataclass(frozen=True)
class CrossFitted:
    """A fitted table q [N, A], computed by rows; its method `rows` is an action table."""

    features: NDArray[np.float32]  # [N, F]
    fold: NDArray[np.int8]  # [N]
    mean: Array  # [K], mean reward of the other folds
    weight: NDArray[np.float32]  # [K, A, F], fitted on the other folds

    def rows(self, part: slice) -> NDArray[np.float32]:
        """Return the predicted rewards [stop - start, A] of a slice of rounds."""
        features, fold = self.features[part], self.fold[part]
        table = np.empty((len(fold), self.weight.shape[1]), np.float32)
        for k, weight in enumerate(self.weight):
            in_fold = fold == k
            table[in_fold] = features[in_fold] @ weight.T + float(self.mean[k])
        return table


def fit_reward_model(
    feedback: BanditFeedback, config: RewardModelConfig, seed: int, sample_weight: Array | None = None
) -> CrossFitted:
    """Fit the model.

    Args:
        feedback: the logged rounds.
        config: folds and regularization.
        seed: assigns users to folds.
        sample_weight: [N], s; scaled to mean 1 over the rounds of each fit. None is 1 for all rounds.

    Raises:
        DataError: fewer users than folds.
    """
    fold = user_folds(feedback.clusters, config.folds, seed).astype(np.int8)  # [N]
    features = _features(feedback.context, len(feedback))
    weight = np.ones(len(feedback)) if sample_weight is None else sample_weight.astype(np.float64)
    key = fold.astype(np.int64) * feedback.actions + feedback.action
    gram, moment = _grouped_moments(
        features, feedback.reward.astype(np.float64), weight, key, config.folds * feedback.actions
    )
    gram, moment = _other_folds(gram, config.folds), _other_folds(moment, config.folds)  # [K, A, F, F], [K, A, F]
    total = gram[..., 0, 0].sum(axis=1)  # [K]
    rounds = len(feedback) - np.bincount(fold, minlength=config.folds)  # [K], of the other folds
    scale = np.where(total > 0, rounds / np.where(total > 0, total, 1), 1)  # a fold's own rounds play no part
    gram, moment, total = gram * scale[:, None, None, None], moment * scale[:, None, None], total * scale
    mean = moment[..., 0].sum(axis=1) / np.where(total > 0, total, 1)  # [K]
    moment -= mean[:, None, None] * gram[..., 0]  # of rewards around the fold's mean
    penalty = np.full(features.shape[1], config.ridge)
    penalty[0] = config.shrinkage
    beta = np.linalg.solve(gram + np.diag(penalty), moment[..., None])[..., 0]
    return CrossFitted(features, fold, mean, beta.astype(np.float32))


def mrdr_weights(weight: Array, behavior_prob: Floats) -> Array:
    """Return w^2 (1 - mu) [N]: the variance that an error of q at a logged action adds to DR."""
    return weight**2 * (1 - behavior_prob)


def user_folds(clusters: Clusters, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign users to folds and return each row's fold [N].

    Raises:
        DataError: fewer users than folds.
    """
    users = len(clusters)
    if users < folds:
        raise DataError(
            f"cross-fitting: {users} users for {folds} folds; each fold needs at least one user; if each round of the"
            " log is another person, import or ingest it with --unit round"
        )
    fold = generator(seed, "off_policy/folds").permutation(users) % folds
    return fold[clusters.index]


def _features(context: Floats | None, rounds: int) -> NDArray[np.float32]:
    """Return 1 and the context, each column standardized (contexts, not rewards: no leak between folds)."""
    if context is None:
        return np.ones((rounds, 1), np.float32)
    std = context.std(axis=0, dtype=np.float64)
    scaled = (context - context.mean(axis=0, dtype=np.float64)) / np.where(std > 1e-12, std, np.inf)
    return np.concatenate([np.ones((rounds, 1)), scaled], axis=1).astype(np.float32)


def _grouped_moments(
    features: NDArray[np.float32], reward: Array, weight: Array, key: NDArray[np.int64], groups: int
) -> tuple[Array, Array]:
    """Return weighted sums of phi phi' [G, F, F] and phi r [G, F] within groups of rounds, key [N] in 0..G-1."""
    order = np.argsort(key, kind="stable")
    size = features.shape[1]
    gram, moment = np.zeros((groups, size, size)), np.zeros((groups, size))
    step = max(1, _FEATURE_CELLS // size**2)
    for first in range(0, len(order), step):
        rows = order[first : first + step]
        group, start = np.unique(key[rows], return_index=True)  # sorted: each group is one run
        phi = features[rows].astype(np.float64)
        weighted = phi * weight[rows, None]
        moment[group] += np.add.reduceat(weighted * reward[rows, None], start)
        for column in range(size):
            gram[group, column, column:] += np.add.reduceat(weighted[:, column:] * phi[:, column, None], start)
    lower = np.tril_indices(size, -1)
    gram[:, lower[0], lower[1]] = gram[:, lower[1], lower[0]]
    return gram, moment


def _other_folds(sums: Array, folds: int) -> Array:
    """Return for each fold the sums over all other folds [K, A, ...], from sums by fold and action [K A, ...]."""
    by_fold = sums.reshape(folds, -1, *sums.shape[1:])
    return np.stack([np.delete(by_fold, fold, axis=0).sum(axis=0) for fold in range(folds)])
