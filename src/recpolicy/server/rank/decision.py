"""The decision between the actions of one request: probabilities, a draw, and the order.

A actions that are not excluded, in the order of the request. The probability of an action is exactly that with which
the draw chooses it, and an event is drawn from its id: the same id, policy and request give the same choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Bools
from recpolicy.inference.rank_guardrails import RankGuardrails, no_action_error
from recpolicy.inference.rank_request import Action, draw
from recpolicy.server.db.rank_events import ONLINE
from recpolicy.server.rank.ranker import Ranker


@dataclass(frozen=True)
class Decision:
    """The order of A actions, and their probabilities to be first."""

    order: NDArray[np.intp]  # [A] positions in the request, the chosen one first, the others by score
    probability: NDArray[np.float64]  # [A] in the order of the request; the sum is 1
    score: NDArray[np.float64]  # [A] expected rewards
    closed: Bools  # [A] actions that guardrails close; their probability is 0, and they are the last in the order
    imitated: bool | None = None
    """True if the policy prefers the baseline, which was chosen; None in the mode online."""


def decide(
    policy: Ranker, context: Mapping[str, Any], offers: Sequence[Action], seed: str, mode: str, exploration: float,
    *, strict: bool = True, keys: Sequence[bytes] | None = None, guardrails: RankGuardrails | None = None,
    earlier: Sequence[Action] = (), slots: int = 1,
) -> Decision:  # fmt: skip
    """Choose an action.

    Args:
        policy: The policy.
        context: Features of the context.
        offers: The actions [A].
        seed: The draw depends on it.
        mode: In another mode than online, the first action (the baseline) is chosen with probability 1; under
            guardrails the first that they allow.
        exploration: Share of the draws from all actions alike, in place of the policy.
        strict: Reject features that the policy does not know; False ignores them.
        keys: A digest of the id and the features of each action.
        guardrails: Those of the policy; None: every action may be chosen.
        earlier: The actions of the slots before.
        slots: Number of slots of the request that have an action, or may still get one.

    Raises:
        DataError: The policy does not accept the features.
        NoActionError: The guardrails leave no action.
    """
    probability, score, closed = _open_probabilities(policy, context, offers, strict, keys, guardrails, earlier, slots)
    if mode != ONLINE:
        preferred, baseline = int(np.argmax(probability)), int(np.argmin(closed))
        order = _ordered(baseline, score, closed)
        certain = (np.arange(len(offers)) == baseline).astype(np.float64)
        return Decision(order, certain, score, closed, preferred == baseline)
    probability = (1 - exploration) * probability + exploration * ~closed / (len(offers) - closed.sum())
    probability = probability / probability.sum()
    return Decision(_ordered(draw(probability, seed), score, closed), probability, score, closed)


def _open_probabilities(
    policy: Ranker, context: Mapping[str, Any], offers: Sequence[Action], strict: bool, keys: Sequence[bytes] | None,
    guardrails: RankGuardrails | None, earlier: Sequence[Action], slots: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Bools]:  # fmt: skip
    """Return the policy's probabilities among the actions that the guardrails allow, scores, and the closed actions,
    each [A]."""
    if guardrails is None:
        return *policy.probabilities(context, offers, strict=strict, keys=keys), np.zeros(len(offers), bool)
    closed, causes = guardrails.closed(offers, earlier, slots)
    if closed.all():
        raise no_action_error(causes)

    def probabilities() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        excluded = {offers[at][0] for at in np.flatnonzero(closed)}
        return policy.probabilities(context, offers, excluded, strict=strict, keys=keys)

    probability, score = probabilities()
    low = guardrails.below(score) & ~closed
    if low.any():
        closed = closed | low
        if closed.all():
            raise no_action_error([*causes, f"{low.sum()} below min_reward {guardrails.min_reward:g}"])
        probability, score = probabilities()
    return np.where(closed, 0.0, probability), score, closed


def _ordered(chosen: int, score: NDArray[np.float64], closed: Bools) -> NDArray[np.intp]:
    """Return the positions [A], the chosen one first, the others by falling score, then the closed ones; equal scores
    as requested."""
    order = np.lexsort((-score, closed))
    ordered: NDArray[np.intp] = np.concatenate([[chosen], order[order != chosen]]).astype(np.intp)
    return ordered
