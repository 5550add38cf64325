"""Lists under guardrails: each place is drawn from the items that the guardrails leave, and its propensity is exact.

n users, A arms, K places. The places are filled in order. At each place some items are closed: those of the list, those
of a category that is full, marked ones once their quota is used, and unmarked ones once the other places are reserved.
Weights tilt the scores given the items before. Thus the law of a place depends on the items before it only, for both
branches of exploration: the greedy list takes the best open item, an explored one draws from the best open items.
The propensity of a place mixes the branches by their odds given the items before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array, Bools
from recpolicy.inference.guardrails import NO_CAP, Guardrails
from recpolicy.inference.slate_selection import ExplorationConfig, Slate, mixed_propensity, untied_propensity

NEVER_CLOSED = 2**31 - 1
"""In `closed_at`: the guardrails close the item at no place."""
SHORTLIST = 256
"""Items of the highest values among which a greedy list is looked for first, at least."""
_FLOOR = 1e-3
"""Least factor by which tilts change a probability, so that every allowed item keeps one."""


@dataclass(frozen=True)
class GuardedSlate(Slate):
    """A slate under guardrails; it may be shorter than requested."""

    allowed: Bools = field(kw_only=True)  # [A] items that could take the first place
    closed_at: NDArray[np.int32] = field(kw_only=True)  # [A] first place (from 0) where an allowed item is closed
    digest: str = field(kw_only=True)
    """Digest of the guardrails."""
    reason: str | None = field(kw_only=True)
    """Why the list is shorter than requested; None if it is not."""


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
    values = _static_scores(score, base, guardrails)
    rows: NDArray[np.intp] = np.arange(len(score))
    slates: list[GuardedSlate | None] = [None] * len(score)
    if forced is None and not explored.any() and score.shape[1] > 2 * SHORTLIST:
        slates = _from_shortlists(values, base, rating, allowed, k, guardrails, exploration)
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
    draw = _Draw(values, base.copy(), k, guardrails)
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
            _slate(draw, row, arms[row, :length], propensity, base, rating, allowed, bool(explored[row]), tied)
        )
    return slates


def _from_shortlists(
    values: Array, base: Bools, rating: Array, allowed: Bools, k: int, guardrails: Guardrails,
    exploration: ExplorationConfig,
) -> list[GuardedSlate | None]:  # fmt: skip
    """Return the greedy lists of n users from the items of the highest values; None where that is not provably right.

    Similarity only lowers a score. So an item of a shortlist whose score is above the highest value outside is the best
    of all. Lists with ties, and those that need items outside, are None.
    """
    arms = values.shape[1]
    count = min(max(SHORTLIST, 2 * k), arms - 1)
    high = np.where(base, values, -np.inf)
    best = np.argpartition(high, arms - count - 1, axis=1)[:, arms - count - 1 :]
    outside = np.take_along_axis(high, best[:, :1], axis=1)[:, 0]  # [n] highest value outside the shortlist
    top = np.take_along_axis(high, best[:, 1:], axis=1)
    order = np.argsort(-top, axis=1)
    items, top = np.take_along_axis(best[:, 1:], order, axis=1), np.take_along_axis(top, order, axis=1)  # [n, M]
    draw = _Draw(values, base.copy(), k, guardrails, similar=False)
    walk = _walk_by_score if guardrails.diversity else _walk_by_value
    left = draw.open.sum(axis=1)
    slates: list[GuardedSlate | None] = []
    for row in range(len(base)):
        walked = walk(draw, row, items[row], top[row], float(outside[row]), int(left[row]))
        slates.append(None)
        if walked is not None:
            chosen, open_before = walked
            propensity = _greedy_propensity(open_before, k, exploration)
            slates[row] = _slate(draw, row, np.array(chosen, np.intp), propensity, base, rating, allowed, False, False)
    return slates


Walked = tuple[list[int], list[int]]
"""The arms of a list, and the number of open items before each place."""


def _walk_by_value(
    draw: "_Draw", row: int, items: NDArray[np.intp], value: Array, outside: float, left: int
) -> Walked | None:
    """Return the greedy list whose scores do not depend on earlier items: a walk down the shortlist."""
    open_items, numbers, values = draw.open[row], items.tolist(), value.tolist()
    chosen: list[int] = []
    before: list[int] = []
    for at, item in enumerate(numbers):
        if len(chosen) == draw.k:
            break
        if not open_items[item]:
            continue
        if values[at] <= outside:
            return None
        ahead = at + 1
        while ahead < len(numbers) and values[ahead] == values[at]:
            if open_items[numbers[ahead]]:
                return None
            ahead += 1
        before.append(left)
        chosen.append(item)
        left -= 1 + draw.take_one(len(chosen) - 1, row, item)
    return None if len(chosen) < draw.k and outside > -np.inf else (chosen, before)


def _walk_by_score(
    draw: "_Draw", row: int, items: NDArray[np.intp], value: Array, outside: float, left: int
) -> Walked | None:
    """Return the greedy list of diverse items: the best score of the shortlist at each place."""
    weight, directions = draw.guardrails.diversity, draw.guardrails.catalog.direction[items]
    near, current = np.zeros(len(items)), np.where(draw.open[row, items], value, -np.inf)
    chosen: list[int] = []
    before: list[int] = []
    for place in range(draw.k):
        score = current - weight * near
        at = int(score.argmax())
        best = float(score[at])
        if best <= outside and outside > -np.inf:
            return None
        if best == -np.inf:
            break
        if np.count_nonzero(score == best) > 1:
            return None
        before.append(left)
        chosen.append(int(items[at]))
        current[at] = -np.inf
        closed = draw.take_one(place, row, chosen[-1])
        left -= 1 + closed
        if closed:
            current[~draw.open[row, items]] = -np.inf
        np.maximum(near, np.minimum(directions @ directions[at], 1.0), out=near)
    return chosen, before


def _greedy_propensity(open_before: list[int], k: int, exploration: ExplorationConfig) -> Array:
    """Return the propensities [K] of a greedy list without ties."""
    length, full = len(open_before), max(exploration.top, k)
    if exploration.top and all(left >= full - place for place, left in enumerate(open_before)):
        return untied_propensity(length, full, exploration.share)
    pool = np.array(open_before, np.float64)
    if exploration.top:
        pool = np.minimum(pool, np.maximum(full - np.arange(length), 1))
    return mixed_propensity(1.0 / pool, np.ones(length), exploration.share)


def _slate(
    draw: "_Draw", row: int, arms: NDArray[np.intp], propensity: Array, base: Bools, rating: Array, allowed: Bools,
    explored: bool, tied: bool,
) -> GuardedSlate:  # fmt: skip
    """Return the list of a row, with what its guardrails closed."""
    reason = None
    if len(arms) < draw.k:
        reason = short_reason(draw.guardrails, rating[row], allowed[row], draw, row, len(arms))
    return GuardedSlate(
        arms, propensity, explored, tied, allowed=base[row], closed_at=draw.closed_at[row],
        digest=draw.guardrails.digest, reason=reason,
    )  # fmt: skip


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
    draw = _Draw(np.zeros((1, len(base))), base[np.newaxis].copy(), k, guardrails)
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
    draw = _Draw(_static_scores(score, base, guardrails), base.copy(), NO_CAP, guardrails)
    for place in range(earlier.shape[1]):
        draw.take(place, earlier[:, place].astype(np.intp))
    return draw.scores()


def short_reason(guardrails: Guardrails, rating: Array, allowed: Bools, draw: "_Draw", row: int, length: int) -> str:
    """Return why a list has fewer items than requested: the guardrails and filters that close items."""
    parts = []
    blocked = int((allowed & guardrails.blocked).sum())
    if blocked:
        parts.append(f"{blocked} {'item is' if blocked == 1 else 'items are'} blocked")
    if guardrails.min_rating is not None:
        below = int((allowed & ~guardrails.blocked & ~(rating >= guardrails.min_rating)).sum())
        if below:
            parts.append(f"{below} are predicted below min_rating {guardrails.min_rating:g}")
    full = [name for name, shut in zip(guardrails.catalog.names, draw.full[row], strict=True) if shut]
    if full:
        parts.append(f"these categories are full: {', '.join(full)}")
    if draw.marked_count[row] >= guardrails.max_marked:
        parts.append(f"max_marked {guardrails.max_marked} is used")
    if draw.reserved and draw.unmarked_count[row] >= draw.k - draw.reserved:
        parts.append(f"the other places are for marked items (min_marked {guardrails.min_marked})")
    why = "; ".join(parts) or "the filters allow no more"
    return f"{length} of {draw.k} places are filled: {why}"


class _Draw:
    """The state of n lists while their places are filled."""

    def __init__(self, values: Array, open_items: Bools, k: int, guardrails: Guardrails, similar: bool = True):
        users, arms = values.shape
        self.values, self.open, self.k, self.guardrails = values, open_items, k, guardrails
        self.reserved = min(guardrails.min_marked, k)
        self._cap = guardrails.cap.tolist()
        self._bounded = any(cap < NO_CAP for cap in self._cap)
        self.taken = [[0] * len(self._cap) for _ in range(users)]
        self.full = [[cap <= 0 for cap in self._cap] for _ in range(users)]
        self.marked_count, self.unmarked_count = [0] * users, [0] * users
        self.closed_at = np.full((users, arms), NEVER_CLOSED, np.int32)
        self.similarity: Array | None = np.zeros((users, arms)) if guardrails.diversity and similar else None
        self._marked, self._unmarked = np.flatnonzero(guardrails.marked), np.flatnonzero(~guardrails.marked)
        if self.reserved == k:
            for row in range(users):
                self._close(row, self._unmarked, 0)

    def scores(self) -> Array:
        """Return the scores [n, A] at this place, -inf for closed items."""
        if self.similarity is None:
            return np.where(self.open, self.values, -np.inf)
        return np.where(self.open, self.values - self.guardrails.diversity * self.similarity, -np.inf)

    def place(
        self, place: int, top: int, explored: Bools, rng: np.random.Generator, chosen: NDArray[np.intp] | None
    ) -> tuple[NDArray[np.intp], Array, Array]:
        """Choose the arms [n] of a place, -1 where none is open; return their probabilities in both branches, too."""
        scores = self.scores()
        count = self.open.sum(axis=1)
        pool = np.minimum(np.maximum(max(top, self.k) - place, 1), count) if top else count
        best = scores.max(axis=1)
        if chosen is None:
            value = best.copy()
            for row in np.flatnonzero(explored & (count > 0)):
                rank = int(rng.integers(pool[row]))  # from 0, of all open items by falling score
                value[row] = -np.partition(-scores[row], rank)[rank]
        else:
            value = np.where(chosen >= 0, scores[np.arange(len(scores)), chosen], -np.inf)
        same = scores == value[:, np.newaxis]
        alive = value > -np.inf
        ties = np.maximum(same.sum(axis=1), 1)
        if chosen is None:
            chosen = same.argmax(axis=1)
            for row in np.flatnonzero(alive & (ties > 1)):
                chosen[row] = np.flatnonzero(same[row])[rng.integers(ties[row])]
        above = (scores > value[:, np.newaxis]).sum(axis=1)
        greedy = np.where(alive & (value == best), 1.0 / ties, 0.0)
        inside = np.clip((pool - above) / ties, 0.0, 1.0)
        drawn = np.where(alive, inside / np.maximum(pool, 1), 0.0)
        return np.where(alive, chosen, -1), drawn, greedy

    def take(self, place: int, arms: NDArray[np.intp]) -> None:
        """Add the arms [n] of a place to the lists, and close what the guardrails no longer allow at the next one.

        Lists without an arm at this place (-1) stay as they are.
        """
        for row in np.flatnonzero(arms >= 0).tolist():
            self.take_one(place, row, int(arms[row]))
        if self.similarity is not None:
            rows, direction = np.flatnonzero(arms >= 0), self.guardrails.catalog.direction
            near = direction[arms[rows]] @ direction.T  # [n, A]
            self.similarity[rows] = np.maximum(self.similarity[rows], np.minimum(near, 1.0))

    def take_one(self, place: int, row: int, arm: int) -> int:
        """Add the arm of a place to one list; return the number of items that close at the next place."""
        guardrails, closed = self.guardrails, 0
        self.open[row, arm] = False
        if self._bounded:
            taken, full = self.taken[row], self.full[row]
            for name in guardrails.catalog.categories_of[arm]:
                taken[name] += 1
                if not full[name] and taken[name] >= self._cap[name]:
                    full[name] = True
                    closed += self._close(row, guardrails.catalog.items_of[name], place + 1)
        if guardrails.max_marked < NO_CAP or self.reserved:
            if guardrails.marked[arm]:
                self.marked_count[row] += 1
                if self.marked_count[row] == guardrails.max_marked:
                    closed += self._close(row, self._marked, place + 1)
            else:
                self.unmarked_count[row] += 1
                if self.reserved and self.unmarked_count[row] == self.k - self.reserved:
                    closed += self._close(row, self._unmarked, place + 1)
        return closed

    def _close(self, row: int, items: NDArray[np.intp], place: int) -> int:
        """Close the items for a list from this place on; return their number."""
        shut = items[self.open[row, items]]
        self.closed_at[row, shut] = place
        self.open[row, shut] = False
        return len(shut)


def _static_scores(score: Array, base: Bools, guardrails: Guardrails) -> Array:
    """Return the scores [n, A] before the list has items: the policy's, or relevance with the weights that are set.

    The relevance is the score, scaled to 0..1 over the items that may take the first place.
    """
    if not guardrails.tilts:
        return score
    low = np.where(base, score, np.inf).min(axis=1, keepdims=True)
    high = np.where(base, score, -np.inf).max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    relevance = np.where(base, score - low, 0.0) / span
    values = (1.0 - guardrails.diversity) * relevance - guardrails.novelty * guardrails.catalog.popularity
    return values if guardrails.bonus is None else values + guardrails.bonus


def _at(weight: Array, point: float) -> int:
    """Return the item of a point in 0..1 under the probabilities [A]; one of probability 0 is never drawn."""
    possible = np.flatnonzero(weight > 0)
    below = np.cumsum(weight[possible])
    return int(possible[min(np.searchsorted(below, point * below[-1], side="right"), len(possible) - 1)])
