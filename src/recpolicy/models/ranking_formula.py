"""The ranking formula U = base + sum_h w_h z_h: frozen scaling of heads, grids of weight vectors, slates.

n requests, A candidate items, H heads, K places of a slate, W weights, G groups of weights, N points of a group.

A head is a number per user and item, such as the probability of a like. Scaling maps it to 0..1 between bounds that
were fitted once: with bounds of the batch, a utility would depend on the other items of the batch. An action is one
point of a grid of weight vectors. Weights of one group share an index, so 3 groups of 10 points make 1,000 actions;
the first group has the most significant digit, and index 999 is (9, 9, 9).

Source of the grouped grid: Yang et al. 2025 (DRL-PUT, arXiv 2509.05292).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.types import Array, Bools, Ints

MAX_ACTIONS = 10_000
"""Grid points above which a log rarely has enough rounds for each; a caller has to insist on more."""
_ROUNDING = 1e-9
_MARGIN = 1e-5  # of utilities in single precision


@dataclass(frozen=True)
class HeadScaling:
    """Frozen bounds of H heads; `scale` maps them to 0..1."""

    names: tuple[str, ...]
    low: Array  # [H]
    high: Array  # [H]

    @classmethod
    def fit(cls, names: Sequence[str], heads: NDArray[np.floating]) -> "HeadScaling":
        """Return the bounds of heads [..., H]; raises DataError for a head with NaN or with one value only."""
        flat = heads.reshape(-1, len(names))
        for place, name in enumerate(names):
            wrong = int((~np.isfinite(flat[:, place])).sum())
            if wrong:
                raise DataError(f"head {name!r}: {wrong:,} of {len(flat):,} values are not finite; fill or drop them")
        low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
        for name, lowest, highest in zip(names, low.tolist(), high.tolist(), strict=True):
            if lowest == highest:
                raise DataError(f"head {name!r} is {lowest:g} for every user and item; a weight on it changes nothing")
        return cls(tuple(names), low, high)

    def scale(self, heads: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return heads [..., H] on 0..1; values beyond the bounds are clipped, and equal bounds give 0."""
        return min_max(heads, self.low, self.high)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {"names": list(self.names), "low": self.low.tolist(), "high": self.high.tolist()}


def min_max(values: NDArray[np.floating], low: Array, high: Array) -> NDArray[np.floating]:
    """Return values [..., H] between bounds [H] as 0..1, clipped; 0 where both bounds are equal."""
    low, width = low.astype(values.dtype), (high - low).astype(values.dtype)
    scaled = np.divide(values - low, width, out=np.zeros_like(values), where=width > 0)
    return np.clip(scaled, 0.0, 1.0)


