"""Synthetic items whose users stay for a while and then leave, for first tries, tests and the benchmark.

I items, N traces, J days. A user of item a leaves after a geometric number of days, with a probability a day that is
drawn from Beta(concentration c_a, concentration (1 - c_a)). Until then the user is active on each day with
probability q_a. So users differ within an item, and outcomes are 0 or 1: the Gaussian model of the prior is wrong here,
as it is for real users. Genres move c_a and q_a.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.filter import Array
from recpolicy.coldstart.traces import Traces
from recpolicy.core.seeds import generator
from recpolicy.data.feature_columns import object_array

GENRES = ("comedy", "documentary", "drama", "news")
_LEAVE_OF_GENRE, _ACTIVE_OF_GENRE = (0.4, 0.0, -0.2, -0.6), (0.2, -0.2, 0.0, 0.3)
_CONCENTRATION = 4.0
_LEAVE, _LEAVE_SPREAD = -1.4, 0.9
_ACTIVE, _ACTIVE_SPREAD = -1.0, 0.5
"""Means and standard deviations of the log odds of leaving and of being active."""


@dataclass(frozen=True)
class SyntheticItems:
    """I items with known truth."""

    genre: NDArray[np.int64]  # [I]
    leave: Array  # [I], c_a
    active: Array  # [I], q_a
    ids: NDArray[np.object_]  # [I]

    def expected(self, days: int) -> Array:
        """Return the expected outcomes [I, J]: the probability to have stayed, times that to be active."""
        a, b = _CONCENTRATION * self.leave, _CONCENTRATION * (1 - self.leave)
        day = np.arange(days)
        # A Beta-geometric user stays past day j with probability prod over i <= j of (b + i) / (a + b + i).
        stay = np.cumprod((b[:, np.newaxis] + day) / (a[:, np.newaxis] + b[:, np.newaxis] + day), axis=1)
        return self.active[:, np.newaxis] * stay

    def draw(self, item: NDArray[np.integer], days: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return traces [..., J] of items [...]."""
        leave = rng.beta(_CONCENTRATION * self.leave[item], _CONCENTRATION * (1 - self.leave[item]))
        stayed = rng.geometric(np.clip(leave, 1e-12, 1.0)) - 1  # days before the user leaves
        active = rng.random((*np.shape(item), days)) < self.active[item][..., np.newaxis]
        return active & (np.arange(days) < stayed[..., np.newaxis])


def make_items(count: int, seed: int, prefix: str = "item") -> SyntheticItems:
    """Return `count` items; the prefix is part of the stream of random numbers."""
    rng = generator(seed, f"cold start items {prefix}")
    genre = rng.integers(len(GENRES), size=count)
    leave = _LEAVE + np.take(_LEAVE_OF_GENRE, genre) + _LEAVE_SPREAD * rng.normal(size=count)
    active = _ACTIVE + np.take(_ACTIVE_OF_GENRE, genre) + _ACTIVE_SPREAD * rng.normal(size=count)
    ids = object_array([f"{prefix}/{number:04d}" for number in range(1, count + 1)])
    return SyntheticItems(genre, 1 / (1 + np.exp(-leave)), 1 / (1 + np.exp(-active)), ids)


def draw_traces(
    items: SyntheticItems, traces: int, days: int, first_day: int, last_day: int, until: int, seed: int
) -> Traces:
    """Return about `traces` traces an item, started on days `first_day` to `last_day`, as known on day `until`.

    Dates count from 1970-01-01.
    """
    rng = generator(seed, "cold start traces")
    count = np.maximum(rng.poisson(traces, len(items.ids)), 1)
    item = np.repeat(np.arange(len(items.ids)), count)
    start = np.sort(rng.integers(first_day, last_day + 1, len(item)))
    item = rng.permutation(item)
    over = start[:, np.newaxis] + np.arange(1, days + 1) <= until
    active = items.draw(item, days, rng) & over
    return Traces(items.ids, item, start, active, np.ones(len(item), np.int64), until, dated=True)
