"""What off-policy estimators of sessions read: N logged sessions of up to T steps, padded, and the target's choices.

Rows of an array are sessions, columns steps; what lies after a session's end is ignored, whatever it holds.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.ope.rounds import Units, refuse

Array = NDArray[np.float64]
_TOLERANCE = 1e-4  # of probabilities, which are often float32


@dataclass(frozen=True)
class LoggedTrajectories:
    """N sessions of U users; the value that is estimated is the discounted sum of a session's rewards."""

    reward: NDArray[np.floating]  # [N, T]
    logged_prob: NDArray[np.floating]  # [N, T], of the logged action, in (0, 1]
    target_prob: NDArray[np.floating]  # [N, T], the target's probability of the same action
    length: NDArray[np.integer]  # [N], steps of each session, 1..T
    user: NDArray[np.integer]  # [N]
    """Sessions of one user are taken to be alike; np.arange(N) where sessions are independent."""
    gamma: float = 1.0
    """Discount per step, in 0..1."""
    ended: NDArray[np.bool_] | None = None  # [N]
    """False where a session was cut off while it ran: its rewards count, but it does not show that it ends there."""

    def __post_init__(self) -> None:
        if self.reward.ndim != 2 or self.reward.size == 0:
            raise DataError(f"logged sessions: reward {self.reward.shape}; expected (N, T), both 1 or more")
        sessions, steps = self.reward.shape
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("length", "user", "ended"), (sessions,))
        expected |= dict.fromkeys(("logged_prob", "target_prob"), (sessions, steps))
        for name, shape in expected.items():
            found = getattr(self, name)
            if found is not None and found.shape != shape:
                raise DataError(f"logged sessions: {name} {found.shape}; expected {shape}")
        for name in ("length", "user"):
            if not np.issubdtype(getattr(self, name).dtype, np.integer):
                raise DataError(f"logged sessions: {name} is {getattr(self, name).dtype}; expected whole numbers")
        if not 0 <= self.gamma <= 1:
            raise DataError(f"logged sessions: gamma is {self.gamma}; expected 0..1")
        refuse("length", self.length, (self.length >= 1) & (self.length <= steps), f"1..{steps}")
        inside = self.inside
        check_probabilities(np.where(inside, self.logged_prob, 1.0), np.where(inside, self.target_prob, 1.0))
        refuse("reward", self.reward, (np.isfinite(self.reward) | ~inside).all(axis=1), "finite numbers")

    def __len__(self) -> int:
        return len(self.reward)

    @cached_property
    def units(self) -> Units:
        """The users as units of resampling."""
        return Units.of(self.user)

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which cells are steps of a session [N, T]."""
        return np.arange(self.reward.shape[1]) < self.length[:, None]

    @cached_property
    def last(self) -> NDArray[np.bool_]:
        """Which cells are the last step of a session [N, T]."""
        return np.arange(self.reward.shape[1]) == self.length[:, None] - 1

    @cached_property
    def fittable(self) -> NDArray[np.bool_]:
        """Which steps show what follows [N, T]: all but the last of sessions that were cut off."""
        if self.ended is None:
            return self.inside
        return self.inside & ~(self.last & ~self.ended[:, None])

    @cached_property
    def paid(self) -> Array:
        """Rewards [N, T], 0 after the end."""
        return np.where(self.inside, self.reward, 0.0).astype(np.float64)

    @cached_property
    def ratio(self) -> Array:
        """pi / mu of each step [N, T], 1 after the end."""
        one = np.ones(self.reward.shape)
        return np.divide(self.target_prob, self.logged_prob, out=one, where=self.inside)

    def sessions(self, rows: NDArray[np.bool_]) -> "LoggedTrajectories":
        """Those sessions for which rows [N] is true."""
        kept = {name: getattr(self, name)[rows] for name in ("reward", "logged_prob", "target_prob", "length", "user")}
        return replace(self, **kept, ended=None if self.ended is None else self.ended[rows])


def check_probabilities(logged: NDArray[np.floating], target: NDArray[np.floating]) -> None:
    """Raise DataError unless logged [N, T] is in (0, 1] and target [N, T] in 0..1."""
    drawn = np.all((logged > 0) & (logged <= 1), axis=1)
    refuse("logged_prob", logged, np.asarray(drawn), "above 0 and at most 1, as the logging policy drew it")
    refuse("target_prob", target, np.asarray(np.all((target >= 0) & (target <= 1 + _TOLERANCE), axis=1)), "in 0..1")
