"""Small catalogs and guardrails, and the law of a list under them by brute force."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np

from recpolicy.inference.catalog_features import CatalogFeatures
from recpolicy.inference.guardrails import NO_CAP, Guardrails

NAMES = ["Action", "Comedy", "Drama"]


def guardrails(category, *, caps=None, blocked=(), marked=(), max_marked=NO_CAP, min_marked=0, min_rating=None,
               diversity=0.0, novelty=0.0, bonus=None, seed=0):  # fmt: skip
    """Return guardrails over a catalog whose item i has the category numbers `category[i]`."""
    arms = len(category)
    table = np.array([[name in of_item for of_item in category] for name in range(len(NAMES))], bool)
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(arms, 2))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    catalog = CatalogFeatures(NAMES, table, table / np.maximum(table.sum(axis=0), 1), rng.random(arms),
                              direction)  # fmt: skip
    masks = [np.isin(np.arange(arms), part) for part in (list(blocked), list(marked))]
    cap = np.array([(caps or {}).get(name, NO_CAP) for name in range(len(NAMES))])
    return Guardrails(
        catalog, "d" * 32, masks[0], cap, masks[1], max_marked, min_marked, min_rating, diversity, novelty,
        None if bonus is None else np.asarray(bonus, float),
    )  # fmt: skip


def open_items(rails, rating, allowed, chosen, k):
    """Return the items that may follow `chosen`, by the definition of each guardrail."""
    category, result = rails.catalog.category, []
    counts = [sum(bool(category[c][item]) for item in chosen) for c in range(len(NAMES))]
    marked = sum(bool(rails.marked[item]) for item in chosen)
    for item in range(len(allowed)):
        if not allowed[item] or item in chosen or rails.blocked[item]:
            continue
        if rails.min_rating is not None and rating[item] < rails.min_rating:
            continue
        if any(category[c][item] and counts[c] + 1 > rails.cap[c] for c in range(len(NAMES))):
            continue
        if rails.marked[item] and marked + 1 > rails.max_marked:
            continue
        if not rails.marked[item] and len(chosen) - marked + 1 > k - min(rails.min_marked, k):
            continue
        result.append(item)
    return result


def scores_by_hand(rails, score, rating, allowed, chosen, k):
    """Return the score of each item at the next place: the policy's, or relevance with the weights."""
    if not rails.diversity and not rails.novelty and rails.bonus is None:
        return {item: float(score[item]) for item in range(len(score))}
    possible = [score[item] for item in range(len(score)) if item in open_items(rails, rating, allowed, (), 10**6)]
    low, high = min(possible), max(possible)
    direction = rails.catalog.direction
    values = {}
    for item in range(len(score)):
        relevance = (score[item] - low) / (high - low) if high > low else 0.0
        near = max([0.0, *(min(1.0, float(direction[item] @ direction[other])) for other in chosen)])
        value = (1 - rails.diversity) * relevance - rails.novelty * rails.catalog.popularity[item]
        values[item] = value + (0 if rails.bonus is None else rails.bonus[item]) - rails.diversity * near
    return values


def place_law(rails, score, rating, allowed, chosen, k, top):
    """Return {item: (P in the greedy list, P in an explored one)} of the next place: all orders of ties alike."""
    items = open_items(rails, rating, allowed, chosen, k)
    if not items:
        return {}
    values = scores_by_hand(rails, score, rating, allowed, chosen, k)
    rounded = {item: round(values[item], 9) for item in items}  # equal by arithmetic is equal
    pool = min(max(max(top, k) - len(chosen), 1), len(items)) if top else len(items)
    greedy, drawn, orders = Counter(), Counter(), 0
    for order in permutations(items):
        if all(rounded[a] >= rounded[b] for a, b in pairwise(order)):
            orders += 1
            greedy[order[0]] += 1
            for item in order[:pool]:
                drawn[item] += 1 / pool
    return {item: (greedy[item] / orders, drawn[item] / orders) for item in items}


def all_lists(rails, score, rating, allowed, k, top, share):
    """Return {list: [conditional probability of each place]} of every list that can be shown, to its end."""
    result = {}

    def extend(chosen, greedy, drawn, conditional):
        law = place_law(rails, score, rating, allowed, chosen, k, top) if len(chosen) < k else {}
        if not law:
            result[tuple(chosen)] = conditional
            return
        for item, (in_greedy, in_drawn) in law.items():
            both = greedy * in_greedy, drawn * in_drawn
            before, after = (1 - share) * greedy + share * drawn, (1 - share) * both[0] + share * both[1]
            if after > 0:
                extend([*chosen, item], *both, [*conditional, after / before])

    extend([], 1.0, 1.0, [])
    return result
