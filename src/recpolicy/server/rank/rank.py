"""Rank in reading order: take the request apart, decide slot by slot, store the events, and answer.

A request without slots is one decision. With slots, each slot is a decision between the actions that no earlier slot
took. The events are on disk before the answer. A request with the id of an earlier event gets the earlier answer if it
asks for the same; otherwise it is rejected.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic_core import to_json

from recpolicy.core.errors import DataError, StoreError
from recpolicy.data.feature_columns import MAX_DEPTH
from recpolicy.inference.rank_request import Action, ActionId
from recpolicy.server.db.events import new_event_id, now_ms
from recpolicy.server.db.rank_events import KNOWN, RankEvent, StoredRank, find_rank, row_digest
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.deps import AppState
from recpolicy.server.json_output import encode
from recpolicy.server.live_models import CHAMPION, LoadedVersion
from recpolicy.server.rank.decision import decide


@dataclass(frozen=True)
class Slot:
    """A place for one action."""

    id: str | None = None
    """None: the request has no slots."""
    features: Mapping[str, Any] = field(default_factory=dict)
    excluded: frozenset[ActionId] = frozenset()
    """Actions that may not fill it."""
    baseline: ActionId | None = None
    """The action that the caller would show without a policy; None: the first one that is not excluded."""


@dataclass(frozen=True)
class RankInput:
    """A request to rank, whichever route it came by."""

    context: Mapping[str, Any]
    actions: Sequence[Action]
    slots: Sequence[Slot] = (Slot(),)
    event_id: str | None = None
    """None: the server chooses one."""
    user_key: str | None = None
    """User id, JSON."""
    deferred: bool = False
    """The event counts only after its activation."""
    has_key: bool = True
    """False: online learning leaves the event out, because anybody could have sent it."""
    strict: bool = True
    """Reject features that the policy does not know; False ignores them."""


@dataclass(frozen=True)
class RankedSlot:
    """The answer for one slot."""

    slot_id: str | None
    ranking: Sequence[tuple[ActionId, float]]
    """Actions that were not excluded with their probabilities to be first; the chosen one first, the others by
    score."""


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
        DataError: The policy does not accept the features, or no action is left.
        WrongPolicyKindError: The champion is no policy of features.
        ConflictError: The id belongs to an event of another request.
        QueueFullError: Too many writes wait.
    """
    service, time = state.rank.current, now_ms()
    version = state.ranking_version()
    prepared = _Prepared(request)
    event_id = request.event_id or new_event_id(time)
    decided = _decide_all(version, request, prepared, event_id, service.mode, service.exploration)
    events = [
        RankEvent(
            id=event_id, slot=place, slot_id=slot.id, time=time, user_key=request.user_key,
            version=version.number or 0, policy_digest=version.policy_digest, agent=version.agent, mode=service.mode,
            context=context, offers=b"".join([prepared.digests[at] for at in offers]),
            probabilities=decision.probability.astype("<f8").tobytes(),
            ranking=decision.order.astype("<u2").tobytes(), imitated=decision.imitated,
            request_digest=prepared.digest,
            online=request.has_key, activated_at=None if request.deferred else time,
            rows=tuple([prepared.rows[at] for at in offers]),
        )
        for place, (slot, context, offers, decision) in enumerate(decided)
    ]  # fmt: skip
    known, stored = await _persist(state, events)
    state.metrics.count_ranks(version.number or 0, service.mode, len(events))
    if known:
        return await _answer_again(state, request, prepared, event_id)
    slots = [
        RankedSlot(slot.id, _named(request, offers, decision.order, decision.probability))
        for slot, _, offers, decision in decided
    ]
    return Ranked(event_id, slots, version.describe(CHAMPION), service.mode, stored)


