"""Events of the planted world one after the other, and regret. NumPy only, because VW's Python uses it, too."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "own_features"))

from worlds import World, planted

Array = NDArray[np.float64]
MARKS = (1_000, 5_000, 10_000, 20_000, 50_000)
"""Numbers of events after which the regret is reported."""


@dataclass(frozen=True)
class Rounds:
    """Events of a planted world with the luck of draws and rewards, the same for all learners."""

    world: World
    draw: Array  # [N] decides the choice of an action
    luck: Array  # [N] the reward is 1 where it is below the true mean
    lost: Array  # [N, A] true mean reward of the best action less that of each

    def reward(self, row: int, chosen: int) -> float:
        """Return the reward of an action in an event."""
        return float(self.luck[row] < self.world.expected[row, chosen])


def rounds_of(events: int, seed: int) -> Rounds:
    """Return some events of the planted world of a seed."""
    world, rng = planted(events, seed), np.random.default_rng([seed, 5])
    draw, luck = rng.random(events), rng.random(events)
    return Rounds(world, draw, luck, world.expected.max(axis=1, keepdims=True) - world.expected)


def regret_at_marks(lost: Array) -> dict[str, float]:
    """Return the regret after each mark, from that of each event [N]."""
    return {str(mark): round(float(lost[:mark].sum()), 1) for mark in MARKS if mark <= len(lost)}


def vw_lines(world: World) -> tuple[list[str], list[str]]:
    """Return the contexts [N] and the actions [A] in VW's text format."""
    contexts = [f"shared |c {_features('c', row)}" for row in world.context.numbers.tolist()]
    return contexts, [f"|a {_features('a', row)}" for row in world.actions.numbers.tolist()]


def _features(prefix: str, values: Sequence[float]) -> str:
    return " ".join(f"{prefix}{place}:{value:.4f}" for place, value in enumerate(values))
