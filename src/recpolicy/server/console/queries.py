"""Data of the console: a version's ranking for a user, searches for users and items, and the simulator's card.

A arms of the catalog, I items, M described items. No query writes an event. Rankings are not random: ties stay in the
order of the catalog. `recpolicy simulator validate --out STATE/simulator` writes the card.
"""

import json
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import rename_keys
from recpolicy.core.ids import convert_id
from recpolicy.core.lru import LRUCache
from recpolicy.inference.guarded_lists import guarded_slates
from recpolicy.inference.guardrails import GuardrailConfig, bind, of_request
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.scorer import Learned, Prediction, Scorer
from recpolicy.inference.slate_selection import ExplorationConfig, allowed_rows
from recpolicy.registry.model_registry import Registry
from recpolicy.server.json_output import finite
from recpolicy.server.live_models import LiveState
from recpolicy.server.schemas.requests import RecommendRequest

CACHE_BYTES = 1 << 20
"""Cache size of a version that is only previewed."""
PREVIEW_BYTES = 96 << 20
"""Size of the versions that are kept for previews; one of MovieLens 100K has 15 MiB."""
_REFUSED_VERSIONS, _REFUSED_SECONDS, _WAIT_SECONDS = 100, 60.0, 1.0
NO_GUARDRAILS = GuardrailConfig()
CARD = Path("simulator", "card.json")
MAX_CARD_BYTES = 4 << 20
CARD_FIELDS = ("world", "split", "seed", "passed", "gates", "counts", "figures")
"""Fields that the console shows; curves and settings stay in the file."""
_POPULAR: "WeakKeyDictionary[Scorer, NDArray[np.intp]]" = WeakKeyDictionary()


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


def rank_items(
    scorer: Scorer,
    request: RecommendRequest,
    config: GuardrailConfig = NO_GUARDRAILS,
    learned: Learned | None = None,
) -> RankedPreview:
    """Return a version's ranking for a request; raises what the policy raises for unknown ids or filters.

    Under guardrails, the list that they allow comes first, then the other items that they do not exclude as such.
    """
    fold_in = request.fold_in()
    context = None if request.context is None else np.array(request.context, np.float32)
    if fold_in is not None or context is not None:
        learned = None
    elif not learned and not scorer.knows(request.user):
        raise scorer.unknown_user_error([request.user], "describe the user by `ratings`")
    answer = scorer.predict_one(request.user, fold_in, request.session(), context, learned)
    excluded = [*request.exclude, *(each.item for each in request.history or ())]
    years = request.first_and_last_year()
    allowed = allowed_rows(
        scorer, request.user, request.exclude_rated, request.genres, years, excluded, fold_in, learned
    )
    listed = np.empty(0, np.intp)
    own = None if request.guardrails is None else request.guardrails.config()
    k = request.list_size(scorer.list_size)
    rails = of_request(bind(config, scorer) if config.active else None, own, k, scorer)
    if rails is not None:
        rating, nobody = answer.rating[scorer.action_items], np.array([False])
        slate = guarded_slates(
            answer.score[np.newaxis], rating[np.newaxis], allowed[np.newaxis], k, rails,
            ExplorationConfig(share=0.0), np.random.default_rng(0), nobody,
        )[0]  # fmt: skip
        listed, allowed = slate.arms, slate.allowed
    arms = np.setdiff1d(np.flatnonzero(allowed), listed)
    best = np.concatenate([listed, arms[np.argsort(-answer.score[arms], kind="stable")]])
    return RankedPreview(scorer, answer, scorer.action_items[best].astype(np.intp))


class BusyError(ConfigError):
    """Another version is being loaded for a preview."""


