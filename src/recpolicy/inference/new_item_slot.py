"""One place of a list for a new item: its draw, and the propensities of all places.

A arms of the catalog, K places. With probability `share` a list has a new item at one fixed place, drawn by the shares
of the new items that the request allows. All other places come from the policy, which chooses among the other items.
So the item at that place tells which of the two a list is, and every propensity is exact:

- the new item: `share` times its chance among the allowed new items;
- an item of the policy at that place: 1 - `share` times the policy's propensity;
- any other place: the policy's propensity.

Where a request allows no new item, or too few others for a whole list, the list is the policy's among all items.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from recpolicy.core.types import Array, Bools
from recpolicy.inference.guarded_draw import GuardedSlate, replay_list
from recpolicy.inference.guarded_lists import guarded_slates
from recpolicy.inference.guardrails import Guardrails
from recpolicy.inference.slate_selection import ExplorationConfig, Slate, choose_slate

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from recpolicy.inference.scorer import Scorer

AnySlate = TypeVar("AnySlate", bound=Slate)


@dataclass(frozen=True)
class NewItemSlot:
    """The place for new items over the catalog of one policy."""

    probability: Array  # [A], of each new item; 0 for other items
    share: float
    """Probability, above 0, that a list has a new item."""
    place: int = 0
    """Place of the new item, from 1; 0: the last one. Under guardrails it is the last one."""

    @property
    def mask(self) -> Bools:
        """Return True [A] for the new items."""
        return self.probability > 0

    def others(self, allowed: Bools, k: int, guardrails: Guardrails | None = None) -> Bools:
        """Return the items among which the policy chooses, of those that requests allow; both [..., A].

        They are all allowed ones where no new item is allowed, or where the rest cannot fill a list of k places, or the
        places that the guardrails reserve. Full categories may still make a list shorter than new items would.
        """
        new = allowed & self.mask
        rest = allowed & ~self.mask
        apart = new.any(axis=-1, keepdims=True) & (rest.sum(axis=-1, keepdims=True) >= k)
        if guardrails is not None and guardrails.min_marked:
            marked = (rest & guardrails.marked).sum(axis=-1, keepdims=True)
            apart &= marked >= min(guardrails.min_marked, k)
        result: Bools = np.where(apart, rest, allowed)
        return result

    def policy_lists(
        self, slates: "Sequence[Slate | None]", allowed: Bools, others: Bools, k: int
    ) -> "list[Slate | None]":
        """Return the policy's lists of n users, with the propensities of the mixture; None stays None.

        Args:
            slates: The lists among the other items.
            allowed: [n, A], by the filters of the requests.
            others: [n, A], as `others` returns them.
            k: Places of a list.
        """
        open_place = np.count_nonzero(allowed & ~others, axis=1).tolist()
        return [
            self.without_new(slate, k) if slate is not None and has_place else slate
            for slate, has_place in zip(slates, open_place, strict=True)
        ]

    def without_new(self, slate: AnySlate, k: int) -> AnySlate:
        """Return the policy's list of up to k places, which shows no new item although its place could have one."""
        at = self.at(k, len(slate.arms))
        if at >= len(slate.arms):
            return slate
        propensity = slate.propensity.copy()
        propensity[at] *= 1.0 - self.share
        return replace(slate, propensity=propensity)

    def at(self, k: int, length: int) -> int:
        """Return the place (from 0) of the new item in a list of k places whose other items are `length`."""
        return min(k - 1 if self.place == 0 else self.place - 1, k - 1, length)


def slot_of(shares: "Mapping[Hashable, float]", scorer: "Scorer", share: float, place: int) -> NewItemSlot | None:
    """Return the place for new items over a policy's catalog; None if it has none of them, or the share is 0.

    Args:
        shares: Probabilities by item id; ids that the catalog lacks, or with which the policy was trained, have no
            effect.
        scorer: The policy.
        share: Probability that a list has a new item.
        place: Place of the new item, from 1; 0: the last one.
    """
    probability = np.zeros(len(scorer.action_items))
    for item, chance in shares.items():
        arm = scorer.arm(item)
        if arm is not None and scorer.action_items[arm] >= scorer.artifact.trained_items:
            probability[arm] = chance
    total = probability.sum()
    return NewItemSlot(probability / total, share, place) if share > 0 and total > 0 else None


