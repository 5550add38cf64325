"""The hashed linear model (hashed_linear.py) as a reward model of pairs.

It learns rewards on the scale of 0 to 1: `low` and `span` are the lowest reward and the width of the range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ArtifactError
from recpolicy.core.types import Array
from recpolicy.data.features.hashing import MAX_BITS, MIN_BITS
from recpolicy.models.hashed_linear import HashedLinear, HashedLinearConfig
from recpolicy.models.reward_model import Arrays, PairEstimate, Pairs

_COMPILED_FROM = 1 << 14
"""Pairs from which compiled code is worth loading; a request has fewer."""


@dataclass(frozen=True)
class HashedModel:
    """A hashed linear model of the reward; it learns in the order of the rounds."""

    name: ClassVar[str] = "hashed"
    sparse: ClassVar[bool] = True
    learns_online: ClassVar[bool] = True

    linear: HashedLinear
    low: float
    span: float

    @classmethod
    def untrained(
        cls, config: HashedLinearConfig, bits: int, interactions: bool, low: float, span: float
    ) -> "HashedModel":
        """Return the model without data."""
        return cls(HashedLinear(config, bits, interactions), low, span)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain values next to the arrays."""
        linear = self.linear
        return {
            **as_dict(linear.config), "bits": linear.bits, "interactions": linear.interactions, "low": self.low,
            "span": self.span,
        }  # fmt: skip

    @property
    def arrays(self) -> Arrays:
        """The rows of the table that are not zero."""
        return self.linear.arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: Mapping[str, Any], width: tuple[int, int]) -> "HashedModel":
        """Return the model of saved arrays; raises ArtifactError for arrays that no model has."""
        del width
        rest = {name: value for name, value in settings.items() if name not in ("bits", "interactions", "low", "span")}
        bits, low, span = settings["bits"], settings["low"], settings["span"]
        if type(bits) is not int or not MIN_BITS <= bits <= MAX_BITS or not span > 0:
            raise ArtifactError(f"bits is {bits!r} and span {span!r}; expected {MIN_BITS} to {MAX_BITS}, and above 0")
        linear = HashedLinear.from_arrays(HashedLinearConfig(**rest), bits, bool(settings["interactions"]), arrays)
        return cls(linear, low, span)

    def estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the predictions; the model has no uncertainty estimate."""
        del widths
        compiled = len(pairs) >= _COMPILED_FROM
        predicted = self.linear.predict(pairs.context, pairs.action, pairs.row, pairs.offer, compiled=compiled)
        return PairEstimate(self.low + self.span * predicted)

    def updated(self, pairs: Pairs, reward: Array, weight: Array) -> "HashedModel":
        """Return the model after one step for each reward [k], with the weights [k] as importance."""
        linear = self.linear.copy()
        linear.learn(pairs.context, pairs.action, pairs.row, pairs.offer, (reward - self.low) / self.span, weight)
        return replace(self, linear=linear)


def reward_scale(reward: Array, reward_range: tuple[float, float] | None) -> tuple[float, float]:
    """Return the lowest reward and the width of the range, of the rewards [n] where no range is known."""
    low, high = (np.min(reward), np.max(reward)) if reward_range is None else reward_range
    return float(low), float(high - low) or 1.0
