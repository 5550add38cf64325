"""Exact beliefs about new items from traces that are observed in part, with additive statistics.

I items, N traces, J days. An item has the expected outcomes theta ~ Normal(m, Sigma) [J]; a trace of the item is
Y ~ Normal(theta, V) [J]. Days appear one by one, so of each trace a prefix is observed. With V = L L^T and W = L^-1,
row j of W reads days up to j only. The statistics of an item are n_j, the number of traces with day j observed, and
s_j, the sum of (W Y)_j over these. The posterior has precision Sigma^-1 + sum_j n_j w_j w_j^T (w_j = row j of W) and
is exact for traces of any lengths. Statistics of parts of the traces add up to those of all.

Source: Zhang et al. 2025 (arXiv 2501.07761); the form below needs no inverse of Sigma, so Sigma may be singular.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Whitening:
    """The factor L of the covariance V = L L^T of a trace around its item, and W = L^-1."""

    factor: Array  # [J, J], lower triangular
    inverse: Array  # [J, J], lower triangular

    @classmethod
    def from_covariance(cls, trace_covariance: Array) -> "Whitening":
        """Return the factors of V [J, J]; raise DataError unless V is positive definite."""
        try:
            factor = np.linalg.cholesky(np.asarray(trace_covariance, np.float64))
        except np.linalg.LinAlgError:
            raise DataError("the covariance of traces is not positive definite; fit the prior again") from None
        return cls(factor, np.tril(np.linalg.solve(factor, np.eye(len(factor)))))

    def whiten(self, outcomes: Array) -> Array:
        """Return W Y [N, J] of outcomes [N, J]; column j depends on days up to j only."""
        return np.asarray(outcomes, np.float64) @ self.inverse.T


@dataclass(frozen=True)
class ItemStatistics:
    """Sufficient statistics of I items: all that a filter needs to know of their traces."""

    count: Array  # [I, J], traces with day j observed
    whitened_sum: Array  # [I, J], sum of (W Y)_j over these traces

    @classmethod
    def empty(cls, items: int, days: int) -> "ItemStatistics":
        """Return the statistics of items without a trace."""
        return cls(np.zeros((items, days)), np.zeros((items, days)))

    @classmethod
    def from_traces(
        cls, item: NDArray[np.integer], outcomes: Array, observed_days: NDArray[np.integer], items: int,
        whitening: Whitening, weight: Array | None = None,
    ) -> "ItemStatistics":  # fmt: skip
        """Return the statistics of N traces.

        Args:
            item: [N], rows of the items, 0 to `items` - 1.
            outcomes: [N, J], outcome of each day; days that are not observed yet may hold any finite number.
            observed_days: [N], observed days of each trace, 0 to J.
            items: Number of items.
            whitening: The factors of the prior's trace covariance.
            weight: [N], number of equal traces that a row stands for; None is 1.
        """
        days = len(whitening.factor)
        seen = np.arange(days) < np.asarray(observed_days)[:, np.newaxis]  # [N, J]
        times = seen if weight is None else seen * np.asarray(weight, np.float64)[:, np.newaxis]
        whitened = whitening.whiten(np.where(seen, outcomes, 0.0)) * times
        return cls(sum_by_item(item, times, items), sum_by_item(item, whitened, items))

    def __add__(self, other: "ItemStatistics") -> "ItemStatistics":
        """Return the statistics of the traces of both; the items must be the same, in the same order."""
        if self.count.shape != other.count.shape:
            raise DataError(f"statistics of {self.count.shape} and {other.count.shape} items and days; expected equal")
        return ItemStatistics(self.count + other.count, self.whitened_sum + other.whitened_sum)


@dataclass(frozen=True)
class ItemPosterior:
    """Posteriors of the expected outcomes of I items."""

    mean: Array  # [I, J]
    covariance: Array  # [I, J, J]


@dataclass(frozen=True)
class Belief:
    """Beliefs about the stickiness of I items: the expected weighted sum of a trace's outcomes."""

    mean: Array  # [..., I]
    variance: Array  # [..., I]

    @property
    def std(self) -> Array:
        """Return standard deviations [..., I]."""
        return np.sqrt(self.variance)


