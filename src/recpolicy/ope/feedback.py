"""Logged feedback that the estimators read: single rounds, slates and sessions, and the target policy on them.

N rows (rounds, slates or sessions), A actions, K slots of a slate, T steps of a session, U users, D context. A table
over all actions [N, A] may be an array (also a memory map) or a function that returns the rows of a slice. With a
function only one block of rows exists at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Bools, Floats, Ints

ActionTable = Floats | Callable[[slice], Floats]
"""[N, A], or a function of a slice of rounds that returns those rows; the same slice must give the same rows."""

_CELLS = 1 << 20  # cells of a table held at once
_TOLERANCE = 1e-4  # of probabilities that should be equal or sum to 1; tables are often float32
_SUM_TOLERANCE = 1e-6  # of rewards that should add up, relative to their size


@dataclass(frozen=True)
class Clusters:
    """U users of N rows, the clusters that are resampled, with sums over the rows of each user."""

    index: NDArray[np.intp]  # [N], 0..U-1
    size: NDArray[np.int64]  # [U], rows of each user, at least 1

    @classmethod
    def from_users(cls, user: Ints) -> "Clusters":
        """Number the users that occur in user [N]."""
        if len(user) and user.min() >= 0 and user.max() < 4 * len(user):  # row numbers: counting beats sorting
            size = np.bincount(user)
            return cls((np.cumsum(size > 0) - 1)[user], size[size > 0])
        _, index, size = np.unique(user, return_inverse=True, return_counts=True)
        return cls(index, size)

    def __len__(self) -> int:
        return len(self.size)

    def sums(self, values: Floats) -> Array:
        """Return the sums [U] of values [N]."""
        return np.bincount(self.index, values, len(self)).astype(np.float64)


@dataclass(frozen=True)
class BanditFeedback:
    """N rounds in the order in which they were logged, with one action each and the probability of that action.

    Raises DataError where shapes, types or ranges are wrong.
    """

    action: Ints  # [N], 0..A-1
    reward: Floats  # [N]
    behavior_prob: Floats  # [N], probability of the logged action under the logging policy, in (0, 1]
    user: Ints  # [N]
    """Users are assumed independent, rounds of one user correlated; np.arange(N) where all rounds are independent."""
    actions: int
    """A: the number of actions to choose from."""
    context: Floats | None = None  # [N, D]
    logging_probs: ActionTable | None = None
    """The logging policy's probabilities of all actions [N, A], if known; with them the target's support is checked."""

    def __post_init__(self) -> None:
        rounds = len(self.action)
        if rounds == 0:
            raise DataError("bandit feedback: no rounds")
        per_round = ("action", "reward", "behavior_prob", "user")
        _check_shapes(self, "bandit feedback", dict.fromkeys(per_round, (rounds,)))
        _check_integers(self, "bandit feedback", "action", "user")
        if self.context is not None and (self.context.ndim != 2 or len(self.context) != rounds):
            raise DataError(f"bandit feedback: context {self.context.shape}; expected ({rounds}, D)")
        in_range = (self.action >= 0) & (self.action < self.actions)
        check_rows("action", self.action, in_range, f"0..{self.actions - 1}")
        check_rows("reward", self.reward, np.isfinite(self.reward), "a finite number")
        _check_behavior_prob(self.behavior_prob)
        if self.context is not None:
            check_rows("context", self.context, np.asarray(np.isfinite(self.context).all(axis=1)), "finite numbers")

    def __len__(self) -> int:
        return len(self.action)

    @cached_property
    def clusters(self) -> Clusters:
        """The users."""
        return Clusters.from_users(self.user)

    def check_table(self, table: ActionTable, name: str) -> None:
        """Raise DataError if an array is not [N, A]; blocks of a function are checked when they are read."""
        if isinstance(table, np.ndarray) and table.shape != (len(self), self.actions):
            raise DataError(f"{name}: {table.shape}; expected ({len(self)}, {self.actions}), rounds by actions")

    def blocks(self, table: ActionTable, name: str) -> Iterator[tuple[slice, Floats]]:
        """Yield (slice of rounds, their rows of the table) from first to last.

        Raises:
            DataError: a table of the wrong shape.
        """
        self.check_table(table, name)
        step = max(1, _CELLS // self.actions)
        for first in range(0, len(self), step):
            part = slice(first, min(first + step, len(self)))
            rows = table[part] if isinstance(table, np.ndarray) else table(part)
            if rows.shape != (part.stop - first, self.actions):
                expected = (part.stop - first, self.actions)
                raise DataError(f"{name}: rounds {first}..{part.stop - 1} give {rows.shape}; expected {expected}")
            yield part, rows

    def at_logged(self, part: slice, rows: Floats) -> Array:
        """Return the entries of the logged actions [stop - start] in the rows of a slice of rounds."""
        return rows[np.arange(len(rows)), self.action[part]].astype(np.float64)


@dataclass(frozen=True)
class TargetPolicy:
    """The policy to evaluate, on the rounds of a log."""

    prob: Floats  # [N], its probability of the logged action
    table: ActionTable | None = None
    """Its probabilities of all actions [N, A]; estimators with a reward model need them."""

    def __post_init__(self) -> None:
        check_rows("target probability", self.prob, (self.prob >= 0) & (self.prob <= 1 + _TOLERANCE), "in 0..1")

    @classmethod
    def from_table(cls, feedback: BanditFeedback, table: ActionTable) -> "TargetPolicy":
        """Return the target policy with these probabilities of all actions [N, A].

        Raises:
            DataError: a row that is not a distribution, or an action that the logging policy never takes. The second
                needs `logging_probs` in the feedback.
        """
        prob = np.empty(len(feedback))
        for part, rows in feedback.blocks(table, "target probabilities"):
            check_distribution(rows, part.start, "target probabilities")
            prob[part] = feedback.at_logged(part, rows)
        target = cls(np.minimum(prob, 1), table)
        check_support(feedback, target)
        return target


@dataclass(frozen=True)
class SlateFeedback:
    """N slates of K slots in the order in which they were logged, and the target's probabilities of their items."""

    behavior_prob: Floats  # [N, K], of each slot's item; where slots depend on each other, given the slots before it
    target_prob: Floats  # [N, K], the target's probability of the same items
    reward: Floats  # [N], of the whole slate
    user: Ints  # [N]
    """Users are assumed independent, slates of one user correlated; np.arange(N) where all slates are independent."""
    slot_reward: Floats | None = None  # [N, K], adds up to `reward`
    """Needed by iips, rips and cascade_dr."""
    independent: bool = True
    """True if each slot is filled regardless of the others, as from shelves with separate items."""
    pseudo_weight: Floats | None = None  # [N]
    """Weights of `weights.general_weights`; pseudo-inverse estimators need them where slots are not independent."""

    def __post_init__(self) -> None:
        slates, prob = len(self.reward), self.behavior_prob
        if slates == 0:
            raise DataError("slate feedback: no slates")
        if prob.ndim != 2 or len(prob) != slates or prob.shape[1] == 0:
            raise DataError(f"slate feedback: behavior_prob {prob.shape}; expected ({slates}, K), K >= 1")
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("reward", "user", "pseudo_weight"), (slates,))
        _check_shapes(self, "slate feedback", expected | dict.fromkeys(("target_prob", "slot_reward"), prob.shape))
        _check_integers(self, "slate feedback", "user")
        _check_probabilities(prob, self.target_prob)
        check_rows("reward", self.reward, np.isfinite(self.reward), "a finite number")
        if self.pseudo_weight is not None:
            check_rows("pseudo_weight", self.pseudo_weight, np.isfinite(self.pseudo_weight), "a finite number")
            if self.independent:
                raise DataError("slate feedback: pseudo_weight is only for independent=False; give one of the two")
        self._check_slots()

    def __len__(self) -> int:
        return len(self.reward)

    @cached_property
    def clusters(self) -> Clusters:
        """The users."""
        return Clusters.from_users(self.user)

    @cached_property
    def ratio(self) -> Array:
        """Y = pi / mu of each slot [N, K]."""
        return self.target_prob.astype(np.float64) / self.behavior_prob

    def trajectories(self) -> "TrajectoryFeedback":
        """Return the slates as sessions of K steps without discount, for the models of cascade_dr.

        Raises:
            DataError: feedback without slot rewards.
        """
        if self.slot_reward is None:
            raise DataError("slate feedback: no slot_reward; cascade estimators need the reward of each slot")
        length = np.full(len(self), self.behavior_prob.shape[1])
        return TrajectoryFeedback(self.slot_reward, self.behavior_prob, self.target_prob, length, self.user)

    def _check_slots(self) -> None:
        if self.slot_reward is None:
            return
        total = self.slot_reward.sum(axis=1, dtype=np.float64)
        tolerance = _SUM_TOLERANCE * (1 + np.abs(self.slot_reward).sum(axis=1))
        adds_up = np.abs(total - self.reward) <= tolerance
        check_rows("reward", self.reward, adds_up, "the sum of the slate's slot rewards")


