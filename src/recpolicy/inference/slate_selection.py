"""Select a slate from the scores of a policy: filters, the best items, exploration, propensities and explanations.

A arms of the catalog, K places of the slate, I items. In production a small fraction of the requests explores: its
slate is drawn uniformly, without replacement, from the best-scored items; all others get the best slate. Ties are
broken at random in both. The logged propensities account for exploration and for ties.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import CountOrZero, Fraction, config_dataclass
from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.inference.block_prediction import arms_except

if TYPE_CHECKING:
    from recpolicy.inference.scorer import FoldIn, Learned, Scorer

Arms = NDArray[np.intp]
Mask = NDArray[np.bool_]


@config_dataclass
class ExplorationConfig:
    """Settings of exploration: the fraction of requests, and the pool of items."""

    share: Fraction = 0.005
    """Probability, 0..1, that a request gets a slate drawn at random; 0 turns exploration off."""
    top: CountOrZero = 50
    """Size of the pool of best-scored allowed items, at least the slate size; 0 takes all items."""


@dataclass(frozen=True)
class Slate:
    """The arms to show and their propensities."""

    arms: Arms  # [K] places in the catalog, first place first
    propensity: Array  # [K] probability of each arm at its place, given the arms before it
    explored: bool
    """True if this slate was drawn to explore."""
    tied: bool = False
    """True if a random draw decided between items of equal score."""


def allowed_rows(
    scorer: "Scorer",
    user: Hashable,
    exclude_rated: bool = True,
    genres: Sequence[str] = (),
    years: tuple[float | None, float | None] = (None, None),
    exclude_items: Sequence[Hashable] = (),
    fold_in: "FoldIn | None" = None,
    learned: "Learned | None" = None,
) -> Mask:
    """Return a mask [A] of the allowed arms: of any of the `genres`, from the years (first, last), neither rated nor
    excluded.

    None leaves an end of the years open; an item of unknown year is in no range. Raises ConfigError for an unknown
    genre, UnknownIdError for an excluded item that is not known, DataError when nothing is left.
    """
    rated = (scorer.rated(user, fold_in, learned),) if exclude_rated else ()
    excluded = (scorer.item_rows(exclude_items),) if len(exclude_items) else ()
    arms: Mask = arms_except(scorer.artifact, *rated, *excluded)
    if genres or years != (None, None):
        arms &= _of_genres_and_years(scorer, genres, years)[scorer.action_items]
    if not arms.any():
        raise DataError("no item is left to recommend: choose other genres or years, or allow rated items")
    return arms


def _of_genres_and_years(scorer: "Scorer", genres: Sequence[str], years: tuple[float | None, float | None]) -> Mask:
    """Return a mask [I] of the items of any of the genres, if there are any, and from these years."""
    allowed = np.ones(len(scorer.item_ids), bool)
    if genres:
        allowed &= scorer.genres[:, [_genre(scorer.genre_names, name) for name in genres]].any(axis=1)
    first, last = years
    if first is not None:
        allowed &= scorer.years >= first
    if last is not None:
        allowed &= scorer.years <= last
    return allowed


def greedy_slate(score: Array, allowed: Mask, k: int, lot: np.random.Generator) -> Arms:
    """Return the k best-scored of the allowed arms, best first, ties at random; fewer where fewer are allowed. All
    [A]."""
    draw = lot.random(len(score))
    arms = np.flatnonzero(allowed)
    if k < len(arms):  # sort no more than those that can be among the best
        lowest = np.partition(score[arms], len(arms) - k)[len(arms) - k]
        arms = arms[score[arms] >= lowest]
    order: Arms = arms[np.lexsort((draw[arms], -score[arms]))][:k]
    return order


def choose_slate(
    score: Array, allowed: Mask, k: int, config: ExplorationConfig, rng: np.random.Generator,
    explored: bool | None = None,
) -> Slate:  # fmt: skip
    """Draw the slate of one request: explored with probability `config.share`, else the best; score, allowed [A].

    Each draw is uniform over the remaining items of the `top` best allowed ones (of the k best, if k is larger). The
    propensity of a position is the probability of its item given the items before it, over exploration and random
    tie-breaks. The slate is shorter if fewer than k items are allowed. A caller that has already decided whether to
    explore, with probability `config.share`, passes the outcome as `explored`.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; expected at least 1")
    if explored is None:
        explored = bool(rng.random() < config.share)
    left = int(allowed.sum())
    pool = min(max(config.top, k), left) if config.top else left
    if explored:
        arms = rng.permutation(greedy_slate(score, allowed, pool, rng))[:k]
    else:
        arms = greedy_slate(score, allowed, k, rng)
    drawn, greedy = _chances(score, allowed, arms, pool)
    tied = not explored and bool((greedy < 1.0).any())
    return Slate(arms, mixed_propensity(drawn, greedy, config.share), explored, tied)


