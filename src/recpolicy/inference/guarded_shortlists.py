"""Greedy lists under guardrails from a shortlist: the items of the highest values before the list has items.

Similarity only lowers a score. So an item of the shortlist whose score is above the highest value outside is the best
of all items. Where that does not decide a place, diverse lists go on among all items; other lists, and those with ties,
are left to the caller.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array, Bools
from recpolicy.inference.guarded_draw import GuardedDraw, GuardedSlate, guarded_slate
from recpolicy.inference.guardrails import Guardrails
from recpolicy.inference.slate_selection import ExplorationConfig, mixed_propensity, untied_propensity

SHORTLIST = 256
"""Items of a shortlist, at least."""


def is_shortlist_worthwhile(arms: int) -> bool:
    """Return True if a shortlist is so much shorter than the catalog that it saves time."""
    return arms > 2 * SHORTLIST


def lists_from_shortlists(
    values: Array, base: Bools, rating: Array, allowed: Bools, k: int, guardrails: Guardrails,
    exploration: ExplorationConfig,
) -> list[GuardedSlate | None]:  # fmt: skip
    """Return the greedy lists of n users from the items of the highest values; None where that is not provably right.

    Lists with ties are None, and lists without diversity that need items outside the shortlist.
    """
    arms = values.shape[1]
    count = min(max(SHORTLIST, 2 * k), arms - 1)
    high = np.where(base, values, -np.inf)
    best = np.argpartition(high, arms - count - 1, axis=1)[:, arms - count - 1 :]
    outside = np.take_along_axis(high, best[:, :1], axis=1)[:, 0]  # [n] highest value outside the shortlist
    top = np.take_along_axis(high, best[:, 1:], axis=1)
    order = np.argsort(-top, axis=1)
    items, top = np.take_along_axis(best[:, 1:], order, axis=1), np.take_along_axis(top, order, axis=1)  # [n, M]
    draw = GuardedDraw(values, base.copy(), k, guardrails, similar=False)
    walk = _walk_by_score if guardrails.diversity else _walk_by_value
    left = draw.open.sum(axis=1)
    slates: list[GuardedSlate | None] = []
    for row in range(len(base)):
        walked = walk(draw, row, items[row], top[row], float(outside[row]), int(left[row]))
        slates.append(None)
        if walked is not None:
            chosen, open_before = walked
            propensity = _greedy_propensity(open_before, k, exploration)
            slates[row] = guarded_slate(
                draw, row, np.array(chosen, np.intp), propensity, base, rating, allowed, False, False
            )
    return slates


Walked = tuple[list[int], list[int]]
"""The arms of a list, and the number of open items before each place."""


def _walk_by_value(
    draw: GuardedDraw, row: int, items: NDArray[np.intp], value: Array, outside: float, left: int
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
    draw: GuardedDraw, row: int, items: NDArray[np.intp], value: Array, outside: float, left: int
) -> Walked | None:
    """Return the greedy list of diverse items: the best score of the shortlist at each place.

    At the first place that the shortlist does not decide, all items of the catalog take its place.
    """
    all_values, weight, directions = draw.values[row], draw.guardrails.diversity, draw.guardrails.catalog.direction
    near, current = np.zeros(len(items)), np.where(draw.open[row, items], value, -np.inf)
    of_items = directions[items]  # [M, D]
    chosen: list[int] = []
    before: list[int] = []
    while len(chosen) < draw.k:
        score = current - weight * near
        at = int(score.argmax())
        best = float(score[at])
        if best <= outside and outside > -np.inf:
            items, of_items, outside = np.arange(len(all_values)), directions, -np.inf
            current, near = np.where(draw.open[row], all_values, -np.inf), np.zeros(len(items))
            for item in chosen:
                np.maximum(near, np.minimum(directions @ directions[item], 1.0), out=near)
            continue
        if best == -np.inf:
            break
        if np.count_nonzero(score == best) > 1:
            return None
        before.append(left)
        chosen.append(int(items[at]))
        current[at] = -np.inf
        closed = draw.take_one(len(chosen) - 1, row, chosen[-1])
        left -= 1 + closed
        if closed:
            current[~draw.open[row, items]] = -np.inf
        np.maximum(near, np.minimum(of_items @ of_items[at], 1.0), out=near)
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