@dataclass(frozen=True)
class TrajectoryFeedback:
    """N sessions of up to T steps, padded. The estimated value is the discounted sum of a session's rewards.

    Rows are sessions, columns steps; values after a session's end are ignored, whatever they are.
    """

    reward: Floats  # [N, T]
    behavior_prob: Floats  # [N, T], of the logged action, in (0, 1]
    target_prob: Floats  # [N, T], the target's probability of the same action
    length: Ints  # [N], steps of each session, 1..T
    user: Ints  # [N]
    """Users are assumed independent, sessions of one user correlated; np.arange(N) where sessions are independent."""
    gamma: float = 1.0
    """Discount per step, in 0..1."""
    ended: Bools | None = None  # [N]
    """False where a session was cut off while it ran: its rewards count, but its last step is not taken for an end."""

    def __post_init__(self) -> None:
        if self.reward.ndim != 2 or self.reward.size == 0:
            raise DataError(f"trajectory feedback: reward {self.reward.shape}; expected (N, T), both 1 or more")
        sessions, steps = self.reward.shape
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("length", "user", "ended"), (sessions,))
        expected |= dict.fromkeys(("behavior_prob", "target_prob"), (sessions, steps))
        _check_shapes(self, "trajectory feedback", expected)
        _check_integers(self, "trajectory feedback", "length", "user")
        if not 0 <= self.gamma <= 1:
            raise DataError(f"trajectory feedback: gamma is {self.gamma}; expected 0..1")
        check_rows("length", self.length, (self.length >= 1) & (self.length <= steps), f"1..{steps}")
        behavior, target = (np.where(self.is_step, prob, 1.0) for prob in (self.behavior_prob, self.target_prob))
        _check_probabilities(behavior, target)
        finite = np.asarray((np.isfinite(self.reward) | ~self.is_step).all(axis=1))
        check_rows("reward", self.reward, finite, "finite numbers")

    def __len__(self) -> int:
        return len(self.reward)

    @cached_property
    def clusters(self) -> Clusters:
        """The users."""
        return Clusters.from_users(self.user)

    @cached_property
    def is_step(self) -> Bools:
        """True for the cells that are steps of a session [N, T]."""
        return np.arange(self.reward.shape[1]) < self.length[:, None]

    @cached_property
    def is_last(self) -> Bools:
        """True for the last step of each session [N, T]."""
        return np.arange(self.reward.shape[1]) == self.length[:, None] - 1

    @cached_property
    def has_known_next(self) -> Bools:
        """True for steps whose continuation is known [N, T]: all but the last of sessions that were cut off."""
        if self.ended is None:
            return self.is_step
        return self.is_step & ~(self.is_last & ~self.ended[:, None])

    @cached_property
    def masked_reward(self) -> Array:
        """Rewards [N, T], 0 after the end."""
        return np.where(self.is_step, self.reward, 0.0).astype(np.float64)

    @cached_property
    def ratio(self) -> Array:
        """Y = pi / mu of each step [N, T], 1 after the end."""
        default = np.ones(self.reward.shape)
        return np.divide(self.target_prob, self.behavior_prob, out=default, where=self.is_step)

    def sessions(self, rows: Bools) -> "TrajectoryFeedback":
        """Return the sessions for which rows [N] is true."""
        names = ("reward", "behavior_prob", "target_prob", "length", "user")
        selected = {name: getattr(self, name)[rows] for name in names}
        return replace(self, **selected, ended=None if self.ended is None else self.ended[rows])


