"""The decisions of one request to rank, slot by slot, by the version that serves its unit.

A request without slots is one decision. With slots, each slot is a decision between the actions that no earlier slot
took. A slot for which no action is left stays empty; a request of which every slot would stay empty is refused.

During a rollout, a request without a user is a unit of its own, so its variant is drawn anew for each event: the
probability of an action is then the mixture over both variants, with the traffic fraction as weight. A user keeps the
variant, so the probabilities of a user's events are those of the user's version.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recpolicy.core.errors import NoActionError
from recpolicy.core.types import Array
from recpolicy.inference.rank_guardrails import RankGuardrails
from recpolicy.inference.rank_request import Action, ActionId
from recpolicy.server.db.rank_events import EXCLUDED, GUARDRAILS
from recpolicy.server.json_output import encode
from recpolicy.server.live_models import CHALLENGER, LiveState, LoadedVersion
from recpolicy.server.rank.action_rows import ActionRow, as_json
from recpolicy.server.rank.decision import Decision, decide


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


class PreparedRank:
    """A request with the id of its event, the settings of its decision, and the JSON and the digests of its parts."""

    def __init__(self, request: RankInput, rows: Sequence[ActionRow], event_id: str, mode: str, exploration: float):
        self.request, self.event_id, self.mode, self.exploration = request, event_id, mode, exploration
        self.rows, self.digests = [row.json for row in rows], [row.digest for row in rows]
        self.contexts = [as_json(self.context_of(place)) for place in range(len(request.slots))]
        slots = [[slot.id, sorted(map(encode, slot.excluded)), slot.baseline] for slot in request.slots]
        rest = encode([self.contexts, slots, request.user_key, request.deferred]).encode()
        self.digest = hashlib.blake2b(b"".join(self.digests) + rest, digest_size=16).hexdigest()

    @property
    def unit(self) -> str:
        """The key that decides the variant: the user, or the event of a request without a user."""
        return self.event_id if self.request.user_key is None else self.request.user_key

    def context_of(self, place: int) -> Mapping[str, Any]:
        """Return the features of the context of the slot at a place."""
        request, slot = self.request, self.request.slots[place]
        return {**request.context, "slot": slot.features} if slot.features else request.context

    def decide(self, version: LoadedVersion, place: int, offers: Sequence[int], earlier: Sequence[int]) -> Decision:
        """Return a version's decision for the slot at a place, between the actions at these positions.

        Args:
            version: The version.
            place: Place of the slot.
            offers: Positions of the actions [A].
            earlier: Positions of the actions of the slots before; slots that stay empty have none, and do not count.

        Raises:
            DataError: What the policy raises.
            NoActionError: The guardrails leave no action.
        """
        request = self.request
        rails = version.guardrails if isinstance(version.guardrails, RankGuardrails) else None
        return decide(
            version.ranker, self.context_of(place),
            [request.actions[at] for at in offers], self.event_id if place == 0 else f"{self.event_id}/{place}",
            self.mode, self.exploration, strict=request.strict, keys=[self.digests[at] for at in offers],
            guardrails=rails, earlier=[request.actions[at] for at in earlier],
            slots=len(request.slots) - (place - len(earlier)),
        )  # fmt: skip


@dataclass(frozen=True)
class DecidedSlot:
    """The decision of a slot that gets an action."""

    place: int
    """Place of the slot in the request."""
    offers: Sequence[int]
    """Positions of the actions [A] in the request, the baseline first."""
    decision: Decision

    @property
    def chosen(self) -> int:
        """The position of the chosen action in the request."""
        return self.offers[int(self.decision.order[0])]


@dataclass(frozen=True)
class UnfilledSlot:
    """A slot for which no action is left."""

    place: int
    cause: str
    """EXCLUDED: the earlier slots and the exclusions leave no action; GUARDRAILS: they close those that are left."""
    reason: str


@dataclass(frozen=True)
class DecidedRank:
    """The decisions of a request."""

    version: LoadedVersion
    variant: str
    rollout: int | None
    """The rollout in whose comparison the event counts."""
    slots: Sequence[DecidedSlot]
    """The slots that get an action, in order; at least one."""
    unfilled: Sequence[UnfilledSlot] = ()
    explored = False
    """The probabilities contain all exploration, so no answer is set apart."""


def decide_rank(live: LiveState, prepared: PreparedRank) -> DecidedRank:
    """Return the decisions of the version that serves the request's unit; raises what the policy raises."""
    version, variant = live.variant_for(prepared.unit)
    return DecidedRank(version, variant, live.rollout, *_fill_slots(prepared, version))


