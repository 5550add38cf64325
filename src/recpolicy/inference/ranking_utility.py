"""Rank the items of any trained policy by a weighted utility of heads; the policy itself does not change.

n users, I items, A items of the catalog, H heads, K places. Heads come from the policy, from its tables, or from files
of the user. models/ranking_formula.py has their scaling, the weights and their grid. NumPy only, apart from own files.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.normal import normal_cdf
from recpolicy.core.types import Array
from recpolicy.inference.block_prediction import BatchPrediction, BatchScores, arms_except, rating_spread
from recpolicy.inference.scorer import FoldIn, Scorer
from recpolicy.models.ranking_formula import HeadScaling, best_items, utility

if TYPE_CHECKING:
    import pandas as pd

Scores = BatchPrediction | BatchScores
Rated = Sequence[NDArray[np.int32]]
"""The item rows that each user rated."""

_LIKE, _DISLIKE, _HALF_STEP = 0.75, 0.25, 0.125  # of the rating scale: 4, 2 and half a point of 1 to 5
_USERS_TO_FIT = 2_000
"""Users, evenly spaced, whose heads set the bounds of the scaling."""


@dataclass(frozen=True)
class OwnHeads:
    """Heads from files: per user and item, and per item."""

    pair: Mapping[str, NDArray[np.float64]]  # [U, I] each, NaN where the file has no row
    item: Mapping[str, NDArray[np.float64]]  # [I] each, NaN where the table has no row


NO_OWN_HEADS = OwnHeads({}, {})


def _probability_above(scorer: Scorer, block: Scores, share: float, strict: bool) -> Array:
    """Return P(one rating >= a share of the scale) [n, A], or > the share with `strict`."""
    rating, std = (part[:, scorer.action_items] for part in (block.rating, block.std))
    low, high = scorer.scale
    limit, parts = low + share * (high - low), scorer.artifact
    if parts.levels is not None:
        values = np.array(parts.levels.values)
        chosen = values > limit if strict else values >= limit
        return np.asarray(parts.levels.probability_of(tuple(chosen.tolist()), rating, std), np.float64)
    margin = _HALF_STEP * (high - low) * (1 if strict else -1)
    return np.asarray(normal_cdf((rating - (limit + margin)) / rating_spread(parts, rating, std)))


def _unit_rows(values: Array) -> Array:
    """Return the rows with length 1; 0 where a row is 0."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)


def _rated_counts(scorer: Scorer) -> Array:
    return np.bincount(scorer.artifact.rated_item, minlength=len(scorer.item_ids)).astype(np.float64)


def _popularity(scorer: Scorer) -> Array:
    count = _rated_counts(scorer)
    return np.asarray(count[scorer.action_items] / max(count.max(), 1.0))


def item_information(scorer: Scorer) -> Array:
    """Return the self-information [I] in bits of meeting a user who rated the item."""
    return np.asarray(-np.log2((_rated_counts(scorer) + 1) / (len(scorer.user_ids) + 1)))


def _novelty(scorer: Scorer) -> Array:
    return np.asarray(item_information(scorer)[scorer.action_items])


def _recency(scorer: Scorer) -> Array:
    """Return the year [A] of each item; the mean year where it is unknown."""
    years = np.asarray(scorer.years, np.float64)[scorer.action_items]
    known = np.isfinite(years)
    return np.where(known, years, years[known].mean() if known.any() else 0.0)


_OF_PREDICTION: Mapping[str, Callable[[Scorer, Scores], Array]] = {
    "score": lambda _, block: np.asarray(block.score, np.float64),
    "rating": lambda scorer, block: np.asarray(block.rating[:, scorer.action_items], np.float64),
    "like": lambda scorer, block: _probability_above(scorer, block, _LIKE, strict=False),
    "top": lambda scorer, block: _probability_above(scorer, block, 1.0, strict=False),
    "no_dislike": lambda scorer, block: _probability_above(scorer, block, _DISLIKE, strict=True),
}
_OF_ITEM: Mapping[str, Callable[[Scorer], Array]] = {
    "popularity": _popularity, "novelty": _novelty, "recency": _recency,
}  # fmt: skip
HEADS = (*_OF_PREDICTION, "genre_match", *_OF_ITEM)
"""score: what the policy is greedy in; like, top: P(rating in the upper quarter, highest rating); no_dislike: 1 -
P(rating in the lowest quarter); novelty in bits; genre_match: cosine with the genres that the user rated."""