def untied_slates(score: Array, allowed: Mask, k: int, config: ExplorationConfig) -> list[Slate | None]:
    """Return the best slates of n users at once, as `choose_slate` does for one; score, allowed [n, A].

    None stands for a user for whom `choose_slate` draws lots, because items tie for a place, or raises.
    """
    arms = score.shape[1]
    seen = min(k + 1, arms)  # one more than are shown: it could tie for the last place
    values = np.where(allowed, score, -np.inf)
    top = np.argpartition(values, arms - seen, axis=1)[:, arms - seen :]  # [n, seen]
    top_values = np.take_along_axis(values, top, axis=1)
    order = np.argsort(-top_values, axis=1)
    top, top_values = np.take_along_axis(top, order, axis=1), np.take_along_axis(top_values, order, axis=1)
    allowed_count = allowed.sum(axis=1)
    finite = np.isfinite(top_values)  # items that are not allowed follow those that are, and are all alike
    untied = ((top_values[:, :-1] > top_values[:, 1:]) | ~finite[:, :-1]).all(axis=1)
    untied &= (finite.sum(axis=1) == np.minimum(allowed_count, seen)) & (allowed_count > 0)
    slates: list[Slate | None] = []
    for user, (distinct, left) in enumerate(zip(untied.tolist(), allowed_count.tolist(), strict=True)):
        if not distinct:
            slates.append(None)
            continue
        count = min(k, left)
        pool = min(max(config.top, k), left) if config.top else left
        slates.append(Slate(top[user, :count], untied_propensity(count, pool, config.share), explored=False))
    return slates


@lru_cache(1_000)
def untied_propensity(count: int, pool: int, share: float) -> Array:
    """Return the propensities [K] of the best slate when no items tie.

    Args:
        count: K, places of the slate.
        pool: Items that an explored slate would draw its first place from.
        share: Share of explored slates.
    """
    propensity = mixed_propensity(1.0 / (pool - np.arange(count)), np.ones(count), share)
    propensity.flags.writeable = False
    return propensity


def _chances(score: Array, allowed: Mask, arms: Arms, pool: int) -> tuple[Array, Array]:
    """Return the probability [K] of each arm given those before it, in a slate that is drawn and in a greedy one.

    An arm that could not have come at its place has probability 0.
    """
    value = score[allowed]
    falling = -np.sort(-value[value >= np.partition(value, len(value) - pool)[len(value) - pool]])  # the pool, and ties
    return _drawn(falling, score[arms], pool), _greedy(falling, score[arms])


def mixed_propensity(drawn: Array, greedy: Array, share: float) -> Array:
    """Return the probabilities [K] of a mixture whose slates are drawn or greedy as a whole.

    Earlier positions tell which of the two a slate is, so the odds are updated position by position.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.cumsum(np.log(drawn[:-1]) - np.log(greedy[:-1]))  # infinite once it cannot be the greedy one
        odds = np.log(share) - np.log1p(-share) + np.concatenate([[0.0], evidence])  # [K]
    weight = 1.0 / (1.0 + np.exp(-np.clip(odds, -700.0, 700.0)))  # that it is a drawn one, given the places before
    if share in (0.0, 1.0):
        weight = np.full(len(drawn), share)
    result: Array = weight * drawn + (1.0 - weight) * greedy
    return np.nan_to_num(result, nan=0.0)  # after a place that neither of the two can have, none has a probability


def explain(
    scorer: "Scorer", user: Hashable, rows: Sequence[int] | NDArray[np.integer], fold_in: "FoldIn | None" = None,
    count: int = 2, learned: "Learned | None" = None,
) -> list[list[int]]:  # fmt: skip
    """Return for each row of `rows` the rows of the `count` nearest items that the user rated, nearest first.

    Nearest by the cosine of the embeddings. Of a user in `fold_in` or `learned` only items rated above the middle of
    the scale count; of ratings of the training it is not kept how high they were. An item does not explain itself;
    fewer where there are fewer, none of a user of whom nothing is known.
    """
    rated = scorer.rated(user, fold_in)  # [R]
    if fold_in and user in fold_in:
        rated = rated[np.array(list(fold_in[user].values())) > sum(scorer.scale) / 2]
    elif learned and user in learned:
        rated = learned[user].liked
    queried = np.asarray(rows, np.intp)
    if not len(rated) or not len(queried):
        return [[] for _ in queried]
    near = scorer.directions[queried] @ scorer.directions[rated].T  # [K, R]
    near[queried[:, np.newaxis] == rated] = -np.inf
    count = min(count, len(rated))
    best = np.argpartition(-near, count - 1, axis=1)[:, :count]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(near, best, axis=1), axis=1, kind="stable"), axis=1)
    return [
        [row for row in nearest if row != itself]
        for itself, nearest in zip(queried.tolist(), rated[best].tolist(), strict=True)
    ]


def _genre(known: list[str], name: str) -> int:
    if name not in known:
        raise unknown_name_error("genre", name, known)
    return known.index(name)


def _greedy(falling: Array, chosen: Array) -> Array:
    """Return P(the greedy slate has this score's arm here | the same arms before) [K]: one of those that tie for the
    place."""
    place = np.arange(len(chosen))
    ties = np.searchsorted(-falling, -falling[place], side="right") - place  # those before took places of higher ones
    return (chosen == falling[place]) / ties


def _drawn(falling: Array, chosen: Array, pool: int) -> Array:
    """Return P(an explored slate has this arm here | the same arms before) [K].

    If several items tie for the last places of the pool, a random draw decides between them, too.
    """
    place = np.arange(len(chosen))
    lowest = falling[pool - 1]
    above, tied = np.count_nonzero(falling > lowest), np.count_nonzero(falling == lowest)
    last = chosen == lowest
    before = np.cumsum(last) - last  # how many of those that tie for the last places came before
    inside = np.where(last, (pool - above - before) / np.maximum(tied - before, 1), chosen > lowest)
    return inside / (pool - place)
