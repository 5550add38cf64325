"""One recommendation: which version answers, what it shows, and the event that tells of it.

Most requests ask for the best items of a known user and get the same list again and again: it is kept, as JSON, with
the version that made it (ready.py), and only its event is new. A lot decides first whether a request explores, so that
the kept lists are the greedy ones; the propensities count both outcomes.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from recpolicy.core.errors import UnknownIdError
from recpolicy.inference.scorer import FoldIn, Prediction, Scorer
from recpolicy.inference.slate_selection import ExplorationConfig, Slate, allowed_rows, choose_slate, explain
from recpolicy.server.db.clock import now_ms
from recpolicy.server.db.events import key_of, new_event_id
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.response_cache import ReadinessResponse
from recpolicy.server.schemas.requests import RecommendRequest

NO_EXPLORATION = ExplorationConfig(share=0.0)
ENCODE = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Chosen:
    """What is answered, and the event to be written before it is."""

    row: dict[str, Any]
    """The event as a row of the store."""
    policy: str
    """Who chose, as JSON."""
    items: str
    """What is shown, as JSON."""

    @property
    def item_ids(self) -> list[Any]:
        """The items shown, first place first."""
        ids: list[Any] = json.loads(self.row["item_ids"])
        return ids

    @property
    def ratings(self) -> list[float | None]:
        """Their predicted ratings."""
        ratings: list[float | None] = json.loads(self.row["ratings"])
        return ratings

    def text(self, stored: bool = True) -> str:
        """The answer as JSON; without an event id where the event is not kept."""
        event_id = f'"{self.row["id"]}"' if stored else "null"
        explored = "true" if self.row["explored"] else "false"
        return (
            f'{{"event_id":{event_id},"user":{self.row["user_key"]},"policy":{self.policy},"explored":{explored},'
            f'"items":{self.items}}}'
        )


def choose(live: LiveState, asked: RecommendRequest, exploration: ExplorationConfig) -> Chosen:
    """Choose items for one request; raises what the policy raises for users, items or filters it does not know."""
    user_key = key_of(asked.user)
    served, variant = live.variant_for(user_key)
    exploration = exploration if live.exploring else NO_EXPLORATION
    explored = random.random() < exploration.share
    key = (asked.user, asked.k, asked.exclude_rated, exploration)
    ready = served.ready.get(key) if asked.plain and not explored else None
    if ready is None:
        ready, stored = _made(served, asked, exploration, explored)
        if stored:
            served.ready.put(key, ready)
    row = {
        **ready.row, "id": new_event_id(), "time": now_ms(), "user_key": user_key, "version": served.number or 0,
        "content": served.content, "agent": served.agent, "variant": variant, "rollout": live.rollout,
        "explored": explored,
    }  # fmt: skip
    return Chosen(row, served.example_config[variant], ready.items)


def _made(
    served: LoadedVersion, asked: RecommendRequest, exploration: ExplorationConfig, explored: bool
) -> tuple[ReadinessResponse, bool]:
    """The list, and whether the same would be made again: not where it was drawn, or ties were broken by lot."""
    scorer, fold_in = served.scorer, asked.fold_in()
    context = None if asked.context is None else np.array(asked.context, np.float32)
    known = fold_in is None and context is None
    if known and not scorer.knows(asked.user):
        raise UnknownIdError(
            f"no user with id {asked.user} in this policy; describe the user by `ratings` or `context`"
        )
    estimate = scorer.predict_one(asked.user, fold_in, asked.session(), context)
    allowed = allowed_rows(
        scorer, asked.user, asked.exclude_rated, asked.genres, asked.first_and_last_year(),
        [*asked.exclude, *(shown.item for shown in asked.history or ())], fold_in,
    )  # fmt: skip
    slate = choose_slate(estimate.score, allowed, asked.k, exploration, np.random.default_rng(), explored)
    items = _places(scorer, asked, slate, estimate)
    row = {
        "item_ids": ENCODE([item["item_id"] for item in items]),
        "propensities": ENCODE(slate.propensity.tolist()),
        "ratings": ENCODE([item["rating"] for item in items]),
        "allowed": None if allowed.all() else np.packbits(allowed).tobytes(),
        "context": None if known else _context(scorer, asked, fold_in, context),
    }
    return ReadinessResponse(ENCODE(items), row), asked.plain and not explored and not slate.tied


def _context(scorer: Scorer, asked: RecommendRequest, fold_in: FoldIn | None, context: Any) -> bytes:
    """The context that the policy saw of a user whom it does not know, or knows otherwise."""
    contexts = None if context is None else context[np.newaxis]
    row, _ = next(scorer.contexts([asked.user], fold_in or {}, 1, contexts))
    return bytes(row[0].astype(np.float32).tobytes())


def _places(scorer: Scorer, asked: RecommendRequest, slate: Slate, estimate: Prediction) -> list[dict[str, Any]]:
    rows = scorer.catalogue[slate.arms]
    reasons = explain(scorer, asked.user, rows, asked.fold_in())
    columns = zip(
        rows.tolist(), finite(estimate.rating[rows]), finite(estimate.std[rows]), slate.propensity.tolist(), reasons,
        strict=True,
    )  # fmt: skip
    return [
        {
            **_item(scorer, row), "rating": rating, "std": std, "propensity": propensity,
            "because": [_item(scorer, reason) for reason in because],
        }
        for row, rating, std, propensity, because in columns
    ]  # fmt: skip


def _item(scorer: Scorer, row: int) -> dict[str, Any]:
    return {"item_id": scorer.item_ids[row], "title": scorer.titles[row]}


def finite(values: Any) -> list[float | None]:
    """Plain numbers; None for what is not finite."""
    numbers: list[float | None] = values.tolist()
    return numbers if np.isfinite(values).all() else [one if np.isfinite(one) else None for one in numbers]  # type: ignore[arg-type]
