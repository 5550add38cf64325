"""A simulated world for the benchmark of the estimators: logs drawn from it, and the true value of the target policy.

U users, A actions, N rounds, V visitors. Everything is a table over users, so the target's true value is enumerated. A
visitor is one of the users, drawn uniformly, with a number of rounds. Visitors are independent and rounds of one
visitor are correlated, which is the assumption of intervals by user. Rewards are low + step * Binomial(n, p), whose
mean is exact (environments/rating_noise.py draws the same in TensorFlow).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.types import Array, Floats, Ints
from recpolicy.data.ratings import rating_steps
from recpolicy.ope.feedback import ActionTable, BanditFeedback, TargetPolicy


@dataclass(frozen=True)
class LoggedWorld:
    """Expected rewards, the target policy, the logging policies, and a reward model."""

    expected: Floats  # [U, A], expected reward, within scale
    scale: tuple[float, float]
    target: Array  # [U, A], the policy to evaluate
    logging_policies: Mapping[str, Array]  # [U, A] each, positive wherever the target is
    q: Floats  # [U, A], predicted reward, made without any of the logs
    context: Floats  # [U, D]
    action_clusters: Ints  # [A], groups of similar actions, for mips
    name: str

    def __post_init__(self) -> None:
        shape = self.expected.shape
        tables = {"target": self.target, "q": self.q, **self.logging_policies}
        for name, table in tables.items():
            if table.shape != shape:
                raise DataError(f"logged world: {name} {table.shape}; expected {shape}, users by actions")
        low, high = self.scale
        if not (self.expected.min() >= low and self.expected.max() <= high):  # NaN fails as well
            raise DataError(f"logged world: expected rewards must lie within {low}..{high} and be finite")
        for name in ("target", *self.logging_policies):
            table = tables[name]
            if not (table.min() >= 0 and np.abs(table.sum(axis=1) - 1).max() < 1e-9):
                raise DataError(f"logged world: {name} is not a distribution over actions for every user")
        for name, table in self.logging_policies.items():
            if ((table <= 0) & (self.target > 0)).any():
                raise DataError(
                    f"logged world: {name} never takes an action that the target takes; such logs allow no estimate"
                )

    @cached_property
    def true_value(self) -> float:
        """The target's mean reward per round."""
        return float(np.mean((self.target * self.expected).sum(axis=1)))

    def logged_value(self, logging_policy: str) -> float:
        """Return a logging policy's mean reward per round."""
        return float(np.mean((self.logging_policies[logging_policy] * self.expected).sum(axis=1)))

    def max_weight(self, logging_policy: str) -> float:
        """Return the maximum importance weight in a log of this policy."""
        prob = self.logging_policies[logging_policy]
        taken = prob > 0
        return float((self.target[taken] / prob[taken]).max())

    @cached_property
    def tables(self) -> dict[str, NDArray[np.float32]]:
        """Tables that estimators read row by row, in single precision for half the memory traffic."""
        return {
            name: np.ascontiguousarray(table, np.float32)
            for name, table in {"target": self.target, "q": self.q, **self.logging_policies}.items()
        }

    @cached_property
    def cumulative_probs(self) -> dict[str, Array]:
        """Cumulative probabilities [U A] of each logging policy, user u's from u to u + 1: one ascending list."""
        flat = {}
        for name, table in self.logging_policies.items():
            cumulative = np.cumsum(table, axis=1)
            cumulative /= cumulative[:, -1:]
            flat[name] = (cumulative + np.arange(len(table))[:, None]).ravel()
        return flat


@dataclass(frozen=True)
class DrawnLog:
    """One log and the other inputs of the estimators."""

    feedback: BanditFeedback
    target: TargetPolicy
    q: ActionTable


def draw_log(
    world: LoggedWorld, logging_policy: str, rounds: int, rounds_per_user: int, rng: np.random.Generator
) -> DrawnLog:
    """Draw a log of `rounds` rounds by visitors of `rounds_per_user` rounds each.

    Raises:
        ConfigError: an unknown logging policy, or fewer than two visitors.
    """
    if logging_policy not in world.logging_policies:
        raise unknown_name_error("logging policy of this world", logging_policy, world.logging_policies)
    if rounds < 2 * rounds_per_user:
        raise ConfigError(f"a log of {rounds} rounds, {rounds_per_user} a user; expected two users or more")
    visitor = np.arange(rounds) // rounds_per_user  # [N]
    row = rng.integers(len(world.expected), size=int(visitor[-1]) + 1)[visitor]  # [N], rows of the tables
    actions = world.expected.shape[1]
    action = draw_actions(world.cumulative_probs[logging_policy], row, actions, rng)
    reward = draw_rewards(world.expected[row, action], world.scale, rng)
    behavior_prob = world.logging_policies[logging_policy][row, action]
    logging_probs = _row_reader(world.tables[logging_policy], row)
    feedback = BanditFeedback(action, reward, behavior_prob, visitor, actions, world.context[row], logging_probs)
    target = TargetPolicy(world.target[row, action], _row_reader(world.tables["target"], row))
    return DrawnLog(feedback, target, _row_reader(world.tables["q"], row))


def draw_actions(cumulative_probs: Array, row: Ints, actions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw an action [N] for the user in each row [N] by inversion: the first with a cumulative probability above it.

    cumulative_probs [U A]: see `LoggedWorld.cumulative_probs`. An action of probability 0 is never drawn.
    """
    point = np.minimum(row + rng.random(len(row)), np.nextafter(row + 1.0, 0))  # a draw near 1 may round up to 1
    return np.searchsorted(cumulative_probs, point, side="right") - row * actions


def draw_rewards(expected: Floats, scale: tuple[float, float], rng: np.random.Generator) -> Array:
    """Draw ratings [N] around `expected` [N], on the steps of the scale."""
    low, high = scale
    steps = rating_steps(scale)
    chance = np.clip((expected.astype(np.float64) - low) / (high - low), 0, 1)
    return np.asarray(low + rng.binomial(steps, chance) * ((high - low) / steps), np.float64)


def cluster_actions(score: Floats, groups: int) -> NDArray[np.int64]:
    """Return the group [A] of each action: actions sorted by their mean score over users, split evenly."""
    actions = score.shape[1]
    rank = np.argsort(np.argsort(score.mean(axis=0, dtype=np.float64), kind="stable"), kind="stable")
    return rank * min(groups, actions) // actions


def _row_reader(table: NDArray[np.float32], row: Ints) -> ActionTable:
    def rows(part: slice) -> NDArray[np.float32]:
        return table[row[part]]

    return rows
