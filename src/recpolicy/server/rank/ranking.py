"""Rank in reading order: take the request apart, decide, store the events, and answer.

The events are on disk before the answer. A request with the id of an earlier event gets the earlier answer if it asks
for the same; otherwise it is rejected.
"""

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recpolicy.core.errors import StoreError
from recpolicy.core.types import Bools
from recpolicy.inference.rank_request import ActionId
from recpolicy.server.db.events import new_event_id, now_ms
from recpolicy.server.db.guardrail_record import pack_rank
from recpolicy.server.db.rank_events import APPRENTICE, GUARDRAILS, KNOWN, ONLINE, RankEvent, StoredRank, find_rank
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.schema import RANK, UNFILLED
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.deps import AppState
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.rank.decision import Decision
from recpolicy.server.rank.ranker import UncertainRanker
from recpolicy.server.rank.slot_decisions import (
    DecidedRank,
    PreparedRank,
    RankInput,
    decide_rank,
    offers_of,
    with_mixture,
)
from recpolicy.server.rollout.variant_answers import answer_by_variant

STD_SAMPLE = 16
"""One of so many ranks, by its id, is observed in `recpolicy_chosen_std`: most agents choose without it."""


@dataclass(frozen=True)
class RankedSlot:
    """The answer for one slot."""

    slot_id: str | None
    ranking: Sequence[tuple[ActionId, float]]
    """Actions that were not excluded with their probabilities to be first; the chosen one first, the others by
    score."""
    closed: Sequence[ActionId] = ()
    """Actions that guardrails leave out of the ranking."""
    unfilled: str | None = None
    """Why the slot has no action: EXCLUDED or GUARDRAILS; None if it has one."""


@dataclass(frozen=True)
class Ranked:
    """The answer to a request."""

    event_id: str
    slots: Sequence[RankedSlot]
    policy: Mapping[str, Any]
    mode: str
    stored: bool = True
    """False: the event is not on disk."""


async def rank(state: AppState, request: RankInput) -> Ranked:
    """Rank the actions of a request and store the event.

    Raises:
        DataError: The policy does not accept the features.
        NoActionError: No action is left for any slot.
        WrongPolicyKindError: The champion is no policy of features.
        ConflictError: The id belongs to an event of another request.
        QueueFullError: Too many writes wait.
    """
    service, time, live = state.rank.current, now_ms(), state.ranking_state()
    rows, event_id = state.action_rows.of(request.actions), request.event_id or new_event_id(time)
    prepared = PreparedRank(request, rows, event_id, service.mode, service.exploration)
    decided = _decide(state, live, prepared)
    version = decided.version
    known, stored = await _persist(state, _events(prepared, decided, time))
    if known:
        return await _answer_again(state, prepared)
    state.metrics.count_ranks(version.number or 0, decided.variant, service.mode, len(decided.slots))
    for empty in decided.unfilled:
        state.metrics.unfilled.labels(version.number or 0, empty.cause).inc()
    if service.mode == ONLINE:
        scores = [(slot.decision.score, int(slot.decision.order[0])) for slot in decided.slots]
        not_greedy = sum(bool(score[chosen] < score.max()) for score, chosen in scores)
        state.metrics.count_not_greedy(version.number or 0, RANK, not_greedy)
    _observe_std(state, prepared, decided)
    if service.mode == APPRENTICE:
        state.metrics.count_imitations([bool(slot.decision.imitated) for slot in decided.slots])
    slots: list[RankedSlot] = [RankedSlot(slot.id, ()) for slot in request.slots]
    for slot in decided.slots:
        decision = slot.decision
        slots[slot.place] = _ranked_slot(
            request, request.slots[slot.place].id, slot.offers, decision.order, decision.probability, decision.closed
        )
    for empty in decided.unfilled:
        slots[empty.place] = RankedSlot(request.slots[empty.place].id, (), unfilled=empty.cause)
    return Ranked(prepared.event_id, slots, version.describe(decided.variant), service.mode, stored)


