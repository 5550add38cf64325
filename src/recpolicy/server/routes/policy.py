"""Estimates and recommendations.

A single recommendation is computed where the request is read: it takes less time than to hand it to a thread. What may
take longer runs in threads, so that the event loop stays free.
"""

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.server.answers import Estimates, Recommendation, Recommendations
from recpolicy.server.bodies import PredictRequest, RecommendBatch, RecommendRequest
from recpolicy.server.choosing import Chosen, finite
from recpolicy.server.json_answer import json_answer, rows_answer
from recpolicy.server.refusals import REFUSALS, refusal_of
from recpolicy.server.rollout.safely import choose_safely
from recpolicy.server.state import Here, State
from recpolicy.serving.scorer import Scorer

router = APIRouter(prefix="/v1", tags=["policy"], responses=REFUSALS)


@router.post("/predict", response_model=Estimates)
def predict(asked: PredictRequest, here: Here) -> Response:
    """Estimate ratings of movies (all when none are named) by users."""
    return rows_answer(estimates(here.policies.live.champion.scorer, asked.users, asked.movies))


@router.post("/recommend", response_model=Recommendation)
async def recommend(asked: RecommendRequest, here: Here) -> Response:
    """List the movies that the policy values most for a user, best first, and remember what was shown."""
    chosen = choose_safely(here, asked, here.policies.live)
    await remember(here, [chosen])
    return json_answer(chosen.answer)


@router.post("/recommend/batch", response_model=Recommendations)
async def recommend_batch(asked: RecommendBatch, here: Here) -> Response:
    """Answer several requests; one that is refused does not stop the others."""
    answers = await asyncio.to_thread(answer_each, here, asked.requests)
    await remember(here, [one for one in answers if isinstance(one, Chosen)])
    return json_answer({"answers": [one.answer if isinstance(one, Chosen) else one for one in answers]})


def answer_each(here: State, requests: list[RecommendRequest]) -> list[Chosen | dict[str, Any]]:
    """What was chosen for each request, or the error in its place."""
    live = here.policies.live
    answers: list[Chosen | dict[str, Any]] = []
    for asked in requests:
        try:
            answers.append(choose_safely(here, asked, live))
        except (DataError, ConfigError) as error:
            answers.append({"error": {"code": refusal_of(error)[1], "message": str(error)}})
    return answers


async def remember(here: State, chosen: list[Chosen]) -> None:
    """Write the events; they are on the disk when this returns. Without a store the answers lose their event ids."""
    if here.store is None:
        for one in chosen:
            one.answer["event_id"] = None
    elif chosen:
        await here.store.writer.events([one.event for one in chosen])
    for one in chosen:
        here.metrics.events.labels(one.event.version, one.event.variant, one.event.explored).inc()


def estimates(scorer: Scorer, users: list[Any], movies: list[Any] | None) -> list[dict[str, Any]]:
    """Rows of the users one after the other, movies in the order asked."""
    rows = np.arange(len(scorer.movie_ids)) if movies is None else np.array([scorer.movie_row(one) for one in movies])
    rows = rows.astype(np.intp)
    answer = scorer.answers(users)
    ids, titles = [scorer.movie_ids[row] for row in rows], [scorer.titles[row] for row in rows]
    table = []
    for place, user in enumerate(users):
        numbers = (finite(part[place, rows]) for part in (answer.rating, answer.std, answer.propensity))
        value = {} if answer.value is None else {"value": finite(answer.value[place : place + 1])[0]}
        table += [
            {"user_id": user, "movie_id": movie, "title": title, "rating": r, "std": s, "propensity": p, **value}
            for movie, title, r, s, p in zip(ids, titles, *numbers, strict=True)
        ]
    return table
