"""The distribution of one rating over the levels of its scale, given the expected rating and its standard deviation.

An ordered probit: with latent score x and cut points c, P(rating <= level k) = Phi(c_k - x), and x ~ Normal(a, t^2) for
an uncertain score, so P(rating <= level k) = Phi((c_k - a) / sqrt(1 + t^2)). Given the expected rating m and its
standard deviation s, t is s over the slope of the expected rating in x, and a is the location whose expected rating is
m. The noise therefore depends on the level: it shrinks toward both ends of the scale.

L levels. Tables over a grid of m and s answer by interpolation; NumPy alone is needed.
Source: Albert & Chib 1993.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.normal import normal_cdf

Array = NDArray[np.floating]

_MEANS, _STDS = 129, 25  # grid points
_MIN_SLOPE = 0.05  # levels per latent unit; the ends of the scale are flat
_TAIL = 8.0  # latent standard deviations beyond the outer cut points
_STEPS = 45  # bisections of the location


@dataclass(frozen=True)
class RatingLevels:
    """The levels of a rating scale and the cut points between them."""

    values: tuple[float, ...]  # [L], ascending
    cuts: tuple[float, ...]  # [L - 1], ascending; the latent noise has standard deviation 1

    def __post_init__(self) -> None:
        ascending = all((np.diff(part) > 0).all() for part in (self.values, self.cuts))
        if len(self.values) < 2 or len(self.cuts) != len(self.values) - 1 or not ascending:
            raise DataError(f"rating levels {self.values} need ascending cut points between them; found {self.cuts}")

    def as_dict(self) -> dict[str, list[float]]:
        """Return plain JSON-able values."""
        return {"values": list(self.values), "cuts": list(self.cuts)}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "RatingLevels":
        """Return the levels that `as_dict` described."""
        return cls(tuple(map(float, body["values"])), tuple(map(float, body["cuts"])))

    def probabilities(self, mean: Array, std: Array) -> Array:
        """Return the probabilities [..., L] of the levels, given expected ratings [...] and their std [...]."""
        return self._look_up(self._tables[0], mean, std)

    def probability_of(self, chosen: tuple[bool, ...], mean: Array, std: Array) -> Array:
        """Return the probability [...] of any of the chosen levels [L]: the sum of theirs, with one look-up."""
        if chosen not in self._chosen_tables:
            self._chosen_tables[chosen] = self._tables[0][..., np.array(chosen)].sum(axis=-1)
        return self._look_up(self._chosen_tables[chosen], mean, std)

    @cached_property
    def _chosen_tables(self) -> dict[tuple[bool, ...], Array]:
        return {}

    def spread(self, mean: Array, std: Array) -> Array:
        """Return the standard deviation [...] of one rating, given expected ratings [...] and their std [...]."""
        return self._look_up(self._tables[1], mean, std)

    def expected(self, score: Array) -> Array:
        """Return the expected ratings [...] at latent scores [...], without uncertainty."""
        return self._expected(score, np.ones_like(score))

    def _expected(self, location: Array, scale: Array) -> Array:
        """Return the expected ratings: the highest level less each step times the probability to lie below it."""
        steps = zip(self.cuts, np.diff(self.values), strict=True)
        below = sum(step * normal_cdf((cut - location) / scale) for cut, step in steps)
        return np.asarray(self.values[-1] - below)

    @cached_property
    def _grid(self) -> tuple[Array, Array]:
        low, high = self.values[0], self.values[-1]
        return np.linspace(low, high, _MEANS), np.linspace(0, (high - low) / 2, _STDS)

    @cached_property
    def _tables(self) -> tuple[Array, Array]:
        """The probabilities [M, S, L] and the standard deviation [M, S] of one rating on the grid."""
        mean, std = (axis.ravel() for axis in np.meshgrid(*self._grid, indexing="ij"))  # [M * S]
        margin = 1e-3 * (self.values[-1] - self.values[0])
        mean = np.clip(mean, self.values[0] + margin, self.values[-1] - margin)
        location = self._location(mean, np.ones_like(mean))
        slope = (self.expected(location + 1e-2) - self.expected(location - 1e-2)) / 2e-2
        scale = np.sqrt(1 + np.square(std / np.maximum(slope, _MIN_SLOPE)))
        location = self._location(mean, scale)
        below = [np.zeros_like(mean), *(normal_cdf((cut - location) / scale) for cut in self.cuts), np.ones_like(mean)]
        probability = np.diff(np.stack(below, axis=-1), axis=-1)  # [M * S, L]
        values = np.array(self.values)
        variance = probability @ np.square(values) - np.square(probability @ values)
        shape = _MEANS, _STDS
        return probability.reshape(*shape, -1), np.sqrt(np.maximum(variance, 0)).reshape(shape)

    def _location(self, mean: Array, scale: Array) -> Array:
        """Return the latent locations whose expected ratings are `mean`, by bisection."""
        low = self.cuts[0] - _TAIL * scale
        high = self.cuts[-1] + _TAIL * scale
        for _ in range(_STEPS):
            middle = (low + high) / 2
            under = self._expected(middle, scale) < mean
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return np.asarray((low + high) / 2)

    def _look_up(self, table: Array, mean: Array, std: Array) -> Array:
        """Return bilinear interpolations [...] or [..., L] of a table [M, S] or [M, S, L]; beyond the grid its border
        counts."""
        (i, u), (j, v) = (_cell(grid, x) for grid, x in zip(self._grid, (mean, std), strict=True))
        if table.ndim == 3:
            u, v = u[..., np.newaxis], v[..., np.newaxis]
        flat = table.reshape(-1, *table.shape[2:])
        corner = i * _STDS + j
        below, above = flat.take(corner, axis=0), flat.take(corner + _STDS, axis=0)
        below += (flat.take(corner + 1, axis=0) - below) * v
        above += (flat.take(corner + (_STDS + 1), axis=0) - above) * v
        above -= below
        above *= u
        return np.asarray(below + above)


def _cell(grid: Array, x: Array) -> tuple[NDArray[np.intp], Array]:
    """Return the lower grid points of x [...] and the positions in 0..1 between them and the next."""
    place = (x - grid[0]) * (1 / (grid[1] - grid[0]))
    np.clip(place, 0, len(grid) - 1, out=place)
    cell = np.minimum(place.astype(np.intp), len(grid) - 2)
    return cell, place - cell
