"""Reward models for the direct part of doubly robust estimators: ridge regression per action, cross-fitted by user.

N rounds, A actions, D context, F = D + 1 features (1, standardised context), K folds. Per action,

    q(x, a) = m + phi(x) . beta_a,
    beta_a = argmin sum s (r - m - phi . beta)^2 + shrinkage beta_0^2 + ridge |beta_1..|^2,

with m the mean reward: an action without rounds is predicted m, one with few its mean drawn to m, and the slopes are
drawn to 0, where only the action's mean is left. The rounds of a user are predicted from the rounds of users in other
folds, so that no reward predicts itself.

MRDR chooses s to make DR least variable instead of q most accurate: s = w^2 (1 - mu). That is the diagonal of the
paper's quadratic form, all that actions fitted one by one can follow; for a deterministic target it is the paper's
(1 - mu) / mu^2.
Sources: Hoerl & Kennard 1970; Chernozhukov et al. 2018 (cross-fitting); Farajtabar, Chow & Ghavamzadeh 2018 (MRDR).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.ope.rounds import LoggedChoices

Array = NDArray[np.float64]
_FEATURE_CELLS = 1 << 23  # of products of features held at once: 64 MB


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """How rewards are predicted from context and action."""

    folds: int = 2
    """Parts into which the users are split; 2 or 3 are usual."""
    ridge: float = 10.0
    """Rounds' worth of pull of the slopes towards 0; must be > 0."""
    shrinkage: float = 5.0
    """Rounds' worth of pull of an action's mean towards the mean of all; must be > 0."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(
                f"RewardModelConfig.folds is {self.folds}; expected 2 or more, so that no reward predicts itself"
            )
        for name in ("ridge", "shrinkage"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"RewardModelConfig.{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class CrossFitted:
    """A table q [N, A] by rows: give its `rows` where an action table is wanted."""

    features: NDArray[np.float32]  # [N, F]
    fold: NDArray[np.int8]  # [N]
    mean: Array  # [K], mean reward outside each fold
    weight: NDArray[np.float32]  # [K, A, F], fitted outside each fold

    def rows(self, part: slice) -> NDArray[np.float32]:
        """Predicted rewards [stop - start, A]."""
        features, fold = self.features[part], self.fold[part]
        table = np.empty((len(fold), self.weight.shape[1]), np.float32)
        for k, weight in enumerate(self.weight):
            mine = fold == k
            table[mine] = features[mine] @ weight.T + float(self.mean[k])
        return table


def fit_reward_model(
    rounds: LoggedChoices, config: RewardModelConfig, seed: int, sample_weight: Array | None = None
) -> CrossFitted:
    """Fit the model; the seed deals users to folds. sample_weight [N] is s, scaled to mean 1.

    Raises DataError when there are fewer users than folds.
    """
    users = len(rounds.units)
    if users < config.folds:
        raise DataError(
            f"reward model: {users} users cannot be dealt to {config.folds} folds; it needs one user a fold"
        )
    dealt = generator(seed, "off_policy/folds").permutation(users) % config.folds
    fold = dealt[rounds.units.index].astype(np.int8)  # [N]
    features = _features(rounds.context, len(rounds))
    weight = np.ones(len(rounds)) if sample_weight is None else sample_weight / (sample_weight.mean() or 1.0)
    key = fold.astype(np.int64) * rounds.actions + rounds.action
    gram, moment = _grouped_moments(
        features, rounds.reward.astype(np.float64), weight, key, config.folds * rounds.actions
    )
    gram, moment = _outside(gram, config.folds), _outside(moment, config.folds)  # [K, A, F, F], [K, A, F]
    total = gram[..., 0, 0].sum(axis=1)  # [K]
    mean = moment[..., 0].sum(axis=1) / np.where(total > 0, total, 1)  # [K]
    moment -= mean[:, None, None] * gram[..., 0]  # of rewards around the fold's mean
    pull = np.full(features.shape[1], config.ridge)
    pull[0] = config.shrinkage
    beta = np.linalg.solve(gram + np.diag(pull), moment[..., None])[..., 0]
    return CrossFitted(features, fold, mean, beta.astype(np.float32))


def mrdr_weights(weight: Array, logged_prob: NDArray[np.floating]) -> Array:
    """w^2 (1 - mu) [N]: how much an error of q at a logged action adds to the variance of DR."""
    return weight**2 * (1 - logged_prob)


def _features(context: NDArray[np.floating] | None, rounds: int) -> NDArray[np.float32]:
    """1 and the context, each column standardised (contexts, not rewards: no leak between folds)."""
    if context is None:
        return np.ones((rounds, 1), np.float32)
    spread = context.std(axis=0, dtype=np.float64)
    scaled = (context - context.mean(axis=0, dtype=np.float64)) / np.where(spread > 1e-12, spread, np.inf)
    return np.concatenate([np.ones((rounds, 1)), scaled], axis=1).astype(np.float32)


def _grouped_moments(
    features: NDArray[np.float32], reward: Array, weight: Array, key: NDArray[np.int64], groups: int
) -> tuple[Array, Array]:
    """Weighted sums of phi phi' [G, F, F] and phi r [G, F] within groups of rounds, key [N] in 0..G-1."""
    order = np.argsort(key, kind="stable")
    size = features.shape[1]
    gram, moment = np.zeros((groups, size, size)), np.zeros((groups, size))
    step = max(1, _FEATURE_CELLS // size**2)
    for first in range(0, len(order), step):
        rows = order[first : first + step]
        here, start = np.unique(key[rows], return_index=True)  # sorted: each group is one run
        phi = features[rows].astype(np.float64)
        weighted = phi * weight[rows, None]
        moment[here] += np.add.reduceat(weighted * reward[rows, None], start)
        for column in range(size):
            gram[here, column, column:] += np.add.reduceat(weighted[:, column:] * phi[:, column, None], start)
    lower = np.tril_indices(size, -1)
    gram[:, lower[0], lower[1]] = gram[:, lower[1], lower[0]]
    return gram, moment


def _outside(sums: Array, folds: int) -> Array:
    """Sums [K A, ...] of folds and actions to sums over all other folds [K, A, ...]."""
    by_fold = sums.reshape(folds, -1, *sums.shape[1:])
    return np.stack([np.delete(by_fold, fold, axis=0).sum(axis=0) for fold in range(folds)])