def add_new_item(
    policy_slate: AnySlate, chance: Array, slot: NewItemSlot, k: int, show: bool, rng: np.random.Generator
) -> AnySlate:
    """Return a list with a new item, or the policy's, with the propensities of the mixture of both.

    Args:
        policy_slate: The policy's list among the other items, of up to k places.
        chance: [A], weights of the new items that may take the place; all 0 leaves the policy's list.
        slot: The place.
        k: Places of a list.
        show: True, with probability `slot.share`: show a new item.
        rng: Randomness of the new item.
    """
    total = chance.sum()
    if not total > 0:
        return policy_slate
    if not show:
        return slot.without_new(policy_slate, k)
    arms, propensity = policy_slate.arms, policy_slate.propensity
    at = slot.at(k, len(arms))
    arm = int(rng.choice(len(chance), p=chance / total))
    arms, propensity = arms[: k - 1], propensity[: k - 1]
    return replace(
        policy_slate, arms=np.insert(arms, at, arm), explored=True, tied=False,
        propensity=np.insert(propensity, at, slot.share * chance[arm] / total),
    )  # fmt: skip


def choose_with_slot(
    score: Array, allowed: Bools, k: int, slot: NewItemSlot, exploration: ExplorationConfig, explored: bool, show: bool,
    rng: np.random.Generator,
) -> Slate:  # fmt: skip
    """Draw the list of one request, as `choose_slate` does, with a place for a new item; score, allowed [A]."""
    others = slot.others(allowed, k)
    slate = choose_slate(score, others, k, exploration, rng, explored)
    return add_new_item(slate, _chance(slot, allowed, others), slot, k, show, rng)


def guard_with_slot(
    score: Array, rating: Array, allowed: Bools, k: int, rails: Guardrails, slot: NewItemSlot,
    exploration: ExplorationConfig, explored: bool, show: bool, rng: np.random.Generator,
) -> GuardedSlate:  # fmt: skip
    """Draw the list of one request, as `guarded_slates` does, with a place for a new item; score, rating, allowed [A].

    The new item takes the last place, if the guardrails leave one there after the items before it.
    """
    base = rails.base_mask(allowed, rating)
    others = slot.others(base, k, rails)
    slate = guarded_slates(
        score[np.newaxis], rating[np.newaxis], others[np.newaxis], k, rails, exploration, rng, np.array([explored])
    )[0]
    return add_guarded(slate, base, others, k, rails, slot, show, rng)


def add_guarded(
    slate: GuardedSlate,
    base: Bools,
    others: Bools,
    k: int,
    rails: Guardrails,
    slot: NewItemSlot,
    show: bool,
    rng: np.random.Generator,
) -> GuardedSlate:
    """Return a list under guardrails with a new item at its end, or the policy's, as `add_new_item` does.

    Args:
        slate: The policy's list among the items that are not new.
        base: [A], items that could take the first place, new ones too.
        others: [A], those among which the policy chose.
        k: Places of a list.
        rails: The guardrails of the list.
        slot: The place; its number has no effect.
        show: True: show a new item.
        rng: Randomness of the new item.
    """
    if not (base & ~others).any():
        return slate
    at = min(k - 1, len(slate.arms))
    _, free = replay_list(base, slate.arms[:at], k, rails)
    last = replace(slot, place=0)
    result = add_new_item(slate, slot.probability * free, last, k, show, rng)
    closed_at, _ = replay_list(base, result.arms[: k - 1], k, rails)
    return replace(result, allowed=base, closed_at=closed_at, reason=_reason(result, len(slate.arms), k))


def _reason(slate: GuardedSlate, before: int, k: int) -> str | None:
    """Return why a list of k places is short, after it got a new item beyond its `before` items."""
    if len(slate.arms) == k or slate.reason is None:
        return None
    return slate.reason.replace(f"{before} of {k} places", f"{len(slate.arms)} of {k} places", 1)


def _chance(slot: NewItemSlot, allowed: Bools, others: Bools) -> Array:
    """Return the weights [A] of the allowed new items; 0 where the policy chooses among all items."""
    return slot.probability * (allowed & ~others)
