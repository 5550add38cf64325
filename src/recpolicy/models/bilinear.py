"""Bayesian linear regression of the reward on context, action and their products, from sums over rounds.

C context features, D action features, K weights. With x = [1, context] and a = [1, action], the reward of a pair is
x' W a, so a weight belongs to each product of an entry of x and one of a: K = (1 + C) (1 + D). Without interactions
x = [1, context, action] and a = [1], so K = 1 + C + D.

The model is its sums G = sum w phi phi' and b = sum w r phi, phi = x (x) a. The posterior mean is
(p I + G)^-1 (b + p m), and the covariance over the noise variance (p I + G)^-1, with the prior precision p. The prior
mean m is a constant reward. Sums do not depend on the order of rounds. A forgetting factor f < 1 gives a round the
weight f^n after n later rounds; the prior stays, so the covariance never exceeds the prior's.

phi phi' = (x x') (x) (a a') has few distinct entries: those of the upper triangles of x x' and a a'. Only these are
summed, as one matrix product over rounds. Source: Li et al. 2010 (WWW), section 3; Bishop 2006, section 3.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.types import Array
from recpolicy.models.reward_model import Arrays, PairEstimate, Pairs

MAX_WEIGHTS = 4_096
"""Weights of the model; its covariance takes memory with their square."""
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class BilinearModel:
    """A linear model of the reward, known by its sums."""

    name: ClassVar[str] = "bilinear"
    sparse: ClassVar[bool] = False
    learns_online: ClassVar[bool] = True

    gram: Array  # [T(1 + C), T(1 + D)], T(n) = n (n + 1) / 2: sums of w x_i x_j a_k a_l, i <= j, k <= l
    moment: Array  # [1 + C, 1 + D] sums of w r x_i a_k
    squares: float
    """Sum of w r^2."""
    interactions: bool
    precision: float
    """Weight of the prior mean, in observations per direction."""
    prior_reward: float
    """The constant reward that is the prior mean."""
    forgetting: float = 1.0

    @classmethod
    def untrained(
        cls, width: tuple[int, int], *, interactions: bool, precision: float, prior_reward: float,
        forgetting: float = 1.0,
    ) -> "BilinearModel":  # fmt: skip
        """Return the model without data; `width` is the number of context and of action features.

        Raises:
            ConfigError: The model has more than MAX_WEIGHTS weights.
        """
        x, a = _sides(width, interactions)
        if x * a > MAX_WEIGHTS:
            products = "; without interactions there are fewer" if interactions else ""
            raise ConfigError(
                f"a linear model of {width[0]} context and {width[1]} action columns has {x * a:,} weights; expected"
                f" at most {MAX_WEIGHTS:,}{products}, and the model `hashed` of squarecb takes any number"
            )
        return cls(
            np.zeros((triangle(x), triangle(a))), np.zeros((x, a)), 0.0, interactions, precision, prior_reward,
            forgetting,
        )  # fmt: skip

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain values next to the arrays."""
        names = ("squares", "interactions", "precision", "prior_reward", "forgetting")
        return {name: getattr(self, name) for name in names}

    @property
    def arrays(self) -> Arrays:
        """The sums."""
        return {"gram": self.gram, "moment": self.moment}

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: Mapping[str, Any], width: tuple[int, int]) -> "BilinearModel":
        """Return the model of saved sums; raises ArtifactError for arrays of other widths."""
        x, a = _sides(width, bool(settings["interactions"]))
        if x * a > MAX_WEIGHTS or settings["precision"] <= 0 or not 0 < settings["forgetting"] <= 1:
            raise ArtifactError(f"{x * a:,} weights, precision {settings['precision']}: not what a training writes")
        check_shape(arrays, "gram", (triangle(x), triangle(a)))
        check_shape(arrays, "moment", (x, a))
        return cls(arrays["gram"], arrays["moment"], **settings)

    @cached_property
    def theta(self) -> Array:
        """The posterior mean [1 + C, 1 + D], W above."""
        prior = np.zeros(self.moment.shape)
        prior[0, 0] = self.precision * self.prior_reward
        theta = np.linalg.solve(self.information, (self.moment + prior).ravel())
        return np.asarray(theta.reshape(self.moment.shape), np.float64)

    @cached_property
    def covariance(self) -> Array:
        """The posterior covariance over the noise variance [K, K]."""
        inverse = np.linalg.inv(self.information)
        return (inverse + inverse.T) / 2

    @cached_property
    def packed_covariance(self) -> Array:
        """The covariance [T, T] so that phi' P phi = packed(x x')' . it . packed(a a')."""
        of_x, of_a = self._places
        place = of_x * self.gram.shape[1] + of_a
        packed = np.bincount(place.ravel(), self.covariance.ravel(), self.gram.size)
        return np.asarray(packed.reshape(self.gram.shape), np.float64)

    @property
    def information(self) -> Array:
        """p I + G [K, K]."""
        weights = self.moment.size
        return self.gram[self._places].reshape(weights, weights) + self.precision * np.eye(weights)

    @property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in `gram` of the entries (i, k), (j, l) of a K x K matrix: [X, 1, X, 1] and [1, A, 1, A]."""
        x, a = self.moment.shape
        return triangle_index(x)[:, np.newaxis, :, np.newaxis], triangle_index(a)[np.newaxis, :, np.newaxis, :]

    def estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the posterior means and widths of the pairs."""
        pairs = self._design(pairs)
        x, a = with_one(pairs.context), with_one(pairs.action)
        mean = np.einsum("kd,kd->k", (x @ self.theta)[pairs.row], a[pairs.offer])
        if not widths:
            return PairEstimate(mean)
        squares = products(x) @ self.packed_covariance  # [n, T(1 + D)]
        square = np.einsum("kd,kd->k", squares[pairs.row], products(a)[pairs.offer])
        return PairEstimate(mean, np.sqrt(np.maximum(square, 0.0)))

    def updated(self, pairs: Pairs, reward: Array, weight: Array) -> "BilinearModel":
        """Return the model with further rewards [k] and weights [k] in its sums."""
        if self.forgetting < 1:
            weight = weight * self.forgetting ** np.arange(len(reward) - 1, -1, -1)
        pairs = self._design(pairs)
        kept = self.forgetting ** len(reward)
        gram, moment = self.gram * kept, self.moment * kept
        action = with_one(pairs.action)  # [m, 1 + D]
        rows = max(1, _BLOCK_BYTES // (8 * (gram.shape[0] + gram.shape[1] + sum(moment.shape))))
        for first in range(0, len(reward), rows):
            block = slice(first, first + rows)
            x, a = with_one(pairs.context[pairs.row[block]]), action[pairs.offer[block]]
            w = weight[block, np.newaxis]
            gram += (products(x) * w).T @ products(a)
            moment += (x * (w * reward[block, np.newaxis])).T @ a
        return replace(self, gram=gram, moment=moment, squares=self.squares * kept + float(weight @ reward**2))

    def squared_error(self) -> float:
        """Return the weighted mean squared error of the posterior mean over the rounds of the sums; 0 without any."""
        theta = self.theta.ravel()
        gram = self.information - self.precision * np.eye(len(theta))
        total = self.squares - 2 * float(theta @ self.moment.ravel()) + float(theta @ gram @ theta)
        return max(total, 0.0) / max(float(self.gram[0, 0]), 1e-12)

    def regressors(self, pairs: Pairs) -> Array:
        """Return phi [k, K] of the pairs."""
        pairs = self._design(pairs)
        x, a = with_one(pairs.context[pairs.row]), with_one(pairs.action)[pairs.offer]
        return (x[:, :, np.newaxis] * a[:, np.newaxis, :]).reshape(len(x), -1)

    def _design(self, pairs: Pairs) -> Pairs:
        """Return the pairs as x and a; without interactions the action's features belong to x."""
        if self.interactions:
            return pairs
        x = np.concatenate([pairs.context[pairs.row], pairs.action[pairs.offer]], axis=1)
        return rows_as_pairs(x)


def rows_as_pairs(x: NDArray[np.floating]) -> Pairs:
    """Return pairs of k rows [k, C] and one action without features."""
    rows = np.arange(len(x))
    return Pairs(x, np.zeros((1, 0)), np.array([""], object), rows, np.zeros(len(x), np.int64))


def check_shape(arrays: Arrays, name: str, shape: tuple[int, ...]) -> None:
    """Raise ArtifactError unless an array is there, holds floats and has the shape."""
    array = arrays.get(name)
    if array is None or array.shape != shape or array.dtype.kind != "f":
        found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise ArtifactError(f"{name}: {found}; expected floats {list(shape)}: train it again")


def _sides(width: tuple[int, int], interactions: bool) -> tuple[int, int]:
    return (1 + width[0], 1 + width[1]) if interactions else (1 + sum(width), 1)


def triangle(n: int) -> int:
    """Return n (n + 1) / 2."""
    return n * (n + 1) // 2


def triangle_index(n: int) -> NDArray[np.int64]:
    """Return the place [n, n] of each pair of entries in the upper triangle."""
    place = np.zeros((n, n), np.int64)
    place[np.triu_indices(n)] = np.arange(triangle(n))
    return np.maximum(place, place.T)


def products(x: Array) -> Array:
    """Return the upper triangles [n, T] of the outer products x x' of rows [n, D]."""
    rows, columns = np.triu_indices(x.shape[1])
    return x[:, rows] * x[:, columns]


def with_one(x: NDArray[np.floating]) -> Array:
    """Return [1, x] in double precision."""
    return np.concatenate([np.ones((len(x), 1)), x], axis=1, dtype=np.float64)
