"""One recommendation: which version answers, what it shows, and the event that tells of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recpolicy.core.errors import UnknownIdError
from recpolicy.server.bodies import RecommendRequest
from recpolicy.server.policies import Live, Served
from recpolicy.server.store.clock import now_ms
from recpolicy.server.store.events import Event, key_of, new_event_id
from recpolicy.serving.scorer import Answer, FoldIn, Scorer
from recpolicy.serving.slates import ExplorationConfig, allowed_rows, choose_slate, explain


@dataclass(frozen=True)
class Chosen:
    """What is answered, and the event to be written before it is."""

    answer: dict[str, Any]
    event: Event


NO_EXPLORATION = ExplorationConfig(share=0.0)


def choose(live: Live, asked: RecommendRequest, exploration: ExplorationConfig) -> Chosen:
    """Choose movies for one request; raises what the policy raises for users, movies or filters it does not know."""
    served, variant = live.of(key_of(asked.user))
    scorer, fold_in = served.scorer, asked.fold_in()
    context = None if asked.context is None else np.array(asked.context, np.float32)
    if fold_in is None and context is None and not scorer.knows(asked.user):
        raise UnknownIdError(
            f"no user with id {asked.user} in this policy; describe the user by `ratings` or `context`"
        )
    estimate = scorer.answer(asked.user, fold_in, asked.session(), context)
    allowed = allowed_rows(
        scorer, asked.user, asked.exclude_rated, asked.genres, asked.first_and_last_year(),
        [*asked.exclude, *(shown.movie for shown in asked.history or ())], fold_in,
    )  # fmt: skip
    exploration = exploration if live.exploring else NO_EXPLORATION
    slate = choose_slate(estimate.score, allowed, asked.k, exploration, np.random.default_rng())
    rows = scorer.catalogue[slate.arms]
    movies = _places(scorer, rows, estimate, slate.propensity)
    for movie, reasons in zip(movies, explain(scorer, asked.user, rows, fold_in), strict=True):
        movie["because"] = [{"movie_id": scorer.movie_ids[row], "title": scorer.titles[row]} for row in reasons]
    known = fold_in is None and context is None
    event = Event(
        id=new_event_id(), time=now_ms(), user=asked.user, version=served.number or 0, content=served.content,
        agent=served.agent, variant=variant, rollout=live.rollout, explored=slate.explored,
        movies=[movie["movie_id"] for movie in movies], propensities=slate.propensity.tolist(),
        ratings=[movie["rating"] for movie in movies],
        allowed=None if allowed.all() else np.packbits(allowed).tobytes(),
        context=None if known else _context(scorer, asked, fold_in, context),
    )  # fmt: skip
    answer = {
        "event_id": event.id, "user": asked.user, "policy": describe(served, variant), "explored": slate.explored,
        "movies": movies,
    }  # fmt: skip
    return Chosen(answer, event)


def describe(served: Served, variant: str) -> dict[str, Any]:
    """The `policy` of an answer."""
    return {"version": served.number, "agent": served.agent, "content": served.content, "variant": variant}


def _context(scorer: Scorer, asked: RecommendRequest, fold_in: FoldIn | None, context: Any) -> bytes:
    """The context that the policy saw of a user whom it does not know, or knows otherwise."""
    contexts = None if context is None else context[np.newaxis]
    row, _ = next(scorer.situations([asked.user], fold_in or {}, 1, contexts))
    return bytes(row[0].astype(np.float32).tobytes())


def _places(scorer: Scorer, rows: Any, estimate: Answer, propensity: Any) -> list[dict[str, Any]]:
    columns = zip(
        rows.tolist(), finite(estimate.rating[rows]), finite(estimate.std[rows]), propensity.tolist(), strict=True
    )
    return [
        {"movie_id": scorer.movie_ids[row], "title": scorer.titles[row], "rating": rating, "std": std, "propensity": p}
        for row, rating, std, p in columns
    ]


def finite(values: Any) -> list[float | None]:
    """Plain numbers; None for what is not finite."""
    numbers: list[float | None] = values.tolist()
    return numbers if np.isfinite(values).all() else [one if np.isfinite(one) else None for one in numbers]  # type: ignore[arg-type]