@dataclass(frozen=True)
class ExactFilter:
    """The exact posterior of items, given Sigma and V; m may differ from item to item."""

    item_covariance: Array  # [J, J], Sigma
    whitening: Whitening

    @classmethod
    def from_covariances(cls, item_covariance: Array, trace_covariance: Array) -> "ExactFilter":
        """Return the filter of Sigma [J, J] and V [J, J]."""
        return cls(np.asarray(item_covariance, np.float64), Whitening.from_covariance(trace_covariance))

    def posterior(self, mean: Array, statistics: ItemStatistics) -> ItemPosterior:
        """Return the posterior of every item.

        Args:
            mean: [J] or [I, J], prior means.
            statistics: Statistics of I items.
        """
        factor = self.whitening.factor
        prior, root, residual = self._whitened(mean, statistics)
        rows = root[..., np.newaxis] * prior  # [I, J, J], R A
        gain = np.linalg.solve(self._system(prior, root), rows)  # (I + R A R)^-1 R A
        moved = np.einsum("...jk,...j->...k", gain, residual)  # A R (I + R A R)^-1 r
        covariance = prior - np.einsum("...ji,...jk->...ik", rows, gain)
        covariance = factor @ covariance @ factor.T
        return ItemPosterior(np.asarray(mean) + moved @ factor.T, (covariance + covariance.swapaxes(-1, -2)) / 2)

    def belief(self, mean: Array, statistics: ItemStatistics, weights: Array | None = None) -> Belief:
        """Return the belief about the stickiness of every item.

        Args:
            mean: [J] or [..., I, J], prior means.
            statistics: Statistics of items [..., I, J].
            weights: [J], worth of an outcome of each day; None is 1 for each.
        """
        weights = np.ones(len(self.item_covariance)) if weights is None else np.asarray(weights, np.float64)
        prior, root, residual = self._whitened(mean, statistics)
        direction = prior @ (self.whitening.factor.T @ weights)  # [J], A c
        rows = root * direction  # [..., I, J], R A c
        gain = np.linalg.solve(self._system(prior, root), rows[..., np.newaxis])[..., 0]
        moved = np.einsum("...j,...j->...", gain, residual)
        total = float(weights @ self.item_covariance @ weights)
        variance = np.maximum(total - np.einsum("...j,...j->...", gain, rows), 0.0)
        return Belief(np.asarray(mean, np.float64) @ weights + moved, variance)

    def _whitened(self, mean: Array, statistics: ItemStatistics) -> tuple[Array, Array, Array]:
        """Return A = W Sigma W^T [J, J], R = sqrt(n) [..., I, J] and r = (s - n W m) / sqrt(n), 0 without a trace."""
        inverse = self.whitening.inverse
        prior = inverse @ self.item_covariance @ inverse.T
        root = np.sqrt(statistics.count)
        surprise = statistics.whitened_sum - statistics.count * (np.asarray(mean, np.float64) @ inverse.T)
        residual = np.divide(surprise, root, out=np.zeros_like(surprise), where=root > 0)
        return (prior + prior.T) / 2, root, residual

    @staticmethod
    def _system(prior: Array, root: Array) -> Array:
        """Return I + R A R [..., I, J, J]."""
        system = root[..., np.newaxis] * root[..., np.newaxis, :]
        system *= prior
        diagonal = np.arange(len(prior))
        system[..., diagonal, diagonal] += 1.0
        return system


def sum_by_item(item: NDArray[np.integer], values: NDArray[np.generic], items: int) -> Array:
    """Return the sums [I, J] of the rows of values [N, J] by item [N]."""
    columns = [np.bincount(item, column, minlength=items) for column in np.asarray(values, np.float64).T]
    return np.stack(columns, axis=1).astype(np.float64)  # bincount of nothing has whole numbers
