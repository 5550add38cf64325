"""The contract of reward models over features of contexts and actions.

n contexts, m actions, k pairs of a context and an action. A reward model estimates the reward of each pair, and how
well it knows it. Models are immutable: `updated` returns a new one. They need NumPy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Pairs:
    """k pairs of n encoded contexts and m encoded actions."""

    context: Any  # float [n, C], or SparseRows of n rows
    action: Any  # float [m, D], or SparseRows of m rows
    action_id: NDArray[np.object_]  # [m], text or whole numbers
    row: NDArray[np.integer[Any]]  # [k], row of `context`
    offer: NDArray[np.integer[Any]]  # [k], row of `action`

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.row)

    def take(self, chosen: NDArray[Any]) -> "Pairs":
        """Return some of the pairs, by position or mask [k]."""
        return replace(self, row=self.row[chosen], offer=self.offer[chosen])


@dataclass(frozen=True)
class PairEstimate:
    """Estimated rewards of k pairs."""

    mean: Array  # [k]
    width: Array | None = None  # [k] standard deviation in units of the reward noise; None where it is not modeled


class RewardModel(Protocol):
    """A model of the reward of pairs."""

    name: ClassVar[str]
    """Its key in `recpolicy.models.reward_models.REWARD_MODELS`, which artifacts name."""
    sparse: ClassVar[bool]
    """True if it reads hashed features (SparseRows); otherwise it reads dense ones."""
    learns_online: ClassVar[bool]
    """True if `updated` takes in further rewards."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain values that it needs next to its arrays."""

    @property
    def arrays(self) -> Arrays:
        """Its arrays by name."""

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: Mapping[str, Any], width: tuple[int, int]) -> "RewardModel":
        """Return the model of saved arrays; `width` is that of contexts and of actions.

        Raises:
            ArtifactError: The arrays do not fit each other or the widths.
        """

    def estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the estimates of the pairs; without `widths`, only the means."""

    def updated(self, pairs: Pairs, reward: Array, weight: Array) -> "RewardModel":
        """Return the model after rewards [k] of pairs in their order, with importance weights [k].

        Raises:
            ConfigError: The model does not learn online.
        """
