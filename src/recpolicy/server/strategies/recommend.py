"""POST /v1/strategies/recommend in reading order: find the profile, draw a strategy, store the event, answer.

A profile comes with the request, or from the table of users who agreed. The event holds the traits only with the
user's consent; the job learns from such events only. Without a profile the answer comes from the means of all users.
A request with the id of an earlier event gets the earlier strategy if it asks for the same.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recpolicy.core.errors import DataError, StoreError
from recpolicy.server.db.events import new_event_id, now_ms
from recpolicy.server.db.rank_events import KNOWN, RankEvent, StoredRank, find_rank
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.schema import STRATEGY
from recpolicy.server.db.strategy_profiles import StoredProfile, get_profile
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.deps import AppState
from recpolicy.server.json_output import encode
from recpolicy.server.live_models import CHAMPION
from recpolicy.server.strategies.chances import Chances, check_situation
from recpolicy.server.strategies.service import LiveStrategies, StrategyService
from recpolicy.strategies.artifact import AGENT
from recpolicy.strategies.config import SESSION, SITUATION
from recpolicy.strategies.policy import StrategyAnswer
from recpolicy.strategies.state import StrategyRequest


@dataclass(frozen=True)
class StrategyInput:
    """A request for a strategy."""

    content_type: str
    mood: str
    time_of_day: str
    profile: Mapping[str, float] | None = None
    """The traits; None: the stored ones of the user, if there are any."""
    user_key: str | None = None
    """User id, JSON."""
    opt_in: bool = False
    """True: the user agrees that the event holds the traits of the request."""
    session: str | None = None
    """Requests of one session follow one another."""
    event_id: str | None = None
    """None: the server chooses one."""
    has_key: bool = True
    """False: stored profiles are not used, and nothing is learned from the event."""


@dataclass(frozen=True)
class Recommended:
    """The answer to a request."""

    event_id: str
    answer: StrategyAnswer
    item_weights: Mapping[str, float]
    policy: Mapping[str, Any]
    stored: bool = True
    """False: the event is not on disk."""
    repeated: bool = False
    """True: the id belongs to an earlier request for the same."""


async def recommend_strategy(state: AppState, service: StrategyService, request: StrategyInput) -> Recommended:
    """Draw a strategy for a request and store the event.

    Raises:
        DataError: The profile or the situation does not fit the config, or opt_in names no user.
        ConflictError: The id belongs to an event of another request.
        QueueFullError: Too many writes wait.
    """
    live, time = service.live, now_ms()
    event_id = request.event_id or new_event_id(time)
    if request.opt_in and request.user_key is None:
        raise DataError("opt_in is true and user is missing: expected the user, so that the traits can be erased")
    profile, agreed = await _profile(state, request)
    if profile is None:
        check_situation(live.policy, request.content_type, request.mood, request.time_of_day)
        chances = live.without_profile
    else:
        chances = live.chances(StrategyRequest(profile, request.content_type, request.mood, request.time_of_day))
    answer = chances.answer(live.policy, event_id)
    event = _event(live, request, profile if agreed else None, answer, chances, event_id, time)
    known, stored = await _persist(state, event)
    if known:
        return await _answer_again(state, live, event)
    state.metrics.count_strategy(live.number, answer.source, answer.explored)
    return Recommended(event_id, answer, live.item_weights[answer.action], live.describe(), stored)


async def _profile(state: AppState, request: StrategyInput) -> tuple[Mapping[str, float] | None, bool]:
    """Return the profile to use, and whether the user agreed that the server keeps it."""
    if request.profile is not None:
        return request.profile, request.opt_in
    if request.user_key is None or not request.has_key or state.store is None:
        return None, False
    user_key, engine = request.user_key, state.store.engine

    def find() -> StoredProfile | None:
        with engine.connect() as connection:
            return get_profile(connection, user_key)

    stored = None if state.store.writer.down else await asyncio.to_thread(find)
    return (None, False) if stored is None else (stored.profile, True)


def _event(
    live: LiveStrategies, request: StrategyInput, profile: Mapping[str, float] | None, answer: StrategyAnswer,
    chances: Chances, event_id: str, time: int,
) -> RankEvent:  # fmt: skip
    """Return the event; its mode is the source of the estimate."""
    context: dict[str, Any] = {part: getattr(request, part) for part in SITUATION}
    context |= {} if request.session is None else {SESSION: request.session}
    context = {**(profile or {}), **context}
    asked = encode([context, request.user_key, request.opt_in]).encode()
    return RankEvent(
        id=event_id, slot=0, slot_id=None, time=time, user_key=request.user_key, version=live.number,
        policy_digest=live.policy.policy_digest, agent=AGENT, mode=answer.source, context=encode(context),
        offers=live.offers, probabilities=chances.probability_bytes, ranking=chances.ranking_bytes(answer.action),
        imitated=None, request_digest=hashlib.blake2b(asked, digest_size=16).hexdigest(), online=request.has_key,
        activated_at=time, variant=CHAMPION, rollout=None, task=STRATEGY, guardrails=None, rows=live.rows,
    )  # fmt: skip


async def _persist(state: AppState, event: RankEvent) -> tuple[bool, bool]:
    """Write the event; return whether the id was known, and whether it is on disk."""
    if state.store is None:
        return False, False
    try:
        outcomes = await state.store.writer.ranks([event])
    except QueueFullError:
        raise
    except StoreError:
        state.metrics.lost.inc()
        return False, False
    return any(outcome.status == KNOWN for outcome in outcomes), True


async def _answer_again(state: AppState, live: LiveStrategies, event: RankEvent) -> Recommended:
    """Return the strategy of the earlier event of an id; raise ConflictError if it was asked for something else."""
    engine = state.require_store().engine

    def find() -> StoredRank | None:
        with engine.connect() as connection:
            return find_rank(connection, event.id)

    known = await asyncio.to_thread(find)
    if known is None or known.request_digest != event.request_digest:
        raise ConflictError("the event_id belongs to an earlier event of another request; send another id")
    action, probability = int(known.rankings[0][0]), known.probabilities[0]
    config = live.policy.config
    answer = StrategyAnswer(
        strategy=config.strategies[action], action=action, parameters=config.parameters[action],
        propensity=float(probability[action]), expected_reward=float("nan"), source=known.mode,  # type: ignore[arg-type]
        explored=bool(probability[action] < probability.max()),
    )  # fmt: skip
    policy = {name: value for name, value in known.policy.items() if name != "variant"}
    return Recommended(event.id, answer, live.item_weights[action], policy, repeated=True)