def _fill_slots(prepared: PreparedRank, version: LoadedVersion) -> tuple[list[DecidedSlot], list[UnfilledSlot]]:
    """Return a version's decisions, and the slots that stay empty; raises NoActionError if every slot would."""
    filled: list[DecidedSlot] = []
    unfilled: list[UnfilledSlot] = []
    for place, slot in enumerate(prepared.request.slots):
        earlier = [before.chosen for before in filled]
        offers = offers_of(prepared.request, slot, set(earlier))
        try:
            if not offers:
                raise NoActionError("no action is left after the excluded ones; expected at least one")
            filled.append(DecidedSlot(place, offers, prepared.decide(version, place, offers, earlier)))
        except NoActionError as error:
            reason = str(error) if slot.id is None else f"slot {slot.id}: {error}"
            unfilled.append(UnfilledSlot(place, GUARDRAILS if offers else EXCLUDED, reason))
    if not filled:
        raise NoActionError(unfilled[0].reason)
    return filled, unfilled


def with_mixture(live: LiveState, prepared: PreparedRank, decided: DecidedRank) -> DecidedRank:
    """Return decisions with the probabilities before the draw of the variant, if that is drawn for each event.

    The traffic fraction is the weight of the challenger for the first slot. For later slots, it is the probability of
    the challenger given the actions of the slots before. A slot that only one version leaves empty has a mixture whose
    sum is below 1: the rest is the probability that the slot stays empty.

    A version that fails has no part in the mixture: the champion answers for a challenger that fails, and nobody
    answers for the champion. Such an event does not count in the comparison, whichever variant was drawn.
    """
    weight = live.traffic_fraction
    if prepared.request.user_key is not None or live.challenger is None or live.shadow or not 0 < weight < 1:
        return decided
    if decided.variant != live.variant_for(prepared.unit)[1]:
        return decided  # the champion answered for the challenger
    of_challenger = decided.variant == CHALLENGER
    other = live.champion if of_challenger else live.challenger
    slots: list[DecidedSlot] = []
    every: list[DecidedSlot | UnfilledSlot] = [*decided.slots, *decided.unfilled]
    try:
        for slot in sorted(every, key=lambda slot: slot.place):
            others = _probabilities_after(prepared, other, slot.place, [before.chosen for before in slots])
            if slot.place == 0 and others is None:
                _fill_slots(prepared, other)  # a version that fills no slot fails
            if isinstance(slot, UnfilledSlot):
                if others is not None:  # only this version leaves the slot empty
                    weight = float(of_challenger)
                continue
            own = slot.decision.probability
            others = np.zeros_like(own) if others is None else others
            first, second = (others, own) if of_challenger else (own, others)
            mixture: Array = (1 - weight) * first + weight * second
            at = int(slot.decision.order[0])
            weight = float(weight * second[at] / mixture[at])
            slots.append(replace(slot, decision=replace(slot.decision, probability=mixture)))
    except Exception:  # of any kind; the caller has an answer without it
        return replace(decided, rollout=None)
    return replace(decided, slots=slots)


def _probabilities_after(
    prepared: PreparedRank, version: LoadedVersion, place: int, earlier: Sequence[int]
) -> Array | None:
    """Return a version's probabilities for a slot given the actions before; None if the slot stays empty."""
    offers = offers_of(prepared.request, prepared.request.slots[place], set(earlier))
    try:
        return prepared.decide(version, place, offers, earlier).probability if offers else None
    except NoActionError:
        return None


def offers_of(request: RankInput, slot: Slot, taken: set[int]) -> list[int]:
    """Return the positions of the actions that may fill a slot, the baseline first; empty for none."""
    offers = [
        at for at, (identity, _) in enumerate(request.actions) if at not in taken and identity not in slot.excluded
    ]
    if not offers:
        return []
    first = next((at for at in offers if request.actions[at][0] == slot.baseline), offers[0])
    return [first, *(at for at in offers if at != first)]


def compare_ranks(served: DecidedRank, shadow: DecidedRank) -> tuple[float, float]:
    """Return the share of slots with the same action, and the difference of the rewards that both versions expect.

    Slots that both leave empty count as the same. The difference is shadow - served, for the served action of the first
    slot, whose offers are the same for both; 0 if one of them leaves the slot empty.
    """
    places = len(served.slots) + len(served.unfilled)
    chosen = [{slot.place: slot.chosen for slot in rank.slots} for rank in (served, shadow)]
    agreement = sum(chosen[0].get(place) == chosen[1].get(place) for place in range(places)) / places
    mine, its = served.slots[0], shadow.slots[0]
    if mine.place or its.place:
        return agreement, 0.0
    at = int(mine.decision.order[0])
    difference = float(its.decision.score[at] - mine.decision.score[at])
    return agreement, difference if np.isfinite(difference) else 0.0
