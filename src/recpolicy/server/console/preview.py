"""What a version would show a user, without an event: for looking, not for serving.

A arms of the catalogue, I items, M items told of. Nothing is drawn: ties stand in the order of the catalogue.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import UnknownIdError
from recpolicy.inference.scorer import Prediction, Scorer, load_scorer
from recpolicy.inference.slate_selection import allowed_rows
from recpolicy.registry.model_registry import Registry
from recpolicy.server.live_models import LiveState
from recpolicy.server.recommend import finite
from recpolicy.server.schemas.requests import RecommendRequest

CACHE_BYTES = 1 << 20
"""Of the answers of a version that is only looked at."""


@dataclass(frozen=True)
class RankedPreview:
    """How a version sees the items for one user."""

    scorer: Scorer
    answer: Prediction
    order: NDArray[np.intp]  # item rows that may be shown, best first

    def best(self, k: int) -> list[Hashable]:
        """Ids of the k best."""
        return [self.scorer.item_ids[row] for row in self.order[:k]]

    def told(self, items: Sequence[Hashable]) -> list[dict[str, Any]]:
        """Rank (from 1; None: may not be shown), rating and std [M]; an item that the version lacks is left out."""
        row_of = dict(zip(self.scorer.item_ids, range(len(self.scorer.item_ids)), strict=True))
        rows = np.array([row_of[item] for item in items if item in row_of], np.intp)  # [M]
        rank = np.zeros(len(self.scorer.item_ids), np.intp)  # [I]
        rank[self.order] = np.arange(1, len(self.order) + 1)
        columns = rank[rows].tolist(), finite(self.answer.rating[rows]), finite(self.answer.std[rows])
        return [
            {
                "item_id": self.scorer.item_ids[row], "title": self.scorer.titles[row], "rank": place or None,
                "rating": rating, "std": std,
            }
            for row, place, rating, std in zip(rows.tolist(), *columns, strict=True)
        ]  # fmt: skip


def view(scorer: Scorer, asked: RecommendRequest) -> RankedPreview:
    """What the version makes of a request; raises what the policy raises for ids or filters that it does not know."""
    fold_in = asked.fold_in()
    context = None if asked.context is None else np.array(asked.context, np.float32)
    if fold_in is None and context is None and not scorer.knows(asked.user):
        raise UnknownIdError(f"no user with id {asked.user} in this policy; describe the user by `ratings`")
    answer = scorer.predict_one(asked.user, fold_in, asked.session(), context)
    shown = [one.item for one in asked.history or ()]
    allowed = allowed_rows(
        scorer, asked.user, asked.exclude_rated, asked.genres, asked.first_and_last_year(), [*asked.exclude, *shown],
        fold_in,
    )  # fmt: skip
    arms = np.flatnonzero(allowed)
    best = arms[np.argsort(-answer.score[arms], kind="stable")]
    return RankedPreview(scorer, answer, scorer.catalogue[best].astype(np.intp))


class ScorerCache:
    """Versions that were looked at last, as they were trained; safe to use from several threads."""

    def __init__(self, most: int = 3, load: Callable[[Path, int], Scorer] = load_scorer):
        self._most, self._load = most, load
        self._kept: OrderedDict[tuple[int, str], Scorer] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def version(self, registry: Registry, live: LiveState, number: int) -> Scorer:
        """The version of this number; raises ConfigError where there is none, ArtifactError where it is damaged."""
        for served in (live.champion, live.challenger):
            if served is not None and served.number == number:
                return served.trained
        key = number, registry.version(number).digest
        with self._lock:  # one at a time: a version takes memory while it is loaded
            if key not in self._kept:
                self._kept[key] = self._load(registry.resolve(number), CACHE_BYTES)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return self._kept[key]
