"""Ranking quality of scores: nDCG within test-rated items; coverage and novelty of the top k of the catalog.

Ties never fall back on the order of a file: every number is its exact expectation over all orders of equal scores
(McSherry & Najork 2008). So an all-equal score is the random policy, and needs no sampling.

- nDCG@k: gain 2^g - 1 for grade g, discount 1/log2(1 + position), over that of the best order (Burges et al. 2005).
- Coverage@k: the expected share of the I items that stand in the top k of at least one user.
- Novelty@k: the mean self-information, in bits, of the items in the top k: -log2((raters + 1) / (U + 1)), raters in
  the train part (Zhou et al. 2010; the 1 keeps items without raters finite). 0 bits:
  everybody rated it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.ratings import Ratings
from recpolicy.evaluation.candidates import Candidates

_BLOCK = 1024  # users ranked at once; bounds the memory beside the score table


def grades(rating: NDArray[np.floating], scale: tuple[float, float]) -> NDArray[np.float64]:
    """Return ratings [N] as grades for nDCG: unchanged on scales within 0..5, others mapped linearly onto 1..5."""
    low, high = scale
    if low >= 0 and high <= 5:
        return rating.astype(np.float64)
    return 1 + 4 * (rating.astype(np.float64) - low) / (high - low)


def ndcg(
    candidates: Candidates, grade: NDArray[np.float64], score: NDArray[np.floating], k: int = 10
) -> NDArray[np.float64]:
    """Return each user's expected nDCG@k [U'] with candidates in descending order of score, ties in random order.

    grade [N] >= 0, score [N]. Where all grades of a user are 0 every order is ideal: 1. Raises DataError for scores
    that are not finite and for k < 1.
    """
    if k < 1 or not np.isfinite(score).all():
        raise DataError(f"nDCG: k is {k} (expected 1 or more) or scores are not finite numbers")
    gain = np.exp2(grade) - 1
    label = np.repeat(np.arange(len(candidates.start)), candidates.size)  # [N], ascending
    position = np.arange(len(label)) - candidates.spread(candidates.start)  # [N], 0 for the first of each user
    discount = np.where(position < k, 1 / np.log2(position + 2), 0.0)
    best = candidates.total(gain[np.lexsort((-gain, label))] * discount)
    order = np.lexsort((-score, label))
    reached = candidates.total(_mean_over_ties(gain[order], score[order], label) * discount)
    return np.divide(reached, best, out=np.ones_like(best), where=best > 0)


def _mean_over_ties(
    gain: NDArray[np.float64], score: NDArray[np.floating], label: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Replace each gain [N] by the mean over the run of equal score and label in which it stands."""
    first = np.concatenate([[True], (score[1:] != score[:-1]) | (label[1:] != label[:-1])])
    start = np.flatnonzero(first)
    size = np.diff(start, append=len(score))
    return np.repeat(np.add.reduceat(gain, start) / size, size)


@dataclass(frozen=True)
class TopItems:
    """The counts of items in the top k of all users, in expectation over the order of ties."""

    count: NDArray[np.float64]  # [I], expected number of users who have the item in their top k
    missed: NDArray[np.float64]  # [I], probability that no user has it there


def top_items(score: NDArray[np.floating], rated: NDArray[np.bool_], k: int = 10) -> TopItems:
    """Rank the items that each user has not rated by descending score and return where the top k fall.

    score [U, I]; rated [U, I] marks items to leave out. Users with fewer than k items left get them all; each user's
    ties are broken independently. Raises DataError for scores that are not finite and for k out of 1..I.
    """
    users, items = score.shape
    if not 1 <= k <= items:
        raise DataError(f"top items: k is {k}; expected 1..{items}")
    count = np.zeros(items)
    log_missed = np.zeros(items)
    for first in range(0, users, _BLOCK):
        block = slice(first, first + _BLOCK)
        if not np.isfinite(score[block]).all():
            raise DataError("top items: scores must be finite numbers for every user and item")
        share = _top_k_probability(np.where(rated[block], -np.inf, score[block]), k)  # [B, I]
        count += share.sum(axis=0)
        with np.errstate(divide="ignore"):  # log 0: surely in a top k
            log_missed += np.log1p(-share).sum(axis=0)
    return TopItems(count, np.exp(log_missed))


def _top_k_probability(score: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """Return the probability [B, I] that each item is among the user's k best; items at -inf never are."""
    threshold = np.partition(score, -k, axis=1)[:, -k, None]  # [B, 1], the k-th best score
    above = score > threshold
    tied = (score == threshold) & (score > -np.inf)
    room = k - above.sum(axis=1, keepdims=True)  # [B, 1], places that the tied items share
    return above + tied * np.minimum(1.0, room / np.maximum(1, tied.sum(axis=1, keepdims=True)))


def coverage(top: TopItems) -> float:
    """Return the expected share of the catalog that is in somebody's top k, in 0..1."""
    return float(np.mean(1 - top.missed))


def self_information(train: Ratings) -> NDArray[np.float64]:
    """Return -log2((raters + 1) / (U + 1)) of each item [I], raters counted in `train`."""
    users, items = train.shape
    raters = np.bincount(train.item, minlength=items)
    return -np.log2((raters + 1) / (users + 1))


def novelty(top: TopItems, information: NDArray[np.float64]) -> float:
    """Return the mean self-information [I] of the items in the users' top k, in bits; 0 if there are none."""
    total = top.count.sum()
    return float(top.count @ information / total) if total > 0 else 0.0
