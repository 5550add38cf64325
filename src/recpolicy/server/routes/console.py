"""The console's pages and files, and the routes of its scripts in addition to the public and the admin API.

These routes write no event. Routes that name a version need a reader's key, as the list of versions does. User ids are
listed for readers only: with a list, anybody could give feedback for every user. A setting opens the list to all, but
never one of texts, which may be names or addresses.
"""

import asyncio
from collections.abc import Hashable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.scorer import Learned, Scorer
from recpolicy.server.auth.roles import OptionalCaller, Reader
from recpolicy.server.console import pages, queries
from recpolicy.server.console.queries import BusyError, RankedPreview, ScorerCache, rank_items, read_card
from recpolicy.server.db.events import id_key
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES, status_and_code
from recpolicy.server.json_output import error_response, json_response
from recpolicy.server.live_models import CHAMPION
from recpolicy.server.online.posterior import can_learn
from recpolicy.server.schemas import console
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES

router = APIRouter(tags=["console"])
_WITH_KEY = ERROR_RESPONSES | {401: ADMIN_ERROR_RESPONSES[401], 403: ADMIN_ERROR_RESPONSES[403]}


async def get_scorer_cache(request: Request) -> ScorerCache:
    """Return the versions that the app has loaded for previews."""
    state = request.app.state
    if not hasattr(state, "scorer_cache"):
        state.scorer_cache = ScorerCache()
    scorer_cache: ScorerCache = state.scorer_cache
    return scorer_cache


@router.get("/", include_in_schema=False)
def recommend_page(state: StateDep) -> Response:
    """Return the page with a user's recommendations and ratings."""
    return _page("recommend", state)


@router.get("/compare", include_in_schema=False)
def compare_page(state: StateDep) -> Response:
    """Return the page that compares two versions."""
    return _page("compare", state)


@router.get("/ranks", include_in_schema=False)
def ranks_page(state: StateDep) -> Response:
    """Return the page of ranked events."""
    return _page("ranks", state)


@router.get("/operations", include_in_schema=False)
def operations_page(state: StateDep) -> Response:
    """Return the page for operators."""
    return _page("operations", state)


