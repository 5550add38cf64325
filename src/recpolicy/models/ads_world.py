"""A synthetic world of ads, whose ranking formula is to be tuned. Nothing in it is measured; all numbers are assumed.

n requests, M candidate ads, K places, heads: click, long click, conversion. A request shows the K ads of highest

    U = p_opt bid + sum_e w_e p_e,   if p_opt bid >= reserve,

with predicted probabilities p, all parts scaled to 0..1 by frozen bounds; p_opt is the probability of the action that
the campaign pays for. A place without an eligible ad shows organic content. If no ad is eligible, the static weights
choose without a reserve, and the request is logged as a fallback.

Tuning can help because requests differ: how well each prediction agrees with the truth, what organic content is worth,
and how much clicks and conversions are worth to the user depend on the features. Revenue is a share of the bid per
impression, click or conversion by the type of the campaign. User value adds the coefficients below for what the user
does, and the organic value.

Source of the formula, the types and the coefficients: Yang et al. 2025 (DRL-PUT), by secondary descriptions.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Fraction, NonNegativeNumber, PositiveNumber, Seed, Size, config_dataclass
from recpolicy.core.seeds import generator
from recpolicy.data.tuning_log import TuningFeatures
from recpolicy.models.ranking_formula import ActionGrid, best_items
from recpolicy.models.tuning_policy import sigmoid

HEADS = ("click", "long_click", "conversion")
CAMPAIGN_TYPES = ("click", "conversion", "impression")
USER_VALUE = np.array([[1.0, 0.5, 0.0], [0.1, 0.4, 0.5], [0.0, 0.0, 0.0]])
"""Coefficients [type, head] of the user's value."""
OBJECTIVES = ("revenue", "user_value")
CATEGORIES = (3, 6, 4)
"""Numbers of devices, interests and parts of the day."""
NUMERIC = 4
"""Activity, tenure and two more numbers of a user, standard normal."""
TRAITS = 5
"""Of a request: quality of the three predictions, value of organic content, and whether the user browses or buys."""
GROUPED = ActionGrid((*HEADS, "reserve"), (0, 0, 1, 2), (0.0, 0.0, 0.0, 0.0), (2.0, 2.0, 2.0, 0.8), 10)
"""1,000 actions: click and long click share an index."""
FULL = ActionGrid((*HEADS, "reserve"), (0, 1, 2, 3), GROUPED.low, GROUPED.high, 10)
"""10,000 actions."""
_BASE = np.array([[0.45, 0.45, 1e-9], [0.15, 0.45, 0.4], [0.15, 0.45, 1e-9]])
"""Typical probabilities [type, head]: of a click, of a long click given a click, and of a conversion."""
_APPETITE = np.array([2.0, 2.0, 5.0], np.float32)  # largest factor of the user's value of each head
_REVENUE_SHARE = 0.2  # of a bid; the unit of revenue against that of user value
_CELLS = 1 << 16  # scores of weights and requests held at once: what the caches hold
_SPREAD = 0.7  # of the logarithms of the probabilities
_BID_SPREAD = 0.7
_PROBABILITY_BOUND, _REVENUE_BOUND = 0.9, 1.5  # frozen upper bounds of the scaling


@config_dataclass
class AdsWorldConfig:
    """Sizes and assumptions of the world."""

    ads: Size = 12
    """Candidate ads of a request, M."""
    slate_size: Size = 3
    """Places of a request, K."""
    heterogeneity: NonNegativeNumber = 6.0
    """Strength with which the quality of the predictions depends on the features; 0: the same in every request."""
    quality: Fraction = 0.8
    """Correlation of a prediction with the truth in a request of average features."""
    organic: PositiveNumber = 0.8
    """Value of organic content to a user of average features."""
    world_seed: Seed = 0
    """Seed of the world's coefficients; the requests have another."""


@dataclass(frozen=True)
class AdRequests:
    """n requests with their candidates."""

    features: TuningFeatures
    type: NDArray[np.int8]  # [n, M]
    bid: NDArray[np.float32]  # [n, M]
    predicted: NDArray[np.float32]  # [n, M, 3]
    true: NDArray[np.float32]  # [n, M, 3]
    organic: NDArray[np.float32]  # [n] value of a place without an ad
    appetite: NDArray[np.float32]  # [n, 3] factor of the user's value of each head

    def __len__(self) -> int:
        """Return n."""
        return len(self.type)

    def take(self, rows: "slice | NDArray[np.integer]") -> "AdRequests":
        """Return some of the requests."""
        others = (getattr(self, part.name)[rows] for part in fields(self) if part.name != "features")
        return AdRequests(self.features.take(rows), *others)