@dataclass(frozen=True)
class ActionGrid:
    """A grid of weight vectors: W weights in G groups of N evenly spaced points each."""

    names: tuple[str, ...]  # [W]
    group: tuple[int, ...]  # [W], 0..G-1; members of a group share an index
    low: tuple[float, ...]  # [W]
    high: tuple[float, ...]  # [W]
    points: int  # N

    def __post_init__(self) -> None:
        if not self.names or len({len(self.names), len(self.group), len(self.low), len(self.high)}) != 1:
            raise ConfigError(f"grid of {list(self.names)}: expected a group and two bounds for each weight")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"grid of {list(self.names)}: a weight occurs twice")
        if sorted(set(self.group)) != list(range(max(self.group) + 1)):
            raise ConfigError(f"groups {list(self.group)}: expected numbers 0, 1, ... without gaps")
        if self.points < 2:
            raise ConfigError(f"grid of {self.points} points a group; expected 2 or more")
        for name, lowest, highest in zip(self.names, self.low, self.high, strict=True):
            if not (np.isfinite([lowest, highest]).all() and lowest < highest):
                raise ConfigError(f"weight {name!r}: range {lowest:g} to {highest:g}; expected two ascending numbers")

    @classmethod
    def full(cls, names: Sequence[str], low: Sequence[float], high: Sequence[float], points: int) -> "ActionGrid":
        """Return the grid N^W in which every weight has an index of its own."""
        return cls(tuple(names), tuple(range(len(names))), tuple(low), tuple(high), points)

    @property
    def groups(self) -> int:
        """G."""
        return max(self.group) + 1

    @property
    def size(self) -> int:
        """The number of actions, N^G."""
        return int(self.points**self.groups)

    def check_size(self, force: bool = False) -> None:
        """Raise ConfigError for a grid above MAX_ACTIONS unless `force`."""
        if self.size > MAX_ACTIONS and not force:
            raise ConfigError(
                f"a grid of {self.points}^{self.groups} = {self.size:,} actions; expected at most {MAX_ACTIONS:,}:"
                " group weights or take fewer points, or insist with --force"
            )

    def digits(self, action: Ints | int) -> NDArray[np.int64]:
        """Return the index of each group [..., G] of actions [...], each in 0..N^G-1."""
        action = np.asarray(action, np.int64)
        if action.size and not (action.min() >= 0 and action.max() < self.size):
            raise ConfigError(f"action {int(action.min())} to {int(action.max())}; expected 0 to {self.size - 1}")
        powers = self.points ** np.arange(self.groups - 1, -1, -1)
        return np.asarray(action[..., np.newaxis] // powers % self.points)

    def weights(self, action: Ints | int) -> Array:
        """Return the weight vectors [..., W] of actions [...]."""
        share = self.digits(action)[..., list(self.group)] / (self.points - 1)
        low, high = np.array(self.low), np.array(self.high)
        return np.asarray(low + (high - low) * share)

    @cached_property
    def all_weights(self) -> Array:
        """The weight vectors [N^G, W] of all actions."""
        return self.weights(np.arange(self.size))

    def unit(self, action: Ints | int) -> Array:
        """Return actions [...] as points [..., G] of the unit cube."""
        return np.asarray(self.digits(action) / (self.points - 1))

    def action(self, digits: Ints) -> NDArray[np.int64]:
        """Return the actions [...] of group indices [..., G]."""
        powers = self.points ** np.arange(self.groups - 1, -1, -1)
        return np.asarray(digits @ powers, np.int64)

    def nearest(self, unit: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the actions [...] nearest to points [..., G] of the unit cube, clipped to it."""
        return self.action(np.rint(np.clip(unit, 0.0, 1.0) * (self.points - 1)).astype(np.int64))

    def nearest_weights(self, weights: Array) -> NDArray[np.int64]:
        """Return the actions [...] nearest to weight vectors [..., W]; a group takes the mean of its members."""
        share = (weights - np.array(self.low)) / (np.array(self.high) - np.array(self.low))
        members = np.equal.outer(np.arange(self.groups), np.array(self.group))  # [G, W]
        return self.nearest(share @ (members / members.sum(axis=1, keepdims=True)).T)

    def check_weights(self, weights: Mapping[str, float]) -> Array:
        """Return the vector [W] of named weights; raises ConfigError for one unknown, missing or outside."""
        for name in weights:
            if name not in self.names:
                raise unknown_name_error("weight", name, self.names)
        if missing := [name for name in self.names if name not in weights]:
            raise ConfigError(f"no weight of {missing[0]!r}; expected one for each of {', '.join(self.names)}")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            value = weights[name]
            if not low - _ROUNDING <= value <= high + _ROUNDING:
                raise ConfigError(f"weight {name!r} is {value:g}, outside of its grid {low:g} to {high:g}")
        return np.array([weights[name] for name in self.names], np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        parts = ("names", "group", "low", "high")
        return {**{name: list(getattr(self, name)) for name in parts}, "points": self.points}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "ActionGrid":
        """Return the grid that `as_dict` described."""
        return cls(
            tuple(map(str, body["names"])), tuple(map(int, body["group"])), tuple(map(float, body["low"])),
            tuple(map(float, body["high"])), int(body["points"]),
        )  # fmt: skip


def utility(
    heads: NDArray[np.floating], weights: NDArray[np.floating], base: NDArray[np.floating] | None = None,
    eligible: Bools | None = None,
) -> NDArray[np.floating]:  # fmt: skip
    """Return U [n, A], -inf for items that are not eligible.

    Args:
        heads: [n, A, H], scaled.
        weights: [n, H], or [H] for all requests alike.
        base: [n, A], the part of U without a weight.
        eligible: [n, A], such as items whose value reaches the reserve.
    """
    columns = np.broadcast_to(weights, (len(heads), heads.shape[2])).astype(heads.dtype)
    total = np.matmul(heads, columns[:, :, np.newaxis])[:, :, 0]
    total = total if base is None else total + base
    return total if eligible is None else np.where(eligible, total, -np.inf)


def best_items(score: NDArray[np.floating], k: int) -> NDArray[np.int32]:
    """Return the k best items [..., K] of scores [..., A], best first; -1 where fewer than k have a finite score.

    Equal scores keep the order of the items.
    """
    k = min(k, score.shape[-1])
    limit = -np.partition(-score, k - 1, axis=-1)[..., k - 1 : k]  # the k-th best score
    above, equal = score > limit, score == limit
    left = k - above.sum(axis=-1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=-1) <= left))
    top = np.nonzero(chosen)[-1].reshape(*score.shape[:-1], k)
    value = np.take_along_axis(score, top, axis=-1)
    order = np.argsort(-value, axis=-1, kind="stable")
    top, value = np.take_along_axis(top, order, axis=-1), np.take_along_axis(value, order, axis=-1)
    return np.where(np.isfinite(value), top, -1).astype(np.int32)


def contenders(
    heads: NDArray[np.floating], low: NDArray[np.floating], high: NDArray[np.floating], k: int
) -> NDArray[np.intp]:
    """Return the items, in order, that can be among the k best under some weights from `low` to `high`.

    An item drops out if k others score more under all of these weights: a head in which the other is better counts with
    its lowest weight, and one in which it is worse with its highest. Only the best at middle weights are tried as
    others, so some items stay that could go.

    Args:
        heads: [A, H], scaled, of one user.
        low: [H].
        high: [H].
        k: Places of a slate.
    """
    middle = heads @ ((low + high) / 2).astype(heads.dtype)
    others = heads[np.argsort(-middle, kind="stable")[: 4 * k]]  # [J, H]
    ahead = others[np.newaxis] - heads[:, np.newaxis]  # [A, J, H]
    worst = np.where(ahead > 0, ahead * low.astype(heads.dtype), ahead * high.astype(heads.dtype)).sum(axis=2)
    return np.flatnonzero((worst > _MARGIN).sum(axis=1) < k)


def contribution_shares(heads: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return |w_h z_h| / sum_j |w_j z_j| [n, H] of slates: the part of the utility that each head decides.

    Args:
        heads: [n, K, H], scaled, of the items shown.
        weights: [n, H] or [H].
    """
    part = np.abs(heads * np.broadcast_to(weights, (len(heads), heads.shape[2]))[:, np.newaxis]).sum(axis=1)
    total = part.sum(axis=1, keepdims=True)
    return np.divide(part, total, out=np.zeros(part.shape), where=total > 0)


def operational_range(
    heads: NDArray[np.floating], weights: Array, head: int, share: tuple[float, float]
) -> tuple[float, float]:
    """Return the weights of one head at which its mean contribution is share[0] and share[1], all else equal.

    The mean contribution rises with the weight, so both ends are found by bisection on slates shown.

    Args:
        heads: [n, K, H], scaled, of the items shown.
        weights: [H], the weights today; their sum bounds the search.
        head: Column of the head.
        share: Lowest and highest mean contribution, within 0..1.
    """
    if not 0 <= share[0] < share[1] < 1:
        raise ConfigError(f"contribution {share[0]:g} to {share[1]:g}; expected two ascending shares in 0..1")
    ends = []
    for target in share:
        low, high = 0.0, 1e4 * max(float(np.abs(weights).sum()), 1.0)
        for _ in range(80):
            middle = (low + high) / 2
            trial = weights.astype(np.float64).copy()
            trial[head] = middle
            reached = contribution_shares(heads, trial)[:, head].mean() >= target
            low, high = (low, middle) if reached else (middle, high)
        ends.append(high)
    return ends[0], ends[1]
