"""A simulated world in which estimators are put to the test: logs drawn from it, and the value they should find.

U users, A actions, N rounds, V visitors. Everything is a table over users, so the target's true value is enumerated.
A visitor is one of the users, drawn uniformly, with a number of rounds of his own: visitors are independent and their
rounds alike, which is what intervals by user assume. Rewards are low + step * Binomial(n, p), whose mean is exact
(environments/rating_noise.py draws the same in TensorFlow).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.ratings import rating_steps
from recpolicy.ope.rounds import ActionTable, LoggedChoices, Target

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CardWorld:
    """Who acts, what it pays, and what is believed about it."""

    expected: NDArray[np.floating]  # [U, A], expected reward, within scale
    scale: tuple[float, float]
    target: Array  # [U, A], the policy to be judged
    loggers: Mapping[str, Array]  # [U, A] each, positive wherever the target is
    q: NDArray[np.floating]  # [U, A], predicted reward, made without any of the logs
    context: NDArray[np.floating]  # [U, D]
    clusters: NDArray[np.integer]  # [A], groups of like actions, for mips
    name: str

    def __post_init__(self) -> None:
        shape = self.expected.shape
        tables = {"target": self.target, "q": self.q, **self.loggers}
        for name, table in tables.items():
            if table.shape != shape:
                raise DataError(f"card world: {name} {table.shape}; expected {shape}, users by actions")
        low, high = self.scale
        if not (self.expected.min() >= low and self.expected.max() <= high):  # NaN fails as well
            raise DataError(f"card world: expected rewards must lie within {low}..{high} and be finite")
        for name in ("target", *self.loggers):
            table = tables[name]
            if not (table.min() >= 0 and np.abs(table.sum(axis=1) - 1).max() < 1e-9):
                raise DataError(f"card world: {name} is not a distribution over actions for every user")
        for name, table in self.loggers.items():
            if ((table <= 0) & (self.target > 0)).any():
                raise DataError(f"card world: {name} never takes an action that the target takes; no log can judge it")

    @cached_property
    def truth(self) -> float:
        """What the target earns per round."""
        return float(np.mean((self.target * self.expected).sum(axis=1)))

    def logged_value(self, logger: str) -> float:
        """What a logging policy earns per round."""
        return float(np.mean((self.loggers[logger] * self.expected).sum(axis=1)))

    def largest_weight(self, logger: str) -> float:
        """The largest importance weight that a log of this policy can hold."""
        taken = self.loggers[logger] > 0
        return float((self.target[taken] / self.loggers[logger][taken]).max())

    @cached_property
    def tables(self) -> dict[str, NDArray[np.float32]]:
        """What estimators read row by row, in single precision: half the memory traffic."""
        return {
            name: np.ascontiguousarray(table, np.float32)
            for name, table in {"target": self.target, "q": self.q, **self.loggers}.items()
        }

    @cached_property
    def ladders(self) -> dict[str, Array]:
        """Cumulative probabilities [U A] of each logger, user u's from u to u + 1: one ascending list."""
        found = {}
        for name, table in self.loggers.items():
            cumulative = np.cumsum(table, axis=1)
            cumulative /= cumulative[:, -1:]
            found[name] = (cumulative + np.arange(len(table))[:, None]).ravel()
        return found


@dataclass(frozen=True)
class DrawnLog:
    """One log, with what estimators are given beside it."""

    rounds: LoggedChoices
    target: Target
    q: ActionTable


def draw_log(world: CardWorld, logger: str, rounds: int, rounds_per_user: int, rng: np.random.Generator) -> DrawnLog:
    """Draw a log of `rounds` rounds by visitors of `rounds_per_user` rounds each.

    Raises ConfigError for an unknown logger, or where fewer than two visitors come.
    """
    if logger not in world.loggers:
        raise unknown_name_error("logging policy of this card", logger, world.loggers)
    if rounds < 2 * rounds_per_user:
        raise ConfigError(f"a log of {rounds} rounds, {rounds_per_user} a user; expected two users or more")
    visitor = np.arange(rounds) // rounds_per_user  # [N]
    row = rng.integers(len(world.expected), size=int(visitor[-1]) + 1)[visitor]  # [N], rows of the tables
    action = draw_actions(world.ladders[logger], row, world.expected.shape[1], rng)
    reward = draw_rewards(world.expected[row, action], world.scale, rng)
    logging, target = world.loggers[logger], world.target
    log = LoggedChoices(
        action, reward, logging[row, action], visitor, world.expected.shape[1], world.context[row],
        _rows_of(world.tables[logger], row),
    )  # fmt: skip
    return DrawnLog(
        log, Target(target[row, action], _rows_of(world.tables["target"], row)), _rows_of(world.tables["q"], row)
    )


def draw_actions(ladder: Array, row: NDArray[np.integer], actions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An action [N] for the user in each row [N], by inversion: the first whose cumulative probability is above a draw.

    ladder [U A]: CardWorld.ladders. An action of probability 0 is never drawn.
    """
    point = np.minimum(row + rng.random(len(row)), np.nextafter(row + 1.0, 0))  # a draw near 1 may round up to 1
    return np.searchsorted(ladder, point, side="right") - row * actions


def draw_rewards(expected: NDArray[np.floating], scale: tuple[float, float], rng: np.random.Generator) -> Array:
    """Ratings [N] around `expected` [N], on the scale's own steps."""
    low, high = scale
    steps = rating_steps(scale)
    share = np.clip((expected.astype(np.float64) - low) / (high - low), 0, 1)
    return np.asarray(low + rng.binomial(steps, share) * ((high - low) / steps), np.float64)


def like_actions(score: NDArray[np.floating], groups: int) -> NDArray[np.int64]:
    """Number [A] of each action's group: actions in the order of their mean score over users, dealt evenly."""
    actions = score.shape[1]
    rank = np.argsort(np.argsort(score.mean(axis=0, dtype=np.float64), kind="stable"), kind="stable")
    return rank * min(groups, actions) // actions


def _rows_of(table: NDArray[np.float32], row: NDArray[np.integer]) -> ActionTable:
    def rows(part: slice) -> NDArray[np.float32]:
        return table[row[part]]

    return rows
