"""Two stages of a list: the items of the highest expected rating by embeddings, and the policy's ranking among them.

n users, I items, A arms, M candidates. Candidates are cut from what the filters and guardrails of a request allow. They
restrict a list as a filter does: exploration draws from them, propensities are those of a policy that can show no other
item, and the event has them as its allowed items. A place for new items keeps its items.
"""

from collections.abc import Sequence

import numpy as np

from recpolicy.core.types import Array, Bools
from recpolicy.inference.block_prediction import BatchScores, Shown, UserInput, predict_among
from recpolicy.inference.candidate_generation import candidate_mask, guarded_candidates
from recpolicy.inference.guardrails import Guardrails
from recpolicy.server.live_models import BoundGuardrails, LoadedVersion


def score_candidates(
    version: LoadedVersion, user: UserInput, histories: Sequence[Shown], allowed: Bools, k: int
) -> tuple[BatchScores, Bools]:
    """Return the scores of n users' candidates for lists of k items, and the candidates [n, A].

    Only candidates are scored. Arrays have places for all items and arms; those of others are NaN, and -inf in `score`.

    Args:
        version: The version, whose setting is the number of candidates.
        user: The n users.
        histories: Their sessions.
        allowed: [n, A], by the filters of the requests.
        k: Places of a list.
    """
    parts, (users, arms) = version.scorer.artifact, allowed.shape
    shape = users, len(version.scorer.item_ids)
    rating, std = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    value = None if parts.sequential else np.full(shape, np.nan, np.float32)
    score, candidates = np.full((users, arms), -np.inf), np.zeros((users, arms), bool)
    for row, shown in enumerate(histories):
        one = slice(row, row + 1)
        known = UserInput(user.context[one], user.std[one], None if user.rating is None else user.rating[one])
        mask = candidate_mask(parts, known.context[0], allowed[row], max(version.candidates, k))
        candidates[row] = with_new_items(version, mask, allowed[row])
        chosen = np.flatnonzero(candidates[row])
        if not len(chosen):
            continue
        block, rows = predict_among(parts, known, chosen, [shown]), parts.action_items[chosen]
        rating[row, rows], std[row, rows], score[row, chosen] = block.rating[0], block.std[0], block.score[0]
        if value is not None and block.value is not None:
            value[row, rows] = block.value[0]
    return BatchScores(rating, std, value, score), candidates


def cut_candidates(
    version: LoadedVersion, context: Array, score: Array, rating: Array, allowed: Bools, k: int, rails: BoundGuardrails
) -> Bools:
    """Return the candidates [A] of one user, all of whose items have scores; context [C], rating [I], others [A]."""
    parts, count = version.scorer.artifact, max(version.candidates, k)
    if isinstance(rails, Guardrails):
        mask = guarded_candidates(parts, context, score, rating[parts.action_items], allowed, count, k, rails)
    else:
        mask = candidate_mask(parts, context, allowed, count)
    return with_new_items(version, mask, allowed)


def scores_candidates_only(version: LoadedVersion, rails: BoundGuardrails) -> bool:
    """Return True if other items need no score: guardrails and tuned layers look at the whole catalog."""
    return bool(version.candidates) and not isinstance(rails, Guardrails) and not version.scorer.tuned


def with_new_items(version: LoadedVersion, candidates: Bools, allowed: Bools) -> Bools:
    """Return the candidates [A] with the allowed new items, where the version has a place for them."""
    return candidates if version.new_items is None else candidates | (allowed & version.new_items.mask)