@dataclass(frozen=True)
class UtilitySlates:
    """The slates of n users."""

    arms: NDArray[np.int32]  # [n, K] places in the catalog, -1 where too few items are eligible
    fallback: NDArray[np.bool_]  # [n] True where the reserve left nothing, and the static weights chose


class RankingUtility:
    """Heads of one policy with frozen scaling; it turns weight vectors into slates."""

    def __init__(
        self, scorer: Scorer, heads: Sequence[str], own: OwnHeads = NO_OWN_HEADS, scaling: HeadScaling | None = None,
        reserve_head: str | None = None,
    ):  # fmt: skip
        """Choose the heads and fit their scaling.

        Args:
            scorer: The policy.
            heads: Names among HEADS and the own heads.
            own: Heads from files (`read_own_heads`).
            scaling: Bounds from before; without them, they are fitted on users of the policy.
            reserve_head: Head that an item's value must reach, on 0..1, to be eligible.

        Raises:
            ConfigError: A head is unknown or occurs twice.
            DataError: A head has NaN, or one value for every user and item.
        """
        known = (*HEADS, *own.pair, *own.item)
        for name in heads:
            if name not in known:
                raise unknown_name_error("head", name, known)
        if not heads or len(set(heads)) != len(heads):
            raise ConfigError(f"heads {list(heads)}: expected one or more, each once")
        if reserve_head is not None and reserve_head not in heads:
            raise unknown_name_error("head", reserve_head, heads)
        if scaling is not None and scaling.names != tuple(heads):
            raise ConfigError(f"scaling of {list(scaling.names)}; expected that of {list(heads)}")
        self.scorer, self.names, self.own, self.reserve_head = scorer, tuple(heads), own, reserve_head
        self.scaling = scaling or self._fitted()

    def _fitted(self) -> HeadScaling:
        ids = list(self.scorer.user_ids)
        return HeadScaling.fit(self.names, self.raw_heads(ids[:: -(-len(ids) // _USERS_TO_FIT)]))

    @cached_property
    def _of_items(self) -> dict[str, Array]:
        """Heads [A] that are alike for all users."""
        arms = self.scorer.action_items
        own = {name: column[arms] for name, column in self.own.item.items() if name in self.names}
        return own | {name: head(self.scorer) for name, head in _OF_ITEM.items() if name in self.names}

    def raw_heads(self, users: Sequence[Hashable], fold_in: FoldIn | None = None) -> NDArray[np.float32]:
        """Return heads [n, A, H] in their own units; raises UnknownIdError."""
        users = list(users)
        parts, start = [], 0
        for block in self.scorer.predict_batches(users, fold_in):
            some = users[start : start + len(block.score)]
            rated = [self.scorer.rated(user, fold_in) for user in some]
            parts.append(self.heads_of_block(block, some, rated))
            start += len(some)
        return np.concatenate(parts)

    def heads_of_block(self, block: Scores, users: Sequence[Hashable], rated: Rated) -> NDArray[np.float32]:
        """Return heads [n, A, H] in their own units, from what the policy predicts for n users; raises UnknownIdError.

        Args:
            block: The predictions of the policy, without a tuned layer.
            users: Their ids.
            rated: The item rows that each of them rated.
        """
        unknown = [user for user in users if self.scorer.user_row(user) is None]
        if unknown and any(name in self.own.pair for name in self.names):
            raise self.scorer.unknown_user_error(unknown, "own heads describe known users only")
        result = np.empty((*block.score.shape, len(self.names)), np.float32)
        for place, name in enumerate(self.names):
            result[:, :, place] = self._head(name, block, users, rated)
        return result

    def _head(self, name: str, block: Scores, users: Sequence[Hashable], rated: Rated) -> Array:
        """Return one head [n, A], or [A] if it is alike for all users, in its own unit; NaN where it has no value."""
        if name in _OF_PREDICTION:
            return _OF_PREDICTION[name](self.scorer, block)
        if name == "genre_match":
            return self._genre_match(rated)
        if name in self.own.pair:
            rows = [self.scorer.user_row(user) for user in users]
            known = np.array([-1 if row is None else row for row in rows], np.int64)
            values = self.own.pair[name][np.ix_(known, self.scorer.action_items)]
            return np.where(known[:, np.newaxis] < 0, np.nan, values)
        return self._of_items[name]

    @cached_property
    def _scaled_of_items(self) -> dict[str, NDArray[np.float32]]:
        """Heads [A] on 0..1 that are alike for all users."""
        return {name: self._on_unit(name, column) for name, column in self._of_items.items()}

    def _on_unit(self, name: str, values: Array) -> NDArray[np.float32]:
        place = self.names.index(name)
        low, width = self.scaling.low[place], self.scaling.high[place] - self.scaling.low[place]
        scaled = (values - low) * (1 / width) if width > 0 else np.zeros_like(values)
        return np.clip(scaled, 0.0, 1.0, out=scaled).astype(np.float32)

    @cached_property
    def _unit_genres(self) -> tuple[Array, Array]:
        """Genres of length 1 of all items [I, G], and of the catalog [G, A]."""
        unit = _unit_rows(np.asarray(self.scorer.genres, np.float64))
        return unit, np.ascontiguousarray(unit[self.scorer.action_items].T)

    def _genre_match(self, rated: Rated) -> Array:
        """Return the cosine [n, A] of each item's genres and the mean genres of the items that the user rated."""
        unit, columns = self._unit_genres
        profile = np.stack([unit[rows].sum(axis=0) for rows in rated])
        return np.asarray(_unit_rows(profile) @ columns)

    def heads(self, users: Sequence[Hashable], fold_in: FoldIn | None = None) -> NDArray[np.float32]:
        """Return heads [n, A, H] on 0..1; raises UnknownIdError, and DataError where an own head is missing."""
        return self.scaled(self.raw_heads(users, fold_in), users)

    def scaled(self, raw: NDArray[np.float32], users: Sequence[Hashable]) -> NDArray[np.float32]:
        """Return heads [n, A, H] on 0..1; raises DataError for a value that is missing."""
        if not np.isfinite(raw).all():
            user, arm, head = (int(place[0]) for place in np.nonzero(~np.isfinite(raw)))
            item = self.scorer.item_ids[self.scorer.action_items[arm]]
            raise DataError(f"head {self.names[head]!r} has no value for user {users[user]} and item {item}")
        return np.asarray(self.scaling.scale(raw), np.float32)

    def rank_block(
        self, block: Scores, users: Sequence[Hashable], rated: Rated, weights: Array
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the utilities [n, A] under weights [n, H], and True [n] for users who have all heads.

        The policy's own score ranks for users who lack a head.
        """
        total = np.zeros(block.score.shape, np.float32)
        for place, name in enumerate(self.names):
            head = self._scaled_of_items.get(name)
            if head is None:
                head = self._on_unit(name, self._head(name, block, users, rated))
            total += weights[:, place, np.newaxis].astype(np.float32) * head
        score = np.asarray(total, np.float64)
        complete = np.asarray(np.isfinite(score).all(axis=1))
        if not complete.all():
            score = np.where(complete[:, np.newaxis], score, block.score)
        return score, complete

    def slates(
        self, users: Sequence[Hashable], weights: Array, k: int, *, reserve: Array | float | None = None,
        static: Array | None = None, exclude_rated: bool = True, fold_in: FoldIn | None = None,
    ) -> UtilitySlates:  # fmt: skip
        """Return the k items of highest utility for each user.

        Args:
            users: n user ids.
            weights: [n, H], or [H] for all users alike.
            k: Items of a slate.
            reserve: [n] or one number: the lowest scaled value of `reserve_head` that is eligible.
            static: [H], weights for users whom the reserve leaves nothing, without a reserve; None: `weights`.
            exclude_rated: Leave out items that the user rated.
            fold_in: Ratings of users, known or not: {user: {item: rating}}.

        Raises:
            ConfigError: A reserve without a reserve head, weights of another length, or k below 1.
            UnknownIdError: A user is unknown.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; expected at least 1")
        if np.shape(weights)[-1:] != (len(self.names),):
            raise ConfigError(f"weights {np.shape(weights)}; expected one for each head of {', '.join(self.names)}")
        if reserve is not None and self.reserve_head is None:
            raise ConfigError("a reserve needs a reserve head; name one when the utility is made")
        heads = self.heads(users, fold_in)
        allowed = np.ones(heads.shape[:2], bool)
        if exclude_rated:
            for place, user in enumerate(users):
                allowed[place] = arms_except(self.scorer.artifact, self.scorer.rated(user, fold_in))
        eligible = allowed
        if reserve is not None and self.reserve_head is not None:
            limit = np.broadcast_to(np.asarray(reserve, np.float64), len(heads))[:, np.newaxis]
            eligible = allowed & (heads[:, :, self.names.index(self.reserve_head)] >= limit)
        fallback = np.asarray(allowed.any(axis=1) & ~eligible.any(axis=1))
        weights = np.broadcast_to(np.asarray(weights, np.float64), (len(heads), len(self.names)))
        if fallback.any():
            eligible = np.where(fallback[:, np.newaxis], allowed, eligible)
            weights = np.where(fallback[:, np.newaxis], weights if static is None else static, weights)
        return UtilitySlates(best_items(utility(heads, weights, eligible=eligible), k), fallback)


def read_own_heads(
    scorer: Scorer, pairs: Path | None = None, items: Path | None = None, names: Sequence[str] = ()
) -> OwnHeads:
    """Read heads of your own.

    Args:
        scorer: The policy whose ids the files use.
        pairs: Parquet or CSV file with `user_id`, `item_id` and a column for each head.
        items: Parquet or CSV table with `item_id` and a column for each attribute, such as `price`.
        names: Columns to read; all numeric ones if empty.

    Raises:
        DataError: A file is missing, lacks an id column or has a pair twice, or a column is not numeric.
    """
    from recpolicy.data.head_tables import read_head_table

    item_row = {item: row for row, item in enumerate(scorer.item_ids)}
    user_row = {user: row for row, user in enumerate(scorer.user_ids)}
    of_pairs: dict[str, NDArray[np.float64]] = {}
    of_items: dict[str, NDArray[np.float64]] = {}
    if pairs is not None:
        table = read_head_table(pairs, ("user_id", "item_id"), names)
        rows, columns = _known_rows(table, "user_id", user_row), _known_rows(table, "item_id", item_row)
        inside = (rows >= 0) & (columns >= 0)
        for name in table.columns[2:]:
            of_pairs[name] = np.full((len(user_row), len(item_row)), np.nan)
            of_pairs[name][rows[inside], columns[inside]] = table[name].to_numpy(np.float64)[inside]
    if items is not None:
        table = read_head_table(items, ("item_id",), names)
        rows = _known_rows(table, "item_id", item_row)
        for name in table.columns[1:]:
            of_items[name] = np.full(len(item_row), np.nan)
            of_items[name][rows[rows >= 0]] = table[name].to_numpy(np.float64)[rows >= 0]
    for name in (*of_pairs, *of_items):
        if name in HEADS or (name in of_pairs and name in of_items):
            raise DataError(f"own head {name!r}: the name is taken; rename the column")
    return OwnHeads(of_pairs, of_items)


def _known_rows(table: "pd.DataFrame", column: str, row: Mapping[Any, int]) -> NDArray[np.int64]:
    """Return the rows [n] of ids, -1 for ids that the policy does not know."""
    return np.array([row.get(value, -1) for value in table[column].tolist()], np.int64)