def check_support(feedback: BanditFeedback, target: TargetPolicy) -> None:
    """Raise DataError where the target may take an action that the logging policy never takes.

    The check needs both tables of probabilities. Without `logging_probs` it passes; then only the mean weight can hint
    at missing support.
    """
    if feedback.logging_probs is None or target.table is None:
        return
    pairs = zip(
        feedback.blocks(feedback.logging_probs, "logging_probs"),
        feedback.blocks(target.table, "target probabilities"),
        strict=True,
    )
    for (part, logging), (_, wanted) in pairs:
        check_distribution(logging, part.start, "logging_probs")
        unsupported = (wanted > 0) & (logging <= 0)
        if unsupported.any():
            row, action = (int(i) for i in np.argwhere(unsupported)[0])
            raise DataError(
                f"round {part.start + row}: the target takes action {action} with probability "
                f"{wanted[row, action]:.3g}, the logging policy never; no log can show its reward: restrict the "
                "target to actions that the logging policy takes"
            )
        error = np.abs(feedback.at_logged(part, logging) - feedback.behavior_prob[part])
        if error.max() > _TOLERANCE:
            row = int(error.argmax())
            raise DataError(
                f"round {part.start + row}: behavior_prob is {feedback.behavior_prob[part][row]:.6g} but logging_probs "
                f"says {logging[row, feedback.action[part][row]]:.6g} for the logged action"
            )


