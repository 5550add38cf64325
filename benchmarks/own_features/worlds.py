"""Planted worlds of contexts and actions with features, and logs of them, for both libraries.

N rounds, A actions. A part (context or actions) has numbers and categories. `planted`: 20 numbers of a context, 10 of
each of 10 actions; the logit of the reward is bilinear, plus products of context features, plus a sine. `open_bandit`:
the shape of the Open Bandit Dataset, campaign "men": 4 categories of a user, 34 items with a number, 3 categories and
an id, some 1 % of clicks, uniform choices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Features of n contexts or actions: numbers [n, D] and codes of categories [n, C] with their names."""

    numbers: Array
    codes: NDArray[np.int64]
    sizes: tuple[int, ...]
    prefix: str

    def columns(self) -> dict[str, NDArray]:
        """Return raw columns by name, as a feature log has them."""
        named = {f"{self.prefix}{place}": self.numbers[:, place].copy() for place in range(self.numbers.shape[1])}
        for place in range(len(self.sizes)):
            labels = np.array([f"v{value}" for value in range(self.sizes[place])], object)
            named[f"{self.prefix}_kind{place}"] = labels[self.codes[:, place]]
        return named

    def take(self, rows: slice | NDArray[np.intp]) -> "Part":
        """Return some rows."""
        return Part(self.numbers[rows], self.codes[rows], self.sizes, self.prefix)


@dataclass(frozen=True)
class World:
    """Contexts, actions, the true rewards of all of them, and logged choices."""

    context: Part  # [N]
    actions: Part  # [A]
    expected: Array  # [N, A]
    chosen: NDArray[np.int64]  # [N]
    propensity: Array  # [N]
    reward: Array  # [N]

    def take(self, first: int, last: int) -> "World":
        """Return some rounds."""
        rows = slice(first, last)
        return World(
            self.context.take(rows), self.actions, self.expected[rows], self.chosen[rows], self.propensity[rows],
            self.reward[rows],
        )  # fmt: skip

    def distinct(self) -> tuple["World", NDArray[np.intp]]:
        """Return one round of each different context, and the place [N] of the context of each round among them."""
        cells = np.concatenate([self.context.numbers, self.context.codes], axis=1)
        _, rows, place = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        return World(
            self.context.take(rows), self.actions, self.expected[rows], self.chosen[rows], self.propensity[rows],
            self.reward[rows],
        ), place.ravel()  # fmt: skip

    def relative(self, probabilities: Array) -> float:
        """Return the true value of a policy with these probabilities [N, A]: 0 as the uniform one, 1 as the best."""
        random, best = self.expected.mean(), self.expected.max(axis=1).mean()
        return float(((probabilities * self.expected).sum(axis=1).mean() - random) / (best - random))


def planted(rounds: int, seed: int) -> World:
    """Return a world with 10 actions, logged by a softmax that knows something."""
    rng = np.random.default_rng([seed, 1])
    x, z = rng.normal(size=(rounds, 20)), rng.normal(size=(10, 10))
    bilinear = x @ (rng.normal(size=(20, 10)) / 200**0.5) @ z.T
    pairs = np.triu(rng.normal(size=(10, 20, 20)), 1) / 1900**0.5
    product = np.stack([np.einsum("nc,nc->n", x @ pairs[k], x) for k in range(10)], axis=1) @ z.T
    wave = np.sin(2 * x @ (rng.normal(size=(20, 10)) / 20**0.5)) @ z.T / 10**0.5
    logits = -1 + 1.5 * bilinear + 0.5 * product + 0.5 * wave
    expected = 1 / (1 + np.exp(-logits))
    scores = 0.5 * bilinear + x @ (rng.normal(size=(20, 10)) / 200**0.5) @ z.T
    no_codes = np.zeros((rounds, 0), np.int64)
    context = Part(x.round(4), no_codes, (), "c")
    return _logged(context, Part(z.round(4), no_codes[:10], (), "a"), expected, scores, rng)


def open_bandit(rounds: int, seed: int) -> World:
    """Return a world in the shape of the Open Bandit Dataset, logged uniformly."""
    rng = np.random.default_rng([seed, 2])
    items, users, kinds = 34, (3, 6, 10, 8), (5, 8, 10)
    codes = np.stack([rng.choice(size, rounds, p=_zipf(size)) for size in users], axis=1)
    item_codes = np.stack([rng.integers(0, size, items) for size in kinds], axis=1)
    number = rng.normal(size=(items, 1)).round(4)
    logits = np.full((rounds, items), -5.0) + rng.normal(size=items) * 0.4 + 0.3 * number[:, 0]
    for place, size in enumerate(users):
        for kind, other in enumerate(kinds):
            logits += 0.3 * rng.normal(size=(size, other))[codes[:, [place]], item_codes[:, kind]]
        logits += 0.3 * rng.normal(size=(size, items))[codes[:, place]]
    expected = 1 / (1 + np.exp(-logits))
    identity = np.arange(items)[:, np.newaxis]
    actions = Part(number, np.concatenate([item_codes, identity], axis=1), (*kinds, items), "a")
    context = Part(np.zeros((rounds, 0)), codes, users, "c")
    return _logged(context, actions, expected, np.zeros((rounds, items)), rng)


def _logged(context: Part, actions: Part, expected: Array, scores: Array, rng: np.random.Generator) -> World:
    """Return the world with choices of the softmax of the scores, and rewards of 0 and 1."""
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    probability = weight / weight.sum(axis=1, keepdims=True)
    rows = np.arange(len(scores))
    chosen = (probability.cumsum(axis=1) < rng.random((len(rows), 1))).sum(axis=1).clip(max=scores.shape[1] - 1)
    reward = (rng.random(len(rows)) < expected[rows, chosen]).astype(float)
    return World(context, actions, expected, chosen, probability[rows, chosen], reward)


def _zipf(size: int) -> Array:
    weight = 1 / np.arange(1, size + 1)
    return weight / weight.sum()


WORLDS = {"planted": planted, "open_bandit": open_bandit}
