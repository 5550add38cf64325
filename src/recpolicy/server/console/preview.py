"""A version's ranking of the items for a user, without an event.

A arms of the catalog, I items, M described items. Nothing is random: ties stay in the order of the catalog.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import UnknownIdError
from recpolicy.core.lru import LRUCache
from recpolicy.inference.scorer import Prediction, Scorer, load_scorer
from recpolicy.inference.slate_selection import allowed_rows
from recpolicy.registry.model_registry import Registry
from recpolicy.server.live_models import LiveState
from recpolicy.server.recommend import finite
from recpolicy.server.schemas.requests import RecommendRequest

CACHE_BYTES = 1 << 20
"""Cache size of a version that is only previewed."""


@dataclass(frozen=True)
class RankedPreview:
    """A version's ranking of the items for one user."""

    scorer: Scorer
    answer: Prediction
    order: NDArray[np.intp]  # rows of the allowed items, best first

    def best(self, k: int) -> list[Hashable]:
        """Return the ids of the k best items."""
        return [self.scorer.item_ids[row] for row in self.order[:k]]

    def describe(self, items: Sequence[Hashable]) -> list[dict[str, Any]]:
        """Return rank (from 1; None: not allowed), rating and std [M], without items that the version lacks."""
        row_by_item = dict(zip(self.scorer.item_ids, range(len(self.scorer.item_ids)), strict=True))
        rows = np.array([row_by_item[item] for item in items if item in row_by_item], np.intp)  # [M]
        rank = np.zeros(len(self.scorer.item_ids), np.intp)  # [I]
        rank[self.order] = np.arange(1, len(self.order) + 1)
        columns = rank[rows].tolist(), finite(self.answer.rating[rows]), finite(self.answer.std[rows])
        return [
            {
                "item_id": self.scorer.item_ids[row],
                "title": self.scorer.titles[row],
                "rank": place or None,
                "rating": rating,
                "std": std,
            }
            for row, place, rating, std in zip(rows.tolist(), *columns, strict=True)
        ]


def rank_items(scorer: Scorer, request: RecommendRequest) -> RankedPreview:
    """Return a version's ranking for a request; raises what the policy raises for unknown ids or filters."""
    fold_in = request.fold_in()
    context = None if request.context is None else np.array(request.context, np.float32)
    if fold_in is None and context is None and not scorer.knows(request.user):
        raise UnknownIdError(f"no user with id {request.user} in this policy; describe the user by `ratings`")
    answer = scorer.predict_one(request.user, fold_in, request.session(), context)
    excluded = [*request.exclude, *(each.item for each in request.history or ())]
    years = request.first_and_last_year()
    allowed = allowed_rows(scorer, request.user, request.exclude_rated, request.genres, years, excluded, fold_in)
    arms = np.flatnonzero(allowed)
    best = arms[np.argsort(-answer.score[arms], kind="stable")]
    return RankedPreview(scorer, answer, scorer.action_items[best].astype(np.intp))


class ScorerCache:
    """A cache of the versions that were previewed last, as trained; safe for several threads."""

    def __init__(self, max_versions: int = 3, load: Callable[[Path, int], Scorer] = load_scorer):
        self._load = load
        self._scorers: LRUCache[Scorer] = LRUCache(max_versions)

    def __len__(self) -> int:
        return len(self._scorers)

    def version(self, registry: Registry, live: LiveState, number: int) -> Scorer:
        """Return the version of a number; raises ConfigError for an unknown one, ArtifactError for a damaged one."""
        for served in (live.champion, live.challenger):
            if served is not None and served.number == number:
                return served.trained
        key = number, registry.version(number).digest
        return self._scorers.get_or_load(key, lambda: self._load(registry.resolve(number), CACHE_BYTES))
