"""Candidate generation: the M items of the highest expected rating by embeddings, among which a policy ranks.

A arms, D embedding, C context columns of which the first D are the embedding. Blocks of arms bound the memory: of each
block only the best M go on, so the result is exact. 10^5 items of 16 columns are one matrix product per block and one
partition. Candidates come from what a request allows, after its filters and the items that guardrails exclude.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array, Bools
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.guarded_lists import guarded_slates
from recpolicy.inference.guardrails import Guardrails
from recpolicy.inference.slate_selection import ExplorationConfig

Floats = NDArray[np.floating]
ARMS_AT_ONCE = 1 << 16
"""Arms of one matrix product."""


def top_candidates(
    user: Floats, item: Floats, offset: Floats, allowed: Bools, count: int, at_once: int = ARMS_AT_ONCE
) -> NDArray[np.intp]:
    """Return the allowed arms with the highest offset + item . user, ascending.

    Args:
        user: The user's embedding [D].
        item: Embeddings of the arms [A, D].
        offset: [A].
        allowed: [A].
        count: Number M of candidates; fewer where fewer arms are allowed. Of equal ones at the end any may be taken.
        at_once: Arms per block.
    """
    best, score = np.empty(0, np.intp), np.empty(0, item.dtype)
    for start in range(0, len(item), at_once):
        block = slice(start, start + at_once)
        arms = start + np.flatnonzero(allowed[block])
        rating = item[block] @ user + offset[block]
        best = np.concatenate([best, arms])
        score = np.concatenate([score, rating[arms - start]])
        if len(best) > count:
            kept = np.argpartition(-score, count - 1)[:count]
            best, score = best[kept], score[kept]
    return np.sort(best)


def candidate_mask(parts: PolicyParts, context: Floats, allowed: Bools, count: int) -> Bools:
    """Return the mask [A] of the `count` allowed arms of the highest expected rating by embeddings; context [C]."""
    item, offset = parts.item, parts.offset
    if not parts.has_all_items:
        item, offset = item[parts.action_items], offset[parts.action_items]
    chosen = np.zeros(len(allowed), bool)
    chosen[top_candidates(context[: item.shape[1]], item, offset, allowed, count)] = True
    return chosen


def guarded_candidates(
    parts: PolicyParts, context: Floats, score: Array, rating: Array, allowed: Bools, count: int, k: int,
    guardrails: Guardrails,
) -> Bools:  # fmt: skip
    """Return the mask [A] of the candidates among which guardrails choose a list of k places.

    Items that the guardrails exclude are no candidates. Bounds of the whole list, such as full categories, may leave no
    list of k places among the candidates; then all allowed items are candidates. That depends on the best list only, so
    a drawn list has the same candidates.

    Args:
        parts: The policy.
        context: Context of the user [C].
        score: What the policy is greedy in [A].
        rating: Predicted ratings [A].
        allowed: [A], by the filters of the request.
        count: Number of candidates.
        k: Places of the list.
        guardrails: The guardrails.
    """
    mask = candidate_mask(parts, context, guardrails.base_mask(allowed, rating), count)
    greedy, nobody = ExplorationConfig(share=0.0), np.array([False])
    rows = score[np.newaxis], rating[np.newaxis], mask[np.newaxis]
    best = guarded_slates(*rows, k, guardrails, greedy, np.random.default_rng(0), nobody)[0]
    return mask if len(best.arms) == k else allowed
