"""What off-policy estimators read: N logged rounds, and what a target policy would have done in them.

N rounds, A actions, U users, D context. Tables over all actions [N, A] may be an array (a memory map, too) or a
function that returns the rows of a slice, so that no more than a block of them need exist at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

ActionTable = NDArray[np.floating] | Callable[[slice], NDArray[np.floating]]
"""[N, A], or a function of a slice of rounds that returns those rows; the same slice must give the same rows."""

_CELLS = 1 << 20  # cells of a table held at once
_TOLERANCE = 1e-4  # of probabilities that should be equal or sum to 1; tables are often float32


@dataclass(frozen=True)
class LoggedChoices:
    """N rounds in the order in which they were logged; one action each, with the probability it was taken with."""

    action: NDArray[np.integer]  # [N], 0..A-1
    reward: NDArray[np.floating]  # [N]
    logged_prob: NDArray[np.floating]  # [N], probability of the logged action, in (0, 1]
    user: NDArray[np.integer]  # [N]
    """Rounds of one user are taken to be alike, users to be independent; np.arange(N) where rounds are independent."""
    actions: int
    """A: how many actions there were to choose from."""
    context: NDArray[np.floating] | None = None  # [N, D]
    logging_probs: ActionTable | None = None
    """The logging policy's probabilities of all actions [N, A], where they were kept: then support can be checked."""

    def __post_init__(self) -> None:
        rounds = len(self.action)
        if rounds == 0:
            raise DataError("logged choices: no rounds")
        for name in ("action", "reward", "logged_prob", "user"):
            if getattr(self, name).shape != (rounds,):
                raise DataError(f"logged choices: {name} {getattr(self, name).shape}; expected ({rounds},)")
        for name in ("action", "user"):
            if not np.issubdtype(getattr(self, name).dtype, np.integer):
                raise DataError(f"logged choices: {name} is {getattr(self, name).dtype}; expected whole numbers")
        if self.context is not None and (self.context.ndim != 2 or len(self.context) != rounds):
            raise DataError(f"logged choices: context {self.context.shape}; expected ({rounds}, D)")
        in_range = (self.action >= 0) & (self.action < self.actions)
        refuse("action", self.action, in_range, f"0..{self.actions - 1}")
        refuse("reward", self.reward, np.isfinite(self.reward), "a finite number")
        prob = self.logged_prob
        refuse("logged_prob", prob, (prob > 0) & (prob <= 1), "above 0 and at most 1, as the logging policy drew it")
        if self.context is not None:
            refuse("context", self.context, np.isfinite(self.context).all(axis=1), "finite numbers")

    def __len__(self) -> int:
        return len(self.action)

    @cached_property
    def units(self) -> "Units":
        """The users as units of resampling."""
        return Units.of(self.user)

    def check_table(self, table: ActionTable, name: str) -> None:
        """Raise DataError if an array is not [N, A]; the blocks of a function are checked when they are read."""
        if isinstance(table, np.ndarray) and table.shape != (len(self), self.actions):
            raise DataError(f"{name}: {table.shape}; expected ({len(self)}, {self.actions}), rounds by actions")

    def blocks(self, table: ActionTable, name: str) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Yield (slice of rounds, their rows of the table) from first to last; raises DataError for a wrong shape."""
        self.check_table(table, name)
        step = max(1, _CELLS // self.actions)
        for first in range(0, len(self), step):
            part = slice(first, min(first + step, len(self)))
            rows = table[part] if isinstance(table, np.ndarray) else table(part)
            if rows.shape != (part.stop - first, self.actions):
                expected = (part.stop - first, self.actions)
                raise DataError(f"{name}: rounds {first}..{part.stop - 1} give {rows.shape}; expected {expected}")
            yield part, rows

    def at_logged(self, part: slice, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """What the rows of a slice of rounds say of the logged actions, [stop - start]."""
        return rows[np.arange(len(rows)), self.action[part]].astype(np.float64)


@dataclass(frozen=True)
class Target:
    """What a policy would do in the rounds of a log."""

    prob: NDArray[np.floating]  # [N], its probability of the logged action
    table: ActionTable | None = None
    """Its probabilities of all actions [N, A]; estimators with a reward model need them."""

    def __post_init__(self) -> None:
        refuse("target probability", self.prob, (self.prob >= 0) & (self.prob <= 1 + _TOLERANCE), "in 0..1")


@dataclass(frozen=True)
class Units:
    """U users of N rounds; sums over the rounds of each."""

    index: NDArray[np.intp]  # [N], 0..U-1
    size: NDArray[np.int64]  # [U], rounds of each, at least 1

    @classmethod
    def of(cls, user: NDArray[np.integer]) -> "Units":
        """Number the users that occur."""
        if len(user) and user.min() >= 0 and user.max() < 4 * len(user):  # row numbers: counting beats sorting
            size = np.bincount(user)
            return cls((np.cumsum(size > 0) - 1)[user], size[size > 0])
        _, index, size = np.unique(user, return_inverse=True, return_counts=True)
        return cls(index, size)

    def __len__(self) -> int:
        return len(self.size)

    def totals(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sums [U] of values [N]."""
        return np.bincount(self.index, values, len(self)).astype(np.float64)


