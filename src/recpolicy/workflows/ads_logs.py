"""Logs of weights in the synthetic world of ads: to learn from, and held out with what their slates need.

N requests, K places. A held-out log keeps the candidates of its requests, so that the slate of any grid point is known:
a hit is a request that was shown the slate that the policy would have shown (evaluation/hit_values.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.agents.utility_tuning import gaussian_actions, uniform_actions
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import TuningLog
from recpolicy.evaluation.hit_values import Hits
from recpolicy.models.ads_world import OBJECTIVES, AdRequests, AdsWorld
from recpolicy.models.ranking_formula import ActionGrid

_LOGGED_STD = 0.3  # of a Gaussian log, in the unit cube
_BLOCK = 50_000  # requests drawn and served at once
STATIC = np.array([1.0, 1.0, 1.0, 0.0])
"""Static weights of the fallback."""


@dataclass(frozen=True)
class HeldOutAds:
    """A held-out log of N requests, with their candidates and slates in blocks."""

    world: AdsWorld
    grid: ActionGrid
    log: TuningLog
    shown: tuple[tuple[AdRequests, NDArray[np.int32]], ...]

    def hits(self, action: NDArray[np.integer]) -> Hits:
        """Return the slate hits of a policy that would serve `action` [N]."""
        match, first = [], 0
        for requests, slate in self.shown:
            weights = self.grid.weights(action[first : first + len(requests)])
            match.append((self.world.serve(requests, weights, STATIC)[0] == slate).all(axis=1))
            first += len(requests)
        return Hits(np.concatenate(match), self.propensity)

    @cached_property
    def propensity(self) -> Array:
        """Probability [N] of each slate in the log."""
        parts = [self.world.slate_shares(requests, slate, self.grid, STATIC) for requests, slate in self.shown]
        return np.concatenate(parts)


def draw_ads_log(
    world: AdsWorld, grid: ActionGrid, count: int, rng: np.random.Generator, *, gaussian: bool = False
) -> TuningLog:
    """Return a log of N requests, each ranked by its own grid point: uniform, or Gaussian around the static weights."""
    return TuningLog.joined(log for log, _ in _blocks(world, grid, count, rng, gaussian=gaussian))


def draw_held_out(world: AdsWorld, grid: ActionGrid, count: int, rng: np.random.Generator) -> HeldOutAds:
    """Return a log as `draw_ads_log` does, with the candidates and slates of its requests."""
    logs, shown = zip(*_blocks(world, grid, count, rng), strict=True)
    return HeldOutAds(world, grid, TuningLog.joined(logs), shown)


def _blocks(
    world: AdsWorld, grid: ActionGrid, count: int, rng: np.random.Generator, *, gaussian: bool = False
) -> Iterator[tuple[TuningLog, tuple[AdRequests, NDArray[np.int32]]]]:
    """Draw a log block by block; yield each with its requests and slates."""
    for first in range(0, count, _BLOCK):
        requests = world.requests(min(_BLOCK, count - first), rng)
        if gaussian:
            center = grid.unit(grid.nearest_weights(STATIC))
            action, propensity = gaussian_actions(grid, len(requests), center, _LOGGED_STD, rng)
        else:
            action, propensity = uniform_actions(grid, len(requests), rng)
        slate, fallback = world.serve(requests, grid.weights(action), STATIC)
        objectives = world.draw(requests, slate, rng)
        log = TuningLog(
            requests.features, action, propensity, objectives.sum(axis=1), objectives, OBJECTIVES, fallback, grid.size
        )
        yield log, (requests, slate)