class _Prepared:
    """The JSON and the digests of a request's parts."""

    def __init__(self, request: RankInput):
        self.rows = [_as_json({"id": identity, "features": features}) for identity, features in request.actions]
        self.contexts = [
            _as_json({**request.context, "slot": slot.features} if slot.features else request.context)
            for slot in request.slots
        ]
        self.digests = [row_digest(row) for row in self.rows]
        slots = [[slot.id, sorted(map(encode, slot.excluded)), slot.baseline] for slot in request.slots]
        rest = encode([self.contexts, slots, request.user_key, request.deferred]).encode()
        self.digest = hashlib.blake2b(b"".join(self.digests) + rest, digest_size=16).hexdigest()


def _as_json(value: Mapping[str, Any]) -> str:
    """Return an object as JSON; raises DataError for numbers that are not finite, and for deep nesting.

    The encoder of pydantic takes an eighth of the time of Python's, and writes NaN and Infinity.
    """
    text = to_json(value).decode()
    if "NaN" in text or "Infinity" in text:  # also within a text
        try:
            encode(value)
        except ValueError:
            raise DataError("a feature is NaN or infinite; expected a finite number, or null") from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    return text


def _check_depth(value: Any, depth: int = 0) -> None:
    """Raise DataError for features that are nested too deeply for a log."""
    if depth > MAX_DEPTH:
        raise DataError(f"a feature is nested more than {MAX_DEPTH} levels deep")
    for part in value.values() if isinstance(value, dict) else value:
        if type(part) in (dict, list):
            _check_depth(part, depth + 1)


def _decide_all(
    version: LoadedVersion, request: RankInput, prepared: _Prepared, event_id: str, mode: str, exploration: float
) -> list[tuple[Slot, str, list[int], Any]]:
    """Return slot, context, positions of the offers and decision of each slot."""
    decided: list[tuple[Slot, str, list[int], Any]] = []
    taken: set[int] = set()
    for place, slot in enumerate(request.slots):
        offers = _offers(request, slot, taken)
        context = {**request.context, "slot": slot.features} if slot.features else request.context
        seed = event_id if place == 0 else f"{event_id}/{place}"
        actions = [request.actions[at] for at in offers]
        keys = [prepared.digests[at] for at in offers]
        decision = decide(version.ranker, context, actions, seed, mode, exploration, strict=request.strict, keys=keys)
        taken.add(offers[int(decision.order[0])])
        decided.append((slot, prepared.contexts[place], offers, decision))
    return decided


def _offers(request: RankInput, slot: Slot, taken: set[int]) -> list[int]:
    """Return the positions of the actions that may fill a slot, the baseline first; raises DataError for none."""
    offers = [
        at for at, (identity, _) in enumerate(request.actions) if at not in taken and identity not in slot.excluded
    ]
    if not offers:
        where = "" if slot.id is None else f"slot {slot.id}: "
        raise DataError(f"{where}no action is left after the excluded ones; expected at least one")
    first = next((at for at in offers if request.actions[at][0] == slot.baseline), offers[0])
    return [first, *(at for at in offers if at != first)]


def _named(request: RankInput, offers: Sequence[int], order: Any, probability: Any) -> list[tuple[ActionId, float]]:
    ids = [request.actions[at][0] for at in offers]
    chances = probability.tolist()
    return [(ids[place], chances[place]) for place in order.tolist()]


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


async def _answer_again(state: AppState, request: RankInput, prepared: _Prepared, event_id: str) -> Ranked:
    """Return the answer to an earlier request with the same id; raises ConflictError if it asked for something else."""
    engine = state.require_store().engine

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
    for slot, order, probability in zip(request.slots, known.rankings, known.probabilities, strict=True):
        offers = _offers(request, slot, taken)
        taken.add(offers[int(order[0])])
        slots.append(RankedSlot(slot.id, _named(request, offers, order, np.asarray(probability))))
    version, agent, digest = known.policies[0]
    policy = {"version": version or None, "agent": agent, "policy_digest": digest, "variant": CHAMPION}
    return Ranked(event_id, slots, policy, known.modes[0])