def target_of(rounds: LoggedChoices, table: ActionTable) -> Target:
    """Return the target policy whose probabilities of all actions are the table [N, A].

    Raises DataError where a row is not a distribution, and where it chooses what the logging policy never does (if
    `logging_probs` are there to tell).
    """
    prob = np.empty(len(rounds))
    for part, rows in rounds.blocks(table, "target probabilities"):
        check_distribution(rows, part.start, "target probabilities")
        prob[part] = rounds.at_logged(part, rows)
    target = Target(np.minimum(prob, 1), table)
    check_support(rounds, target)
    return target


def check_support(rounds: LoggedChoices, target: Target) -> None:
    """Raise DataError where the target may choose what the logging policy never does.

    Only with both tables can that be seen; without `logging_probs` it passes, and only the mean weight can hint at it.
    """
    if rounds.logging_probs is None or target.table is None:
        return
    pairs = zip(
        rounds.blocks(rounds.logging_probs, "logging_probs"),
        rounds.blocks(target.table, "target probabilities"),
        strict=True,
    )
    for (part, logging), (_, wanted) in pairs:
        check_distribution(logging, part.start, "logging_probs")
        unseen = (wanted > 0) & (logging <= 0)
        if unseen.any():
            row, action = (int(i) for i in np.argwhere(unseen)[0])
            raise DataError(
                f"round {part.start + row}: the target takes action {action} with probability "
                f"{wanted[row, action]:.3g}, the logging policy never; no log can say what that earns: restrict the "
                "target to actions that the logging policy takes"
            )
        off = np.abs(rounds.at_logged(part, logging) - rounds.logged_prob[part])
        if off.max() > _TOLERANCE:
            row = int(off.argmax())
            raise DataError(
                f"round {part.start + row}: logged_prob is {rounds.logged_prob[part][row]:.6g} but logging_probs says "
                f"{logging[row, rounds.action[part][row]]:.6g} for the logged action"
            )


def check_distribution(rows: NDArray[np.floating], first: int, name: str) -> None:
    """Raise DataError unless every row is a distribution; `first` is the round of row 0."""
    total = rows @ np.ones(rows.shape[1], rows.dtype)  # a product: several times faster than a sum over columns
    good = np.abs(total - 1) <= _TOLERANCE  # false for NaN, too
    if not (good.all() and rows.min() >= 0):
        row = int(np.argmin(good & (rows.min(axis=1) >= 0)))
        raise DataError(
            f"{name}: round {first + row} sums to {total[row]:.6g} with least {rows[row].min():.3g}; expected "
            "probabilities that sum to 1"
        )


def refuse(name: str, values: NDArray[np.generic], good: NDArray[np.bool_], expected: str) -> None:
    """Raise DataError naming the first row that is not good [N]."""
    if not good.all():
        row = int(np.argmin(good))
        more = np.count_nonzero(~good) - 1
        raise DataError(
            f"row {row}: {name} {values[row]}{f' (and {more} more such rows)' if more else ''}; expected {expected}"
        )
