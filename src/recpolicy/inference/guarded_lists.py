"""Lists under guardrails: each place is drawn from the items that the guardrails leave, and its propensity is exact.

n users, A arms, K places. The places are filled in order. At each place some items are closed: those of the list, those
of a category that is full, marked ones once their quota is used, and unmarked ones once the other places are reserved.
Weights tilt the scores given the items before. Thus the law of a place depends on the items before it only, for both
branches of exploration: the greedy list takes the best open item, an explored one draws from the best open items.
The propensity of a place mixes the branches by their odds given the items before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array, Bools
from recpolicy.inference.guarded_draw import GuardedDraw, GuardedSlate, guarded_slate, short_reason, static_scores
from recpolicy.inference.guarded_shortlists import is_shortlist_worthwhile, lists_from_shortlists
from recpolicy.inference.guardrails import NO_CAP, Guardrails
from recpolicy.inference.slate_selection import ExplorationConfig, mixed_propensity

_FLOOR = 1e-3
"""Least factor by which tilts change a probability, so that every allowed item keeps one."""


def guarded_slates(
    score: Array, rating: Array, allowed: Bools, k: int, guardrails: Guardrails, exploration: ExplorationConfig,
    rng: np.random.Generator, explored: Bools, forced: NDArray[np.intp] | None = None,
) -> list[GuardedSlate]:  # fmt: skip
    """Draw the lists of n users under guardrails.

    Without guardrails and ties, the law is that of `choose_slate`. An explored list draws its place t, from 0,
    uniformly from the `max(top, k) - t` best open items, ties at random.

    Args:
        score: [n, A], the policy's scores.
        rating: [n, A], predicted ratings.
        allowed: [n, A], by the filters of the requests.
        k: Places of a list.
        guardrails: Those of the policy's catalog.
        exploration: Its `share` enters the propensities, its `top` the pool of an explored list.
        rng: Randomness of draws and ties.
        explored: [n], True for lists of the exploring branch.
        forced: [n, K] arms that are taken in place of draws, -1 after the end; for the propensities of given lists.
    """
    base = guardrails.base_mask(allowed, rating)  # [n, A]
    values = static_scores(score, base, guardrails)
    rows: NDArray[np.intp] = np.arange(len(score))
    slates: list[GuardedSlate | None] = [None] * len(score)
    if forced is None and not explored.any() and is_shortlist_worthwhile(score.shape[1]):
        slates = lists_from_shortlists(values, base, rating, allowed, k, guardrails, exploration)
        rows = np.array([row for row in rows if slates[row] is None], np.intp)
    if len(rows):
        some = values[rows], base[rows], rating[rows], allowed[rows]
        drawn = _from_catalog(
            *some, k, guardrails, exploration, rng, explored[rows], None if forced is None else forced[rows]
        )
        for row, slate in zip(rows.tolist(), drawn, strict=True):
            slates[row] = slate
    return [slate for slate in slates if slate is not None]


def _from_catalog(
    values: Array, base: Bools, rating: Array, allowed: Bools, k: int, guardrails: Guardrails,
    exploration: ExplorationConfig, rng: np.random.Generator, explored: Bools, forced: NDArray[np.intp] | None,
) -> list[GuardedSlate]:  # fmt: skip
    """Draw lists place by place from all items; values [n, A] before the list has items, base [n, A]."""
    draw = GuardedDraw(values, base.copy(), k, guardrails)
    places: list[tuple[NDArray[np.intp], Array, Array]] = []
    for place in range(k):
        chosen = None if forced is None else forced[:, place] if place < forced.shape[1] else np.full(len(base), -1)
        step = draw.place(place, exploration.top, explored, rng, chosen)
        if (step[0] < 0).all():
            break
        places.append(step)
        draw.take(place, step[0])
    arms = _columns(places, 0, len(base)).astype(np.intp)
    drawn, greedy = _columns(places, 1, len(base)), _columns(places, 2, len(base))
    slates = []
    for row in range(len(base)):
        length = int((arms[row] >= 0).sum())
        propensity = mixed_propensity(drawn[row, :length], greedy[row, :length], exploration.share)
        tied = not explored[row] and bool((greedy[row, :length] < 1.0).any())
        slates.append(
            guarded_slate(draw, row, arms[row, :length], propensity, base, rating, allowed, bool(explored[row]), tied)
        )
    return slates


def _columns(places: "list[tuple[NDArray[np.intp], Array, Array]]", part: int, users: int) -> Array:
    """Return a part of the places as columns [n, K]."""
    columns = np.empty((users, len(places)))
    for place, step in enumerate(places):
        columns[:, place] = step[part]
    return columns


def guarded_sample(
    probability: Array, rating: Array, allowed: Bools, k: int, guardrails: Guardrails, rng: np.random.Generator,
    forced: Sequence[int] | None = None,
) -> GuardedSlate:  # fmt: skip
    """Draw a list of one user from the policy's probabilities, place by place without replacement.

    The probability of an open item is multiplied by (1 - diversity * similarity) (1 - novelty * popularity)
    (1 + tilt), at least 1/1000, and normalized over the open items.

    Args:
        probability: [A], of the policy.
        rating: [A], predicted ratings.
        allowed: [A], by the filters of the request.
        k: Places of a list.
        guardrails: Those of the policy's catalog.
        rng: Randomness of the draws.
        forced: [K] arms that are taken in place of draws.
    """
    base = guardrails.base_mask(allowed, rating) & (probability > 0)
    draw = GuardedDraw(np.zeros((1, len(base))), base[np.newaxis].copy(), k, guardrails)
    popularity, bonus = guardrails.catalog.popularity, guardrails.bonus
    static = (1.0 - guardrails.novelty * popularity) * (1.0 if bonus is None else 1.0 + bonus)  # [A]
    arms, propensities = [], []
    for place in range(k):
        if not draw.open[0].any() or (forced is not None and place >= len(forced)):
            break
        factor = static if draw.similarity is None else static * (1.0 - guardrails.diversity * draw.similarity[0])
        weight = np.where(draw.open[0], probability, 0.0)
        if guardrails.tilts:
            weight = weight * np.maximum(factor, _FLOOR)
        weight = weight / weight.sum()
        arm = int(_at(weight, rng.random())) if forced is None else forced[place]
        arms.append(arm)
        propensities.append(float(weight[arm]))
        draw.take(place, np.array([arm]))
    reason = short_reason(guardrails, rating, allowed, draw, 0, len(arms)) if len(arms) < k else None
    chosen = np.array(arms, np.intp)
    return GuardedSlate(
        chosen, np.array(propensities), True, False, allowed=base, closed_at=draw.closed_at[0],
        digest=guardrails.digest, reason=reason,
    )  # fmt: skip


def scores_after(
    score: Array, base: Bools, earlier: NDArray[np.integer], guardrails: Guardrails
) -> Array:  # fmt: skip
    """Return the scores [n, A] of the place that follows the given ones; -inf for items that cannot take it.

    Args:
        score: [n, A], the policy's scores.
        base: [n, A], items that could take the first place, those of `guardrails.base_mask`.
        earlier: [n, P] arms at earlier places, -1 after the last one.
        guardrails: Those of the list, without reserved places (`min_marked`), which need the length of the list.
    """
    assert not guardrails.min_marked, "reserved places depend on the length of the list"
    draw = GuardedDraw(static_scores(score, base, guardrails), base.copy(), NO_CAP, guardrails)
    for place in range(earlier.shape[1]):
        draw.take(place, earlier[:, place].astype(np.intp))
    return draw.scores()


def _at(weight: Array, point: float) -> int:
    """Return the item of a point in 0..1 under the probabilities [A]; one of probability 0 is never drawn."""
    possible = np.flatnonzero(weight > 0)
    below = np.cumsum(weight[possible])
    return int(possible[min(np.searchsorted(below, point * below[-1], side="right"), len(possible) - 1)])
