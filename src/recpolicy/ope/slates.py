"""What off-policy estimators of slates read: N logged slates of K slots, and the target's chances of their items."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.ope.rounds import Units, refuse
from recpolicy.ope.trajectories import LoggedTrajectories, check_probabilities
from recpolicy.ope.weights import importance_weights

Array = NDArray[np.float64]
_TOLERANCE = 1e-6  # of rewards that should add up, times their size


@dataclass(frozen=True)
class LoggedSlates:
    """N slates in the order in which they were logged."""

    logged_prob: NDArray[np.floating]  # [N, K], of each slot's item; where not independent, given the slots before it
    target_prob: NDArray[np.floating]  # [N, K], the target's probability of the same items
    reward: NDArray[np.floating]  # [N], of the whole slate
    user: NDArray[np.integer]  # [N]
    """Slates of one user are taken to be alike, users to be independent; np.arange(N) where slates are independent."""
    slot_reward: NDArray[np.floating] | None = None  # [N, K], adds up to `reward`
    """Needed by iips, rips and cascade_dr."""
    independent: bool = True
    """Whether each slot was filled without regard to the others, as from shelves with separate items."""
    pseudo_weight: NDArray[np.floating] | None = None  # [N]
    """Weights of pseudo_inverse.py; the pseudo-inverse estimators need them where slots are not independent."""

    def __post_init__(self) -> None:
        slates = len(self.reward)
        if slates == 0:
            raise DataError("logged slates: no slates")
        if self.logged_prob.ndim != 2 or len(self.logged_prob) != slates or self.logged_prob.shape[1] == 0:
            raise DataError(f"logged slates: logged_prob {self.logged_prob.shape}; expected ({slates}, K), K >= 1")
        expected = dict.fromkeys(("reward", "user", "pseudo_weight"), (slates,))
        expected |= dict.fromkeys(("target_prob", "slot_reward"), self.logged_prob.shape)
        for name, shape in expected.items():
            found = getattr(self, name)
            if found is not None and found.shape != shape:
                raise DataError(f"logged slates: {name} {found.shape}; expected {shape}")
        if not np.issubdtype(self.user.dtype, np.integer):
            raise DataError(f"logged slates: user is {self.user.dtype}; expected whole numbers")
        check_probabilities(self.logged_prob, self.target_prob)
        refuse("reward", self.reward, np.isfinite(self.reward), "a finite number")
        if self.pseudo_weight is not None:
            refuse("pseudo_weight", self.pseudo_weight, np.isfinite(self.pseudo_weight), "a finite number")
            if self.independent:
                raise DataError("logged slates: pseudo_weight is for slots that are not independent=True; give one")
        self._check_slots()

    def __len__(self) -> int:
        return len(self.reward)

    @cached_property
    def units(self) -> Units:
        """The users as units of resampling."""
        return Units.of(self.user)

    @cached_property
    def ratio(self) -> Array:
        """Y = pi / mu of each slot [N, K]."""
        return importance_weights(self.target_prob, self.logged_prob)

    def trajectories(self) -> LoggedTrajectories:
        """The slates as sessions of K steps without discount, as the models of cascade_dr see them.

        Raises DataError without slot rewards.
        """
        if self.slot_reward is None:
            raise DataError("logged slates: no slot_reward; cascade forms need what each slot earned")
        length = np.full(len(self), self.logged_prob.shape[1])
        return LoggedTrajectories(self.slot_reward, self.logged_prob, self.target_prob, length, self.user)

    def _check_slots(self) -> None:
        if self.slot_reward is None:
            return
        total = self.slot_reward.sum(axis=1, dtype=np.float64)
        room = _TOLERANCE * (1 + np.abs(self.slot_reward).sum(axis=1))
        refuse("reward", self.reward, np.abs(total - self.reward) <= room, "the sum of the slate's slot rewards")