def check_logged_probs(feedback: BanditFeedback, target: TargetPolicy, part: slice, rows: Floats) -> None:
    """Raise DataError unless rows of the target's table [n, A] are distributions and agree with `target.prob`."""
    check_distribution(rows, part.start, "target probabilities")
    error = np.abs(feedback.at_logged(part, rows) - target.prob[part])
    if error.max() > _TOLERANCE:
        row = int(error.argmax())
        raise DataError(
            f"round {part.start + row}: target.prob is {target.prob[part][row]:.6g}, its table says "
            f"{rows[row, feedback.action[part][row]]:.6g} for the logged action"
        )


def check_distribution(rows: Floats, first: int, name: str) -> None:
    """Raise DataError unless every row is a distribution; `first` is the round of row 0."""
    total = rows @ np.ones(rows.shape[1], rows.dtype)  # a product: several times faster than a sum over columns
    valid = np.abs(total - 1) <= _TOLERANCE  # false for NaN, too
    if not (valid.all() and rows.min() >= 0):
        row = int(np.argmin(valid & (rows.min(axis=1) >= 0)))
        raise DataError(
            f"{name}: round {first + row} sums to {total[row]:.6g} with minimum {rows[row].min():.3g}; expected "
            "probabilities that sum to 1"
        )


def check_rows(name: str, values: NDArray[np.generic], valid: Bools, expected: str) -> None:
    """Raise DataError with the first row that is not valid [N]."""
    if not valid.all():
        row = int(np.argmin(valid))
        more = np.count_nonzero(~valid) - 1
        raise DataError(
            f"row {row}: {name} {values[row]}{f' (and {more} more such rows)' if more else ''}; expected {expected}"
        )


def _check_behavior_prob(prob: Floats) -> None:
    valid = (prob > 0) & (prob <= 1)
    expected = "above 0 and at most 1, as the logging policy drew it"
    check_rows("behavior_prob", prob, valid if prob.ndim == 1 else np.asarray(valid.all(axis=1)), expected)


def _check_probabilities(behavior: Floats, target: Floats) -> None:
    _check_behavior_prob(behavior)
    in_range = np.asarray(np.all((target >= 0) & (target <= 1 + _TOLERANCE), axis=1))
    check_rows("target_prob", target, in_range, "in 0..1")


def _check_shapes(feedback: object, kind: str, expected: dict[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        values = getattr(feedback, name)
        if values is not None and values.shape != shape:
            raise DataError(f"{kind}: {name} {values.shape}; expected {shape}")


def _check_integers(feedback: object, kind: str, *names: str) -> None:
    for name in names:
        dtype = getattr(feedback, name).dtype
        if not np.issubdtype(dtype, np.integer):
            raise DataError(f"{kind}: {name} is {dtype}; expected whole numbers")
