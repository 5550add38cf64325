"""Worlds of the benchmark: how traces are drawn, what a learner sees of them, and the prior fitted on past items.

I items, N traces, J days. A world draws outcomes [N, J] of items [N], and knows the true worth [I] of each item: the
expected sum of its active days. A learner's outcomes may differ from the active days (see `Shuffled`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.prior import ItemMoments, ItemPrior, fit_prior
from recpolicy.coldstart.synthetic import SyntheticItems, make_items
from recpolicy.core.seeds import generator

Array = NDArray[np.float64]
SECOND_DAY_RATE = 0.3


@dataclass(frozen=True)
class Stay:
    """Users stay for a while and then leave (coldstart/synthetic.py)."""

    items: SyntheticItems
    days: int

    @property
    def worth(self) -> Array:
        return self.items.expected(self.days).sum(axis=1)

    @property
    def weights(self) -> Array:
        return np.ones(self.days)

    def draw(self, item: NDArray[np.integer], rng: np.random.Generator) -> Array:
        return self.items.draw(item, self.days, rng).astype(np.float64)


@dataclass(frozen=True)
class BlindSecondDay(Stay):
    """The same, but on day 2 users of all items are active with one probability: day 2 says nothing."""

    @property
    def worth(self) -> Array:
        expected = self.items.expected(self.days)
        expected[:, 1] = SECOND_DAY_RATE
        return expected.sum(axis=1)

    def draw(self, item: NDArray[np.integer], rng: np.random.Generator) -> Array:
        outcomes = super().draw(item, rng)
        outcomes[:, 1] = rng.random(len(item)) < SECOND_DAY_RATE
        return outcomes


@dataclass(frozen=True)
class Shuffled(Stay):
    """Negative control: the days before the last come from traces of random items, and the last one is the true sum.

    So early days say nothing of an item, and progressive feedback cannot help.
    """

    @property
    def weights(self) -> Array:
        return np.eye(self.days)[-1]

    def draw(self, item: NDArray[np.integer], rng: np.random.Generator) -> Array:
        own = super().draw(item, rng)
        outcomes = super().draw(rng.integers(len(self.items.ids), size=len(item)), rng)
        outcomes[:, -1] = own.sum(axis=1)
        return outcomes


@dataclass(frozen=True)
class ShuffledWithin(Stay):
    """Days after the fifth come from another trace of the same item: users of an item are mixed, items are not."""

    def draw(self, item: NDArray[np.integer], rng: np.random.Generator) -> Array:
        outcomes = super().draw(item, rng)
        outcomes[:, 5:] = super().draw(item, rng)[:, 5:]
        return outcomes


@dataclass(frozen=True)
class Gaussian:
    """The model's own world: expected outcomes and traces are Gaussian, and the learner knows m, Sigma and V."""

    theta: Array  # [I, J]
    factor: Array  # [J, J], of V

    @property
    def worth(self) -> Array:
        return self.theta.sum(axis=1)

    @property
    def weights(self) -> Array:
        return np.ones(self.theta.shape[1])

    def draw(self, item: NDArray[np.integer], rng: np.random.Generator) -> Array:
        return self.theta[item] + rng.normal(size=(len(item), self.theta.shape[1])) @ self.factor.T


def make_gaussian(prior: ItemPrior, count: int, seed: int) -> Gaussian:
    """Return a world of items drawn from a prior."""
    rng = generator(seed, "impatient gaussian")
    theta = rng.multivariate_normal(prior.coefficients[0], prior.item_covariance, count, method="eigh")
    return Gaussian(theta, np.linalg.cholesky(prior.trace_covariance))


WORLDS = {"stay": Stay, "blind_second_day": BlindSecondDay, "shuffled": Shuffled, "shuffled_within": ShuffledWithin}


def make_world(name: str, count: int, days: int, seed: int) -> Stay:
    """Return a world of new items."""
    return WORLDS[name](make_items(count, seed, "new"), days)


def fit_past(name: str, days: int, seed: int, items: int = 200, traces: int = 200) -> ItemPrior:
    """Return the prior that past items of the same world teach, none of which is a new item."""
    past = WORLDS[name](make_items(items, seed, "past"), days)
    rng = generator(seed, "impatient past traces")
    item = np.repeat(np.arange(items), traces)
    return fit_prior(ItemMoments.from_traces(item, past.draw(item, rng), items), tolerance=0.05).prior


def isotropic(days: int) -> ItemPrior:
    """Return the prior of a learner without past items: mean 0, Sigma 100 I, V I."""
    return ItemPrior(np.zeros((1, days)), 100 * np.eye(days), np.eye(days))