def _events(prepared: PreparedRank, decided: DecidedRank, time: int) -> list[RankEvent]:
    """Return the rows of a request's slots. A slot without an action has no offers and counts in no comparison."""
    request, version = prepared.request, decided.version
    filled = {slot.place: slot for slot in decided.slots}
    causes = {slot.place: slot.cause for slot in decided.unfilled}
    events = []
    for place, wanted in enumerate(request.slots):
        slot = filled.get(place)
        offers = () if slot is None else slot.offers
        if slot is None:
            rails = version.guardrails if causes[place] == GUARDRAILS else None
            guardrails = None if rails is None else pack_rank(rails.digest, np.zeros(0, bool))
        else:
            guardrails = _record(version, slot.decision)
        events.append(
            RankEvent(
                id=prepared.event_id, slot=place, slot_id=wanted.id, time=time, user_key=request.user_key,
                version=version.number or 0, policy_digest=version.policy_digest, agent=version.agent,
                mode=prepared.mode, context=prepared.contexts[place],
                offers=b"".join([prepared.digests[at] for at in offers]),
                probabilities=b"" if slot is None else slot.decision.probability.astype("<f8").tobytes(),
                ranking=b"" if slot is None else slot.decision.order.astype("<u2").tobytes(),
                imitated=None if slot is None else slot.decision.imitated, request_digest=prepared.digest,
                online=request.has_key, activated_at=None if request.deferred else time, variant=decided.variant,
                rollout=None if slot is None else decided.rollout, task=UNFILLED if slot is None else None,
                guardrails=guardrails, rows=tuple([prepared.rows[at] for at in offers]),
            )
        )  # fmt: skip
    return events


def _decide(state: AppState, live: LiveState, prepared: PreparedRank) -> DecidedRank:
    """Return the decisions of the request's variant, and let a shadow challenger compare a share of them."""
    if live.challenger is None:
        return decide_rank(live, prepared)
    decided = answer_by_variant(state, live, prepared.unit, lambda live: decide_rank(live, prepared))
    if live.shadow:
        state.rollout_counters.shadow.offer(live, prepared, decided, state.settings.rollout.shadow_sample)
    return with_mixture(live, prepared, decided)


def _observe_std(state: AppState, prepared: PreparedRank, decided: DecidedRank) -> None:
    """Observe, for a sample of the ranks, the standard deviation of the expected reward of the first slot's action."""
    ranker = decided.version.ranker
    if zlib.crc32(prepared.event_id.encode()) % STD_SAMPLE or not isinstance(ranker, UncertainRanker):
        return
    at = decided.slots[0].chosen
    stds = ranker.estimate_stds(
        prepared.context_of(decided.slots[0].place), [prepared.request.actions[at]], keys=[prepared.digests[at]]
    )
    if stds is not None:
        state.metrics.observe_choice_of_rank(decided.version.number or 0, float(stds[0]))


def _ranked_slot(
    request: RankInput, slot_id: str | None, offers: Sequence[int], order: Any, probability: Any, closed: Bools
) -> RankedSlot:
    """Return the answer for a slot; order, probability and closed [A], of the actions at the positions `offers`."""
    ids = [request.actions[at][0] for at in offers]
    chances, hidden = probability.tolist(), closed.tolist()
    ranking = [(ids[place], chances[place]) for place in order.tolist() if not hidden[place]]
    return RankedSlot(slot_id, ranking, [ids[place] for place in order.tolist() if hidden[place]])


def _record(version: LoadedVersion, decision: Decision) -> bytes | None:
    """Return the record of a slot's guardrails; None without any."""
    rails = version.guardrails
    if rails is None:
        return None
    return pack_rank(rails.digest, decision.closed & (decision.probability == 0))


async def _persist(state: AppState, events: Sequence[RankEvent]) -> tuple[bool, bool]:
    """Write the events; return whether the id was known, and whether they are on disk.

    If neither database nor spool accepts them, the caller still gets its ranking.
    """
    if state.store is None:
        return False, False
    try:
        outcomes = await state.store.writer.ranks(events)
    except QueueFullError:
        raise
    except StoreError:
        state.metrics.lost.inc(len(events))
        return False, False
    return any(outcome.status == KNOWN for outcome in outcomes), True


async def _answer_again(state: AppState, prepared: PreparedRank) -> Ranked:
    """Return the answer to an earlier request with the same id; raises ConflictError if it asked for something else."""
    engine, request, event_id = state.require_store().engine, prepared.request, prepared.event_id

    def find() -> StoredRank | None:
        with engine.connect() as connection:
            return find_rank(connection, event_id)

    known = await asyncio.to_thread(find)
    if known is None or known.request_digest != prepared.digest:
        raise ConflictError(
            "the event_id belongs to an earlier event with other actions, context or options; send another id"
        )
    taken: set[int] = set()
    slots = []
    stored = zip(request.slots, known.rankings, known.probabilities, known.closed, known.unfilled, strict=True)
    for slot, order, probability, closed, cause in stored:
        if cause is not None:
            slots.append(RankedSlot(slot.id, (), unfilled=cause))
            continue
        offers = offers_of(request, slot, taken)
        taken.add(offers[int(order[0])])
        slots.append(_ranked_slot(request, slot.id, offers, order, np.asarray(probability), closed))
    return Ranked(event_id, slots, known.policy, known.mode)