class ScorerCache:
    """A cache of the versions that were previewed last, as trained; safe for several threads.

    A reader's key is enough for a preview, so its cost is bounded: one version is loaded at a time, versions are kept
    up to `max_bytes`, and one that does not load is not tried again for a minute.
    """

    def __init__(self, max_bytes: int = PREVIEW_BYTES, load: Callable[[Path, int], Scorer] = load_scorer):
        self._load = load
        self._scorers: LRUCache[Scorer] = LRUCache(max_bytes)
        self._refused: LRUCache[tuple[float, str]] = LRUCache(_REFUSED_VERSIONS)
        self._loading = threading.Lock()

    def __len__(self) -> int:
        return len(self._scorers)

    def version(self, registry: Registry, live: LiveState, number: int) -> Scorer:
        """Return the version of a number.

        Raises ConfigError for an unknown one, ArtifactError for one that is damaged or cannot answer, BusyError while
        another version is loaded.
        """
        for served in (live.champion, live.challenger):
            if served is not None and served.number == number:
                return served.trained
        key = number, registry.version(number).digest
        known = self._scorers.get(key)
        if known is not None:
            return known
        until, fault = self._refused.get(key) or (0.0, "")
        if time.monotonic() < until:
            raise ArtifactError(fault)
        if not self._loading.acquire(timeout=_WAIT_SECONDS):
            raise BusyError("the server is loading another version for a preview; try again")
        try:
            known = self._scorers.get(key)
            if known is None:
                known = self._load(registry.resolve(number), CACHE_BYTES)
                self._scorers.put(key, known, _size(known))
            return known
        except ArtifactError as error:
            self._refused.put(key, (time.monotonic() + _REFUSED_SECONDS, str(error)))
            raise
        finally:
            self._loading.release()


def _size(scorer: Scorer) -> int:
    """Return the bytes of a version's arrays."""
    artifact = scorer.artifact
    arrays = [*vars(artifact).values(), *artifact.policy.values()]
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def find_users(scorer: Scorer, text: str, count: int) -> list[Hashable]:
    """Return the first users whose id equals, begins with or contains the text, in that order; an empty text matches
    all.
    """
    sought = text.strip()
    exact = [user for user in (sought, convert_id(sought, [0])) if scorer.knows(user)]
    begins = (user for user in scorer.user_ids if str(user).startswith(sought))
    holds = (user for user in scorer.user_ids if sought in str(user))
    matches = dict.fromkeys(exact)
    for several in (begins, holds):
        matches |= dict.fromkeys(islice(several, count))
    return list(matches)[:count]


def find_items(scorer: Scorer, text: str, count: int) -> list[dict[str, Any]]:
    """Return the items with the most ratings whose title has all the words; an empty text matches all."""
    words = text.casefold().split()
    rows = (
        row for row in _by_popularity(scorer).tolist()
        if all(word in str(scorer.titles[row] or "").casefold() for word in words)
    )  # fmt: skip
    return [
        {"item_id": scorer.item_ids[row], "title": scorer.titles[row], "genres": _genres(scorer, row)}
        for row in islice(rows, count)
    ]


def list_filters(scorer: Scorer) -> Mapping[str, Any]:
    """Return the values of the filters of a list: genres, first and last year (None if the years are unknown)."""
    years = scorer.years[np.isfinite(scorer.years)]
    ends = (int(years.min()), int(years.max())) if len(years) else None
    return {"genres": list(scorer.genre_names), "years": ends}


def _by_popularity(scorer: Scorer) -> NDArray[np.intp]:
    """Return the item rows [I], most often rated first."""
    if scorer not in _POPULAR:
        count = np.bincount(scorer.artifact.rated_item, minlength=len(scorer.item_ids))
        _POPULAR[scorer] = np.argsort(-count, kind="stable")
    return _POPULAR[scorer]


def _genres(scorer: Scorer, row: int) -> list[str]:
    return [name for name, has in zip(scorer.genre_names, scorer.genres[row].tolist(), strict=True) if has]


def read_card(folder: Path | None) -> dict[str, Any] | None:
    """Return the card in a state folder; None without a valid one."""
    if folder is None:
        return None
    path = folder / CARD
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            return None
        body = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("gates"), dict):
        return None
    body["gates"] = {name: rename_keys(gate, {"figure": "value"}) for name, gate in body["gates"].items()}
    return {name: body[name] for name in CARD_FIELDS if name in body}
