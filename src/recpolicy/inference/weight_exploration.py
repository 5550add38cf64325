"""Weights of a ranking formula drawn uniformly from a grid, on a share of the requests: the log that tuning needs.

A drawn list is the best one under its weights, so the probability of the weights is 1 / A within the share, whatever
the policy and its layer would serve. H heads, A grid points, F numeric features.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, Fraction, Number, config_dataclass
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.inference.block_prediction import BatchScores
from recpolicy.inference.ranking_utility import HEADS, RankingUtility
from recpolicy.inference.scorer import Prediction, Scorer
from recpolicy.inference.tuned_layer import SCORE, UserFeatures
from recpolicy.inference.tuned_scorer import TunedScorer
from recpolicy.models.ranking_formula import MAX_ACTIONS, ActionGrid


@config_dataclass
class TuningConfig:
    """Exploration of the weights of a ranking formula, and the time that a tuned layer may take."""

    explore_share: Fraction = 0.0
    """Share of the requests, 0..1, that are ranked by weights drawn uniformly from the grid; 0.005 is usual."""
    heads: tuple[str, ...] = ()
    """Heads to weigh if the serving version has no tuned layer; a layer brings its own heads and grid."""
    low: Number = 0.0
    """Lowest weight of every head; the policy's own score has weight 1."""
    high: Number = 1.0
    """Highest weight of every head."""
    points: Count = 4
    """Points of each weight, evenly spaced."""
    timeout_ms: Number = 50.0
    """Time for a layer to choose weights; above it, the static weights serve for half a minute."""

    def __post_init__(self) -> None:
        for name in self.heads:
            if name == SCORE:
                raise ConfigError(f"heads: {SCORE} always has weight 1; leave it out")
            if name not in HEADS:
                raise unknown_name_error("head", name, HEADS)
        if self.timeout_ms <= 0:
            raise ConfigError(f"timeout_ms is {self.timeout_ms:g}; expected a number above 0")
        if self.heads and (size := self.grid().size) > MAX_ACTIONS:
            raise ConfigError(
                f"{self.points} points of {len(self.heads)} heads are {size:,} weight vectors; expected at most"
                f" {MAX_ACTIONS:,}: take fewer points or heads"
            )

    def grid(self) -> ActionGrid:
        """Return the grid of the heads; raises ConfigError for heads that occur twice, or bounds that do not ascend."""
        count = len(self.heads)
        return ActionGrid.full(self.heads, [float(self.low)] * count, [float(self.high)] * count, self.points)


@dataclass(frozen=True)
class DrawnWeights:
    """The utilities of one request under drawn weights."""

    score: Array  # [A]
    record: dict[str, Any]
    """The entry of a log of weights, as JSON-able values."""
    values: dict[str, float]
    """The weights by head."""


@dataclass(frozen=True, eq=False)
class WeightExploration:
    """A ranking formula of one policy, whose weights are drawn."""

    utility: RankingUtility
    grid: ActionGrid
    features: UserFeatures

    @classmethod
    def of(cls, scorer: Scorer, config: TuningConfig) -> "WeightExploration | None":
        """Return the formula of a layer, or that of the settings; None if nothing is to be explored.

        Raises:
            ConfigError: The policy recommends in sessions.
            DataError: A head has one value for every user and item.
        """
        if config.explore_share == 0:
            return None
        if isinstance(scorer, TunedScorer):
            layer = scorer.layer
            return cls(layer.utility, layer.policy.grid, layer.features)
        if not config.heads:
            return None
        if scorer.sequential:
            raise ConfigError("weights are explored for policies of single rounds only, not for session policies")
        return cls(RankingUtility(scorer, (SCORE, *config.heads)), config.grid(), UserFeatures.fit(scorer))

    def draw(
        self, answer: BatchScores | Prediction, user: Hashable, context: NDArray[np.floating],
        rated: NDArray[np.int32], rng: np.random.Generator,
    ) -> DrawnWeights:  # fmt: skip
        """Draw the weights of one request.

        Args:
            answer: What the policy, without a layer, predicts for the user.
            user: Id of the user.
            context: [1, C].
            rated: Item rows that the user rated.
            rng: Source of the draw.
        """
        action = int(rng.integers(self.grid.size))
        block = BatchScores(answer.rating[np.newaxis], answer.std[np.newaxis], None, answer.score[np.newaxis])
        weights = self.grid.weights(action)
        full = np.concatenate([[1.0], weights])[np.newaxis]
        score, complete = self.utility.rank_block(block, [user], [rated], full)
        features = self.features.of_contexts(self.utility.scorer, context, np.array([len(rated)], np.float64))
        record = {
            "action": action, "propensity": 1.0 / self.grid.size, "fallback": not complete[0], "explored": True,
            "grid": self.grid.as_dict(), "scaling": self.utility.scaling.as_dict(),
            "categorical": features.categorical[0].tolist(),
            "numeric": [round(value, 7) for value in features.numeric[0].tolist()],
        }  # fmt: skip
        return DrawnWeights(score[0], record, dict(zip(self.grid.names, weights.tolist(), strict=True)))