class AdsWorld:
    """The fixed coefficients of a world; it draws requests, serves them and pays."""

    def __init__(self, config: AdsWorldConfig | None = None):
        self.config = config = config or AdsWorldConfig()
        rng = generator(config.world_seed, "ads world")
        strength = config.heterogeneity
        self._tables = [strength * 0.5 * rng.normal(size=(size, TRAITS)).astype(np.float32) for size in CATEGORIES]
        self._slope = (strength * 0.5 * rng.normal(size=(NUMERIC, TRAITS))).astype(np.float32)

    def requests(self, count: int, rng: np.random.Generator) -> AdRequests:
        """Draw n requests."""
        config, shape = self.config, (count, self.config.ads)
        categorical = np.stack([rng.integers(size, size=count) for size in CATEGORIES], axis=1).astype(np.int32)
        numeric = rng.standard_normal((count, NUMERIC), np.float32)
        traits = numeric @ self._slope
        for table, column in zip(self._tables, categorical.T, strict=True):
            traits += table[column]
        center = np.log(config.quality / (1 - min(config.quality, 1 - 1e-6)))
        quality = sigmoid(traits[:, :3] + np.float32(center))[:, np.newaxis]  # [n, 1, 3]
        organic = np.float32(config.organic) * 2 * sigmoid(traits[:, 3])
        appetite = _APPETITE * sigmoid(traits[:, 4:] * np.array([1, 1, -1], np.float32))
        signal = rng.standard_normal((*shape, 3), np.float32)
        noise = rng.standard_normal((*shape, 3), np.float32)
        truth = quality * signal + np.sqrt(1 - np.square(quality)).astype(np.float32) * noise
        bid = np.exp(np.float32(_BID_SPREAD) * rng.standard_normal(shape, np.float32) - np.float32(_BID_SPREAD**2 / 2))
        kind = rng.integers(3, size=shape).astype(np.int8)
        return AdRequests(
            TuningFeatures(categorical, numeric, CATEGORIES), kind, bid, _probabilities(signal, kind),
            _probabilities(truth, kind), organic.astype(np.float32), appetite,
        )  # fmt: skip

    def serve(
        self, requests: AdRequests, weights: NDArray[np.floating], static: NDArray[np.floating]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the ads shown [n, K], -1 for organic content, and where the fallback served [n].

        Args:
            requests: n requests.
            weights: [n, 4], of the heads and the reserve.
            static: [4], the static weights, whose reserve is left out.
        """
        value, heads = _scaled(requests)
        eligible = value >= weights[:, 3:].astype(np.float32)
        fallback = np.asarray(~eligible.any(axis=1))
        used = np.where(fallback[:, np.newaxis], static[:3], weights[:, :3]).astype(np.float32)
        score = value + np.matmul(heads, used[:, :, np.newaxis])[:, :, 0]
        score = np.where(eligible | fallback[:, np.newaxis], score, -np.inf)
        return best_items(score, self.config.slate_size), fallback

    def expected(self, requests: AdRequests, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the expected objectives [n, 2] of ads shown [n, K]."""
        revenue, value = _worth(requests, requests.true)
        return _sums(slate, revenue, value, requests.organic)

    def draw(self, requests: AdRequests, slate: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw what users do with the ads shown [n, K], and return the objectives [n, 2]."""
        place = np.maximum(slate, 0)[:, :, np.newaxis]
        chance = np.take_along_axis(requests.true, place, axis=1)  # [n, K, 3]
        points = rng.random(chance.shape, np.float32)
        points[:, :, 1] = points[:, :, 0]  # a long click is a click
        done = points < chance
        shown = AdRequests(
            requests.features, np.take_along_axis(requests.type, place[:, :, 0], axis=1),
            np.take_along_axis(requests.bid, place[:, :, 0], axis=1), chance, chance, requests.organic,
            requests.appetite,
        )  # fmt: skip
        revenue, value = _worth(shown, done.astype(np.float32))
        places = np.where(slate >= 0, np.arange(slate.shape[1]), -1).astype(np.int32)
        return _sums(places, revenue, value, requests.organic)

    def action_values(
        self, requests: AdRequests, grid: ActionGrid, static: NDArray[np.floating], at_once: int = 1 << 23
    ) -> NDArray[np.float32]:
        """Return the expected objectives [n, A, 2] of every grid point, by enumeration."""
        count, actions = len(requests), grid.size
        result = np.empty((count, actions, 2), np.float32)
        step = max(1, at_once // (actions * self.config.ads))
        for first in range(0, count, step):
            part = requests.take(slice(first, first + step))
            index = np.repeat(np.arange(len(part)), actions)
            many = part.take(index)
            slate, _ = self.serve(many, np.tile(grid.all_weights, (len(part), 1)), static)
            result[first : first + step] = self.expected(many, slate).reshape(len(part), actions, 2)
        return result

    def slate_shares(
        self, requests: AdRequests, slate: NDArray[np.int32], grid: ActionGrid, static: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return the share [n] of the grid points that show these slates [n, K]: their propensity in a uniform log.

        For C weight vectors of the heads, a slate is shown at the reserves above which every better ad outside of it
        drops out, and below which all of its own ads are eligible. Counting these costs n C M instead of n A M.

        Args:
            requests: n requests.
            slate: [n, K], -1 for organic content.
            grid: A grid whose last group is the reserve.
            static: [4], the static weights of the fallback.
        """
        points = grid.all_weights.reshape(-1, grid.points, len(grid.names)).astype(np.float32)
        columns, reserves = points[:, 0, :3].T, points[0, :, 3]  # [3, C], [N]
        value, heads = _scaled(requests)
        level = np.searchsorted(reserves, value, side="right").astype(np.int8)  # [n, M] reserves that leave an ad in
        above_all = np.tile([0.0, 0.0, 0.0, np.inf], (len(slate), 1))
        fallback = (slate == self.serve(requests, above_all, static)[0]).all(axis=1)
        total = fallback * columns.shape[1] * (grid.points - level.max(axis=1).astype(np.float64))
        step = max(1, _CELLS // columns.shape[1])
        for first in range(0, len(slate), step):
            rows = slice(first, first + step)
            total[rows] += _reserves_that_show(value[rows], heads[rows] @ columns, level[rows], slate[rows])
        return np.maximum(total, 1.0) / grid.size


def _reserves_that_show(
    value: NDArray[np.float32], head_score: NDArray[np.float32], level: NDArray[np.int8], slate: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return for how many weights and reserves [n] these slates [n, K] are shown, without fallbacks.

    Args:
        value: [n, M].
        head_score: [n, M, C], weighted heads.
        level: [n, M], number of reserves at which an ad is eligible.
        slate: [n, K].
    """
    row, shown = np.arange(len(slate)), slate >= 0
    score = head_score + value[:, :, np.newaxis]
    place = np.maximum(slate, 0)
    ordered = np.ones((len(slate), score.shape[2]), bool)
    for before, after in zip(range(slate.shape[1]), range(1, slate.shape[1]), strict=False):
        upper, lower = score[row, place[:, before]], score[row, place[:, after]]
        first = (place[:, before] < place[:, after])[:, np.newaxis]  # of equal scores, the first ad
        ordered &= np.where(first, upper >= lower, upper > lower) | ~shown[:, after, np.newaxis]
    full, last = shown[:, -1], place[:, -1]
    limit = np.where(full[:, np.newaxis], score[row, last], -np.inf)  # a place without an ad: no ad is left
    blocked = np.zeros(limit.shape, np.int8)
    for ad in range(value.shape[1]):
        outside = (slate != ad).all(axis=1)
        first = (full & (ad < last))[:, np.newaxis]
        better = np.where(first, score[:, ad] >= limit, score[:, ad] > limit)
        own = np.where(outside, level[:, ad], 0).astype(np.int8)
        np.maximum(blocked, own[:, np.newaxis] * better, out=blocked)
    lowest = np.where(shown, np.take_along_axis(level, place, axis=1), np.iinfo(np.int8).max).min(axis=1)
    return np.asarray((np.maximum(lowest[:, np.newaxis] - blocked, 0) * ordered).sum(axis=1, dtype=np.int64))


def _probabilities(z: NDArray[np.floating], kind: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return P(click), P(long click), P(conversion) [n, M, 3] of standard normal signals and types [n, M].

    A long click needs a click. Only campaigns that pay for conversions can have one.
    """
    base = np.log(_BASE).astype(np.float32)[kind]
    part = np.minimum(np.exp(np.float32(_SPREAD) * z + base), np.float32(0.95))
    part[..., 1] *= part[..., 0]
    return np.asarray(part, np.float32)


def _paid_for(requests: AdRequests, chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability [n, M] of the action that each campaign pays for."""
    return np.where(requests.type == 0, chance[:, :, 0], np.where(requests.type == 1, chance[:, :, 2], np.float32(0.2)))


def _scaled(requests: AdRequests) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return expected revenue [n, M] and heads [n, M, 3] by the predictions, on 0..1."""
    value = np.minimum(_paid_for(requests, requests.predicted) * requests.bid / np.float32(_REVENUE_BOUND), 1.0)
    return value.astype(np.float32), np.minimum(requests.predicted / np.float32(_PROBABILITY_BOUND), np.float32(1.0))


def _worth(requests: AdRequests, chance: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return revenue and user value [n, M] of the ads, given the probabilities of the user's actions, or 0 and 1."""
    revenue = np.float32(_REVENUE_SHARE) * _paid_for(requests, chance) * requests.bid
    coefficient = USER_VALUE.astype(np.float32)[requests.type]  # [n, M, 3]
    return revenue, np.asarray((coefficient * chance * requests.appetite[:, np.newaxis]).sum(axis=2))


def _sums(
    slate: NDArray[np.int32], revenue: NDArray[np.float32], value: NDArray[np.float32], organic: NDArray[np.float32]
) -> NDArray[np.float64]:
    shown, place = slate >= 0, np.maximum(slate, 0)
    earned = np.where(shown, np.take_along_axis(revenue, place, axis=1), 0.0).sum(axis=1)
    worth = np.where(shown, np.take_along_axis(value, place, axis=1), organic[:, np.newaxis]).sum(axis=1)
    return np.stack([earned, worth], axis=1).astype(np.float64)