@router.get("/console/{name}", include_in_schema=False)
def asset(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return a file that the pages load."""
    file = pages.assets().get(name)
    if file is None:
        raise HTTPException(404, "the console has no such file")
    headers = {**pages.HEADERS, "etag": file.tag}
    if if_none_match is not None and file.tag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.kind, headers=headers)


@router.post("/v1/console/users", response_model=console.UserMatches, responses=_WITH_KEY)
def find_users(request: console.SearchRequest, caller: OptionalCaller, state: StateDep) -> Response:
    """Find users by their id or a part of it."""
    scorer = state.models.live.champion.scorer
    named = any(isinstance(user, str) for user in scorer.user_ids[:1])
    listed = state.settings.console.list_users and not named
    if not listed and (caller is None or not caller.has_role("reader")):
        reason = "these user ids are texts, which may be names" if named else "[console] list_users is off"
        raise HTTPException(401 if caller is None else 403, f"listing user ids needs the role reader: {reason}")
    return json_response(
        {"users": queries.find_users(scorer, request.text, request.count), "total": len(scorer.user_ids)}
    )


@router.post("/v1/console/items", response_model=console.ItemMatches, responses=ERROR_RESPONSES)
def find_items(request: console.SearchRequest, state: StateDep) -> Response:
    """Find items by words in their title."""
    return json_response({"items": queries.find_items(state.models.live.champion.scorer, request.text, request.count)})


@router.post("/v1/console/estimates", response_model=console.EstimatesResponse, responses=ERROR_RESPONSES)
async def estimate_items(request: console.EstimatesRequest, state: StateDep) -> Response:
    """Estimate items for a user by the version that serves the user now. The server stores no event."""
    served, variant = state.models.live.variant_for(id_key(request.user))
    scorer, users = served.scorer, await state.users.read_for([served.trained], [request.user])
    learned = users.learned(served.trained, [request.user])
    preview = await asyncio.to_thread(rank_items, scorer, request, state.settings.guardrails, learned)
    estimates = preview.describe(request.items)
    return json_response({"user": request.user, "policy": served.describe(variant), "items": estimates})


@router.post("/v1/admin/compare", response_model=console.Comparison, responses=ADMIN_ERROR_RESPONSES, tags=["admin"])
async def compare_versions(
    request: console.CompareRequest,
    _: Reader,
    state: StateDep,
    scorer_cache: Annotated[ScorerCache, Depends(get_scorer_cache)],
) -> Response:
    """Compare the lists that two versions would recommend to a user. The server stores no event."""
    try:
        scorers = [
            await asyncio.to_thread(_version, state, scorer_cache, number, request.user) for number in request.versions
        ]
    except BusyError as error:
        return error_response(429, "overloaded", str(error), {"retry-after": "1"})
    policies = [_as_trained(state, scorer) for scorer in scorers]
    users = await state.users.read_for(policies, [request.user])
    seen = [
        await asyncio.to_thread(
            _seen, scorer, request, state.settings.guardrails, users.learned(policy, [request.user])
        )
        for scorer, policy in zip(scorers, policies, strict=True)
    ]
    k = request.list_size(max(scorer.list_size for scorer in scorers))
    union = list(
        dict.fromkeys(item for preview in seen if isinstance(preview, RankedPreview) for item in preview.best(k))
    )
    sides = [
        {
            "version": number,
            "agent": scorer.metadata["agent"],
            "policy_digest": scorer.metadata["policy_digest"],
            "items": [],
            **({"items": preview.describe(union)} if isinstance(preview, RankedPreview) else {"error": preview}),
        }
        for number, scorer, preview in zip(request.versions, scorers, seen, strict=True)
    ]
    return json_response({"user": request.user, "k": k, "sides": sides})


@router.get(
    "/v1/admin/simulator", response_model=console.SimulatorCard, responses=ADMIN_ERROR_RESPONSES, tags=["admin"]
)
def show_simulator_card(_: Reader, state: StateDep) -> Response:
    """Show the validation card of the session simulator."""
    return json_response({"card": read_card(state.folder)})


def _page(name: str, state: AppState) -> Response:
    served = state.models.live.champion
    scorer = None if served.ranks else served.trained  # the pages of a policy of features have no users and items
    low, high = (0.0, 1.0) if scorer is None else scorer.scale
    online = state.store is not None and state.settings.online.enabled
    shown = pages.page(
        name,
        policy=served.describe(CHAMPION),
        low=low,
        high=high,
        learns=online and scorer is not None and can_learn(scorer.artifact),
        learns_keyless=state.settings.online.keyless_per_hour > 0,
        stores=state.store is not None,
        filters={"genres": [], "years": None} if scorer is None else queries.list_filters(scorer),
        known_users=0 if scorer is None else len(scorer.user_ids),
        item_label=state.settings.console.item_label,
    )
    return HTMLResponse(shown, headers=dict(pages.HEADERS))


def _version(state: AppState, scorer_cache: ScorerCache, number: int | None, user: Hashable) -> Scorer:
    """Return a version; raises HTTPException 404 for an unknown number, 409 for a damaged one."""
    live = state.models.live
    if number is None:
        return live.variant_for(id_key(user))[0].scorer
    try:
        return scorer_cache.version(state.require_registry(), live, number)
    except BusyError:
        raise
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None


def _as_trained(state: AppState, scorer: Scorer) -> Scorer:
    """Return a version as trained: a live one may have learned since."""
    live = state.models.live
    versions = [live.champion] if live.challenger is None else [live.champion, live.challenger]
    return next((version.trained for version in versions if version.policy is scorer), scorer)


def _seen(
    scorer: Scorer, request: console.CompareRequest, guardrails: GuardrailConfig, learned: Learned
) -> RankedPreview | dict[str, str]:
    """Return the version's ranking, or the reason for its absence."""
    try:
        return rank_items(scorer, request, guardrails, learned)
    except (DataError, ConfigError) as error:
        return {"code": status_and_code(error)[1], "message": str(error)}
