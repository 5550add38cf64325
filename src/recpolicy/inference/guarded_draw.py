"""The state of lists under guardrails while their places are filled, and the finished list.

n users, A arms, K places. At each place some items are closed: those of the list, those of a category that is full,
marked ones once their quota is used, and unmarked ones once the other places are reserved. Weights tilt the scores
given the items before.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array, Bools
from recpolicy.inference.guardrails import NO_CAP, Guardrails
from recpolicy.inference.slate_selection import Slate

NEVER_CLOSED = 2**31 - 1
"""In `closed_at`: the guardrails close the item at no place."""


@dataclass(frozen=True)
class GuardedSlate(Slate):
    """A slate under guardrails; it may be shorter than requested."""

    allowed: Bools = field(kw_only=True)  # [A] items that could take the first place
    closed_at: NDArray[np.int32] = field(kw_only=True)  # [A] first place (from 0) where an allowed item is closed
    digest: str = field(kw_only=True)
    """Digest of the guardrails."""
    reason: str | None = field(kw_only=True)
    """Why the list is shorter than requested; None if it is not."""


class GuardedDraw:
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


def replay_list(
    base: Bools, arms: NDArray[np.intp], k: int, guardrails: Guardrails
) -> tuple[NDArray[np.int32], Bools]:  # fmt: skip
    """Return what given items close in a list of k places: the first place where each arm is closed [A], and the arms
    that are open at the next place [A].

    Args:
        base: [A], items that could take the first place.
        arms: The items, first place first.
        k: Places of the list.
        guardrails: Those of the list.
    """
    draw = GuardedDraw(np.zeros((1, len(base))), base[np.newaxis].copy(), k, guardrails, similar=False)
    for place, arm in enumerate(arms.tolist()):
        draw.take_one(place, 0, arm)
    return draw.closed_at[0], draw.open[0]


def static_scores(score: Array, base: Bools, guardrails: Guardrails) -> Array:
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


def guarded_slate(
    draw: GuardedDraw, row: int, arms: NDArray[np.intp], propensity: Array, base: Bools, rating: Array, allowed: Bools,
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


def short_reason(
    guardrails: Guardrails, rating: Array, allowed: Bools, draw: GuardedDraw, row: int, length: int
) -> str:
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
