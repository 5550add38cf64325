"""The bandit protocol: every day M users get items, and the days of their traces arrive.

I items, M users a day, T days, J days of a trace. Day t is decided by what was over at the end of day t - 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from worlds import Array, Gaussian, Stay

from recpolicy.coldstart.allocation import entropy, round_counts, thompson_probabilities
from recpolicy.coldstart.filter import Belief, ExactFilter, ItemStatistics
from recpolicy.coldstart.prior import ItemPrior

Admissible = Callable[[int], NDArray[np.int64]]
"""Rows of the items that may be shown on a day."""
FEEDBACK = ("oracle", "progressive", "delayed")
NEWEST = 20


@dataclass
class Run:
    """What happened on each day."""

    regret: Array  # [T], mean over the users of the day
    entropy: Array  # [T], as a share of that of uniform choices
    newest: Array  # [T], share of users with one of the newest items


class Inbox:
    """The traces so far, and the statistics of what has arrived."""

    def __init__(self, model: ItemPrior, items: int, days: int, horizon: int, users: int, feedback: str):
        self.filter, self.feedback, self.horizon = model.filter(), feedback, horizon
        self.item = np.zeros((days, users), np.int64)
        self.whitened = np.zeros((days, users, horizon))
        self.count, self.sum = np.zeros((items, horizon)), np.zeros((items, horizon))
        self._old = np.ones(items, bool)  # beliefs that the last arrivals changed
        self._mean, self._variance = np.zeros(items), np.zeros(items)

    def add(self, day: int, item: NDArray[np.int64], outcomes: Array) -> None:
        """Take the traces that start on a day, and let the days arrive that are over then."""
        self.item[day], self.whitened[day] = item, self.filter.whitening.whiten(outcomes)
        if self.feedback == "oracle":
            self._arrive(np.full(self.horizon, day), np.arange(self.horizon))
        elif self.feedback == "delayed":
            if day >= self.horizon:
                self._arrive(np.full(self.horizon, day - self.horizon), np.arange(self.horizon))
        else:
            column = np.arange(min(self.horizon, day))
            self._arrive(day - 1 - column, column)

    def _arrive(self, day: NDArray[np.int64], column: NDArray[np.int64]) -> None:
        place = self.item[day], column[:, np.newaxis]
        np.add.at(self.count, place, 1.0)
        np.add.at(self.sum, place, self.whitened[day, :, column])
        self._old[self.item[day]] = True

    def belief(self, mean: Array, weights: Array, rows: NDArray[np.int64]) -> Belief:
        """Return the beliefs of some items; only those with new days are computed again."""
        old = rows[self._old[rows]]
        if len(old):
            belief = self.filter.belief(mean, ItemStatistics(self.count[old], self.sum[old]), weights)
            self._mean[old], self._variance[old], self._old[old] = belief.mean, belief.variance, False
        return Belief(self._mean[rows], self._variance[rows])


def run_thompson(
    world: Stay | Gaussian, prior: ItemPrior, feedback: str, days: int, users: int, rng: np.random.Generator,
    admissible: Admissible | None = None,
) -> Run:  # fmt: skip
    """Let Thompson sampling choose, by beliefs from feedback that is at once, progressive or delayed."""
    inbox = Inbox(prior, len(world.worth), days, prior.days, users, feedback)
    mean, weights = prior.coefficients[0], world.weights

    def probabilities(_: int, rows: NDArray[np.int64]) -> Array:
        return thompson_probabilities(inbox.belief(mean, weights, rows))

    return _run(world, days, users, rng, probabilities, inbox.add, admissible)


def run_second_day(world: Stay | Gaussian, prior: ItemPrior, days: int, users: int, rng: np.random.Generator) -> Run:
    """Let Thompson sampling choose by beliefs about activity on day 2 alone."""
    second = ItemPrior(prior.coefficients[:, 1:2], prior.item_covariance[1:2, 1:2], prior.trace_covariance[1:2, 1:2])
    scalar = ExactFilter.from_covariances(second.item_covariance, second.trace_covariance)
    waiting: list[tuple[NDArray[np.int64], Array]] = []
    statistics = ItemStatistics.empty(len(world.worth), 1)

    def add(_: int, item: NDArray[np.int64], outcomes: Array) -> None:
        nonlocal statistics
        waiting.append((item, outcomes[:, 1:2]))
        if len(waiting) > 2:
            old, outcome = waiting.pop(0)
            ones = np.ones(len(old), np.int64)
            statistics += ItemStatistics.from_traces(old, outcome, ones, len(world.worth), scalar.whitening)

    def probabilities(*_: object) -> Array:
        return thompson_probabilities(scalar.belief(second.coefficients[0], statistics))

    return _run(world, days, users, rng, probabilities, add)


def run_elimination(
    world: Stay | Gaussian, prior: ItemPrior, share: float, days: int, users: int, rng: np.random.Generator
) -> Run:
    """Spread users evenly over the items that are left; drop a share of all items every day, the worst ones first.

    The worth of an item is the sum of the means of its days so far; a day without a trace has the prior's mean.
    """
    horizon, items = prior.days, len(world.worth)
    inbox = Inbox(ItemPrior(prior.coefficients, np.eye(horizon), np.eye(horizon)), items, days, horizon, users, "p")
    left = np.ones(items, bool)

    def probabilities(day: int, _: NDArray[np.int64]) -> Array:
        if day:
            mean = np.divide(inbox.sum, inbox.count, out=np.zeros_like(inbox.sum), where=inbox.count > 0)
            worth = np.where(inbox.count > 0, mean, prior.coefficients[0]).sum(axis=1)
            worst = np.argsort(np.where(left, worth, np.inf), kind="stable")
            left[worst[: min(round(share * items), left.sum() - 1)]] = False
        return left / left.sum()

    return _run(world, days, users, rng, probabilities, inbox.add)


def run_random(
    world: Stay | Gaussian, days: int, users: int, rng: np.random.Generator, admissible: Admissible | None = None
) -> Run:
    """Choose evenly."""
    return _run(world, days, users, rng, lambda _, rows: np.full(len(rows), 1 / len(rows)), lambda *_: None, admissible)


def _run(
    world: Stay | Gaussian, days: int, users: int, rng: np.random.Generator, probabilities: Callable[..., Array],
    add: Callable[..., None], admissible: Admissible | None = None,
) -> Run:  # fmt: skip
    worth, everything = world.worth, np.arange(len(world.worth))
    run = Run(np.empty(days), np.empty(days), np.empty(days))
    for day in range(days):
        rows = everything if admissible is None else admissible(day)
        probability = probabilities(day, rows)
        count = round_counts(probability, users, rng)
        item = np.repeat(rows, count)
        add(day, item, world.draw(item, rng))
        run.regret[day] = worth[rows].max() - worth[item].mean()
        run.entropy[day] = entropy(probability)
        run.newest[day] = probability[-NEWEST:].sum()
    return run
